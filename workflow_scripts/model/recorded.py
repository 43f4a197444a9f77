"""Passes of a small model as CUDA graphs: recorded once per size, then replayed by one launch.

The kernels of a small model's pass take less time than the host needs to launch them one by one. A recorded pass asks
for fixed sizes and addresses: its tokens and labels are filled up to a multiple of a size (packing.collate), its inputs
are copied to where the recording reads them, and gradients are added in place.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor

# [s] of a decoder layer and pass, compiled or not: what the host takes to launch its kernels, forward and backward.
# .141 to .179 s per pass through 24 to 30 compiled layers, .303 s through 30 not compiled (benchmarks/README.md).
LAUNCHES = {True: 0.0045, False: 0.01}
RECORDING = 0.033  # [s] of a layer and size: 1 s at 30 layers
WORK = 4e14  # FLOP/s of recorded passes: 3.4e14 at 1.5 B parameters, 4.3e14 at 7.6 B
ARCHITECTURES = ("llama", "qwen2")  # transformers' model_type, of models whose passes were recorded on a card


def seconds_saved(passes: Mapping[tuple[int, int], int], layers: int, parameters: int, compiled: bool) -> float:
    """What recording saves in a training, less what it costs [s]. passes: how many, by (tokens, labels).

    4 FLOP a weight and token: forward, and backward to the inputs alone, as the weights of a LoRA's base have no
    gradient. Recorded or not, the device takes that long.
    """

    def launches_alone(tokens: int) -> float:
        return max(0.0, layers * LAUNCHES[compiled] - 4 * parameters * tokens / WORK)

    saved = sum(count * launches_alone(tokens) for (tokens, _), count in passes.items())
    return saved - len(passes) * layers * RECORDING


def zero_gradients(weights: "Sequence[Tensor]") -> None:
    """Set gradients to zero where they are, since recorded passes add to these very tensors."""
    import torch

    torch._foreach_zero_([weight.grad for weight in weights if weight.grad is not None])


class Recorder:
    """Calls `run`, which adds a pass's gradients to the weights', through CUDA graphs.

    run: takes tensors by name, which may differ from call to call in the numbers alone, and ints, which may not; waits
    for nothing on the device; returns a tensor. trained: the weights, which have gradients from now on.
    """

    def __init__(self, run: "Callable[[dict[str, Any]], Tensor]", trained: "Sequence[Tensor]"):
        import torch

        self.run, self.trained = run, trained
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        self.recorded: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, Any], Tensor]] = {}
        self.seconds: list[float] = []  # of each recording, which compiles if that was not done before
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, inputs: dict[str, Any]) -> "Tensor":
        """What `run` returns, on the device, overwritten by the next call."""
        size = tuple(tuple(value.shape) for value in inputs.values() if not isinstance(value, int))
        if size not in self.recorded:
            self.recorded[size] = self.record(inputs)
        graph, read, result = self.recorded[size]
        for name, value in inputs.items():
            if not isinstance(value, int):
                read[name].copy_(value, non_blocking=True)
        graph.replay()
        return result

    def record(self, inputs: dict[str, Any]) -> "tuple[Any, dict[str, Any], Tensor]":
        """The graph, the inputs that it reads and what it returns.

        The first size runs once before, which compiles and finds what the device must be asked for; later ones do not,
        since a run of its own takes as much memory again as a recording, and that is of all sizes together.
        """
        import torch

        torch.cuda.synchronize()
        began = time.perf_counter()
        device = self.trained[0].device
        read = {
            name: value if isinstance(value, int) else value.to(device, copy=True) for name, value in inputs.items()
        }
        if not self.recorded:
            self.rehearse(read)
        gc.collect()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = self.run(read)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):  # which ending the capture may hide
                raise error.__context__ from None
            raise InputError(
                f"a pass cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); "
                "fix: hardware: {cuda_graphs: never}"
            ) from error
        torch.cuda.synchronize()
        self.seconds.append(round(time.perf_counter() - began, 3))
        return graph, read, result

    def rehearse(self, inputs: dict[str, Any]) -> None:
        """A run that leaves nothing: the gradients are as before."""
        import torch

        gradients = [weight.grad.clone() for weight in self.trained if weight.grad is not None]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.run(inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        for weight, gradient in zip(self.trained, gradients, strict=True):
            assert weight.grad is not None
            weight.grad.copy_(gradient)
