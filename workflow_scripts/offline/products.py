"""Products of float32 matrices on a CPU by oneDNN: torch's own, to the byte, in half the time.

torch multiplies by MKL, which leaves half of AVX-512 unused on a CPU that is not Intel's; oneDNN, which torch has as
well, does not. A number of a product is a sum; MKL adds up BLOCK of its terms one after the other, then the blocks.
oneDNN adds up all of them one after the other, so asked for a block at a time it gives the same bytes, with AVX-512 and
without. Whether that is so on a machine is tried before; where it is not, torch goes on as it is.
"""

import functools
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 192
SAME: dict[int, bool] = {}  # whether products are torch's own, by how many threads torch computes with
SMALL = 16  # of fewer rows or columns MKL makes the sums otherwise
# oneDNN compiles for every size that it meets: these bound how many there are. What is left over is MKL's.
ROWS, TERMS = 64, 32
# rows, terms and columns that are tried: whole blocks and a rest, two halves, less than a block; rows left over
TRIED = ((64, 512, 48), (90, 1000, 64), (128, 352, 32), (64, 250, 96), (128, 192, 64), (100, 31, 20), (SMALL, 400, 16))


def install() -> bool:
    """Let torch multiply so in this process, and in its forks. False if that gains nothing, or gives other bytes.

    It is tried in a fork: a process that computed has threads, or what is left of them, which its forks have not.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    threads = torch.get_num_threads()
    fork = os.fork()
    if fork == 0:
        os._exit(not tried())
    if os.waitpid(fork, 0)[1]:
        return False
    SAME[threads] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that torch has these operators
        operators().impl("mm", mm, "CPU")
        operators().impl("addmm", addmm, "CPU")
    return True


@functools.cache
def operators() -> Any:
    """torch's. They are as given here for as long as this object lives."""
    import torch

    return torch.library.Library("aten", "IMPL")


def same() -> bool:
    """Whether products are torch's own with the threads that it computes with now."""
    import torch

    threads = torch.get_num_threads()
    if threads not in SAME:
        SAME[threads] = tried()
    return SAME[threads]


def tried() -> bool:
    """Try whether products are torch's own here, to the byte."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    for rows, terms, columns in TRIED:
        one, other = torch.randn(rows, terms, generator=numbers), torch.randn(terms, columns, generator=numbers)
        added = torch.randn(columns, generator=numbers)
        for left, right in layouts(one, other):
            if not product(left, right).equal(torch.ops.aten.mm.out(left, right, out=empty(left, right))):
                return False
            own = torch.ops.aten.addmm.out(added, left, right, out=empty(left, right))
            if not product(left, right, added).equal(own):
                return False
    return True


def layouts(one: "Tensor", other: "Tensor") -> "Iterator[tuple[Tensor, Tensor]]":
    """Two matrices, each stored by rows and by columns."""
    for left in (one, one.t().contiguous().t()):
        for right in (other, other.t().contiguous().t()):
            yield left, right


def mm(self: "Tensor", mat2: "Tensor") -> "Tensor":
    """aten::mm."""
    import torch

    if suits(self, mat2):
        return product(self, mat2)
    own: Tensor = torch.ops.aten.mm.out(self, mat2, out=empty(self, mat2))
    return own


def addmm(self: "Tensor", mat1: "Tensor", mat2: "Tensor", *, beta: Any = 1, alpha: Any = 1) -> "Tensor":
    """aten::addmm."""
    import torch

    if alpha == beta == 1 and self.dim() == 1 and self.dtype == mat1.dtype and suits(mat1, mat2):
        return product(mat1, mat2, self)
    own: Tensor = torch.ops.aten.addmm.out(self, mat1, mat2, beta=beta, alpha=alpha, out=empty(mat1, mat2))
    return own


def suits(left: "Tensor", right: "Tensor") -> bool:
    """Whether a product is one of those that were tried."""
    import torch

    return (
        left.dtype == right.dtype == torch.float32
        and left.shape[1] == right.shape[0] > 0
        and left.shape[0] >= ROWS
        and right.shape[1] >= SMALL
        and same()
    )


def empty(left: "Tensor", right: "Tensor") -> "Tensor":
    """A place for the product of two matrices."""
    return left.new_empty(left.shape[0], right.shape[1])


def product(left: "Tensor", right: "Tensor", added: "Tensor | None" = None) -> "Tensor":
    """left (n, k) times right (k, m), plus added (m).

    torch asks oneDNN for float32 only where less precision would do. Without instructions for less (fork_program's
    ONEDNN_MAX_CPU_ISA), oneDNN computes in float32; `same` would see it if not.
    """
    import torch

    rows, terms = left.shape
    most, blocks, rest = plan(rows, terms)
    out = empty(left, right) if added is None else added.expand(rows, right.shape[1]).clone()
    upper = out if most == rows else out[:most]
    first = added is None
    if blocks:
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
        try:
            for some in blocks:
                add_to(upper, left[:most, some], right[some], first)
                first = False
        finally:
            torch._C._set_fp32_precision_setter("mkldnn", "matmul", "none")
    if rest is not None:
        add_to(upper, left[:most, rest], right[rest], first)
    if most < rows:
        add_to(out[most:], left[most:], right, added is None)
    return out


@functools.cache
def plan(rows: int, terms: int) -> tuple[int, list[slice], slice | None]:
    """How many rows oneDNN takes, the blocks of their sums, and what is left of these to MKL.

    The rows that are left over are none, or enough for MKL to make the same sums.
    """
    over = rows % ROWS
    most = rows - over - (ROWS if 0 < over < SMALL else 0)
    block = terms // 2 if BLOCK < terms < 2 * BLOCK else BLOCK
    whole, over = divmod(terms, block)
    if not most or (whole and block % TERMS):
        return 0, [], None
    blocks = [slice(start * block, (start + 1) * block) for start in range(whole)]
    rest = slice(whole * block, terms)
    if over and not over % TERMS:
        return most, [*blocks, rest], None
    return most, blocks, rest if over else None


def add_to(out: "Tensor", left: "Tensor", right: "Tensor", first: bool) -> None:
    """Add left times right to `out`, or write the `first` there."""
    import torch

    if first:
        torch.mm(left, right, out=out)
    else:
        torch.addmm(out, left, right, out=out)
