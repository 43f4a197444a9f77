"""Dropout by a hash: masks as likely and as independent as drawn ones, and the same ones from the same seed."""

import pytest
import torch

from model.dropout import hash_dropout
from model.step_trainer import compile_layers


def dropped(seed: int, module: int = 0, p: float = 0.05, shape: tuple[int, ...] = (1, 300, 512)) -> torch.Tensor:
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1), *(torch.nn.Dropout(p) for _ in range(3))])
    hash_dropout(model).fill_(seed)
    return model[1 + module](torch.ones(shape))


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_elements_fall_with_the_probability_asked_for_and_the_others_make_up_for_it(p):
    result = dropped(-7, p=p)
    count = result.numel()
    error = (p * (1 - p) / count) ** 0.5
    assert abs((result == 0).double().mean().item() - p) < 4 * error
    assert torch.unique(result).tolist() == pytest.approx([0, 1 / (1 - p)])


def test_masks_of_seeds_modules_rows_and_columns_are_independent():
    masks = [dropped(seed, module)[0] == 0 for seed, module in ((1, 0), (2, 0), (1, 1), (2**31 - 1, 2))]
    first = masks[0]
    pairs = [*((first, other) for other in masks[1:]), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])]
    for one, other in pairs:
        both, error = (one & other).double().mean().item(), (0.05**2 / one.numel()) ** 0.5
        assert abs(both - 0.05**2) < 4 * error


def test_the_same_seed_gives_the_same_mask_and_the_backward_pass_uses_it():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3))
    seed = hash_dropout(model).fill_(5)
    x = torch.ones(2, 7, 11, requires_grad=True)
    result = model(x)
    result.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, result.detach())
    assert torch.equal(model(x), result)
    seed.fill_(6)
    assert not torch.equal(model(x), result)


def test_nothing_falls_in_evaluation_and_nothing_is_saved():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3)).eval()
    hash_dropout(model)
    assert torch.equal(model(torch.ones(3, 4)), torch.ones(3, 4)) and not model.state_dict()


def test_floats_of_a_compiled_layer_are_constants_so_that_a_gpus_graph_has_nothing_on_the_cpu(monkeypatch):
    layer = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.LayerNorm(4, eps=1e-5))
    hash_dropout(layer)
    graphs = []

    def compiled(self, dynamic):
        self._compiled_call_impl = torch.compile(self._call_impl, dynamic=dynamic, backend=backend)

    def backend(graph, inputs):
        graphs.append(graph.graph)
        return graph

    monkeypatch.setattr(torch._dynamo.config, "specialize_float", False)
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    compile_layers([layer])
    layer(torch.ones(3, 4))
    given = [node.meta["example_value"] for node in graphs[0].nodes if node.op == "placeholder"]
    assert not [value for value in given if getattr(value, "dtype", None) == torch.float64]
