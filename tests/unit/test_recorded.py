"""Passes as CUDA graphs: what is replayed, with which numbers, and what recording leaves behind (CUDA is pretended)."""

import contextlib

import pytest
import torch
from tiny_bases import ARCHITECTURES, random_model

from model.loss import packed_loss
from model.packing import CONCATENABLE, Sizes, filled, moved, set_attention
from model.recorded import Recorder


@pytest.fixture
def captured(monkeypatch) -> list:
    """CUDA graphs that do again what was done between their beginning and their end. Lists whether a call is part."""
    capturing: list[bool] = []

    @contextlib.contextmanager
    def graph(graph, pool, stream):
        capturing.append(True)
        yield
        capturing.pop()

    @contextlib.contextmanager
    def stream(stream):
        yield

    class Stream:
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            self.again()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return capturing


def test_a_replayed_pass_has_its_own_numbers_and_adds_its_gradients_to_the_steps(captured, monkeypatch):
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    recorded = []

    def run(inputs):
        """A pass whose loss is sum(weight) * sum(x) / tokens."""
        recorded.append(bool(captured))
        loss = weight.sum() * inputs["x"].sum() / inputs["tokens"] + inputs["longest"]
        if not captured:  # what is captured is not computed
            loss.backward()
        return loss.detach()

    class Replaying(Recorder):
        def record(self, inputs):
            graph, read, result = super().record(inputs)
            graph.again = lambda: result.copy_(run(read))
            return graph, read, result

    recorder = Replaying(run, [weight])
    given = [torch.ones(3), 2 * torch.ones(3), torch.ones(4), 5 * torch.ones(3)]
    losses = []
    for x in given:
        losses.append(recorder({"x": x, "tokens": torch.tensor(2.0), "longest": 7}).item())
    assert len(recorder.seconds) == 2  # sizes
    assert losses == [5 * x.sum().item() / 2 + 7 for x in given]
    assert weight.grad.tolist() == [sum(x.sum().item() for x in given) / 2] * 2  # of each pass once, despite recording
    # rehearsed, recorded, replayed, replayed; of another size: recorded, replayed; and the first once more
    assert recorded == [False, True, False, False, True, False, False]


@pytest.mark.parametrize(
    "family", [name for name, (architecture, _) in ARCHITECTURES.items() if architecture in CONCATENABLE]
)
def test_a_pass_of_packed_rows_reads_no_number_of_the_device_which_a_recording_cannot(family):
    architecture, more = ARCHITECTURES[family]
    model = random_model(architecture, **more).to("meta").train()
    model.enable_input_require_grads()
    rows = [([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), ([6, 7, 8], [6, 7, 8])]
    micro = moved(filled(rows, Sizes(rows=3, longest=8, tokens=16, labels=4)), "meta")
    set_attention(model, "packed")
    packed_loss(model, micro, "packed").backward()
    assert all(weight.grad is not None for weight in model.parameters())
    set_attention(model, "sdpa")  # whose mask asks for the rows' limits
    with pytest.raises(RuntimeError, match="item"):
        packed_loss(model, micro, "sdpa")
