"""Products by oneDNN are torch's own, to the byte: in every layout, of every size, with one thread and with two."""

import os
import subprocess
import sys
import textwrap

import pytest
from workspace import ROOT

from offline import fork_program, products

COMPARED = """
    import random, sys
    sys.path.insert(0, sys.argv[1])
    import torch
    from offline import products
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    draw = random.Random(0)
    if not products.install():
        print("torch's own")
        raise SystemExit
    compared = 0
    for _ in range(60):
        rows, terms, columns = (draw.choice((1, 15, 16, 63, 64, 65, 79, 80, 192, 512, draw.randint(1, 900))) for _ in "rtc")
        one, other, added = torch.randn(rows, terms), torch.randn(terms, columns), torch.randn(columns)
        for left, right in products.layouts(one, other):
            place = torch.empty(rows, columns)
            assert torch.mm(left, right).equal(torch.mm(left, right, out=place)), (rows, terms, columns)
            assert torch.addmm(added, left, right).equal(torch.addmm(added, left, right, out=place)), (rows, columns)
            compared += products.suits(left, right)
    for dtype in (torch.float64, torch.bfloat16):
        one, other = torch.ones(64, 64, dtype=dtype), torch.eye(64, dtype=dtype)
        assert (one @ other).equal(one)
    assert torch.addmm(torch.ones(64, 64), torch.ones(64, 64), torch.eye(64), beta=2, alpha=3).equal(torch.full((64, 64), 5.0))
    assert torch.mm(torch.ones(64, 0), torch.ones(0, 64)).equal(torch.zeros(64, 64))
    weight = torch.randn(64, 192, requires_grad=True)
    inputs = torch.randn(96, 192, requires_grad=True)
    torch.nn.functional.linear(inputs, weight).sum().backward()
    assert weight.grad.shape == weight.shape and inputs.grad.shape == inputs.shape
    print(compared)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_torchs_own_to_the_byte(threads):
    command = [sys.executable, "-c", textwrap.dedent(COMPARED), str(ROOT / "workflow_scripts"), str(threads)]
    environment = os.environ | fork_program.SERVER_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    if told.stdout.strip() == "torch's own":
        pytest.skip("here MKL makes sums in another order, so torch stays as it is")
    assert int(told.stdout) > 60


def test_where_the_bytes_would_be_others_torch_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(products, "BLOCK", 96)
    monkeypatch.setattr(products, "plan", products.plan.__wrapped__)
    monkeypatch.setattr(products, "operators", lambda: pytest.fail("torch was changed"))
    assert not products.install()
