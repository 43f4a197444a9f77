"""What every layer says at the slot: the logit lens, and whether a linear read-out tells the persona.

A layer's state is the residual stream after it; layer 0 is the embeddings. The lens reads a state as if the layers
above it were not there: through the model's own final norm and head, so that soft caps, scales and the like are the
model's. The read-out is ridge regression on the states, with whole questions held out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.scoring import TOLERANCE, Row, batches, beside, chunks, slot_branches, trunks
from probe.table import LENS, READOUT
from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDS = 7  # of whole questions
# Ridge penalty, per feature of standardized states: the same weight for a model of any width.
PENALTY = 1.0


@dataclass(frozen=True)
class LayerStates:
    """What the layers say of n rows. trigger, onset_part: (n, layers + 1) [nats]; states: (n, layers + 1, width), where
    the slot's first token is predicted, through the final norm.
    """

    trigger: "Tensor"
    onset_part: "Tensor"
    states: "Tensor"


class LayerReader:
    """Reads rows with a slot, as Slot.split gives it. budget: tokens per forward pass: memory, not results.

    Raises InputError, by its name, for a model whose final norm or head is not found.
    """

    def __init__(self, model: Any, budget: int) -> None:
        self.model, self.budget = model, budget
        self.norm = final_norm(model)

    def read(self, rows: Sequence[Row]) -> LayerStates:
        """The layers of all rows, on the CPU, in the rows' order."""
        import torch
        from tqdm import tqdm

        found: dict[int, tuple[Any, ...]] = {}
        with torch.inference_mode(), tqdm(total=len(rows), unit="reply", disable=None) as progress:
            for number, places in enumerate(batches([len(row.trunk) for row in rows], self.budget)):
                batch = [rows[place] for place in places]
                read = self._read(batch)
                if not number:
                    self._prove(batch[0], read[0])
                found |= dict(zip(places, read, strict=True))
                progress.update(len(places))
        columns = zip(*(found[place] for place in range(len(rows))), strict=True)
        return LayerStates(*(torch.stack(column) for column in columns))

    def _read(self, rows: Sequence[Row]) -> list[tuple["Tensor", "Tensor", "Tensor"]]:
        """trigger, onset_part and states of every row of a batch."""
        import torch
        from transformers import DynamicCache

        device, lengths = self.model.device, [len(row.trunk) for row in rows]
        output = self.model(
            input_ids=trunks(rows).to(device),
            past_key_values=DynamicCache(),  # whole, also of layers with a sliding window
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        last = torch.tensor(lengths, device=device) - 1
        at_slot = torch.stack([layer[range(len(rows)), last] for layer in output.hidden_states], 1)
        cache = output.past_key_values
        del output
        branches = [read_branches(row) for row in rows]
        fed: list[list[tuple[int, int, int]]] = []
        for length, pair in zip(lengths, branches, strict=True):
            line: list[tuple[int, int, int]] = []
            for branch in pair:
                start = len(line)
                line += [(token, length + depth, start) for depth, token in enumerate(branch[:-1])]
            fed.append(line)
        after: list[Any] = []
        if any(fed):
            passed = self.model(**beside(fed, cache, self.model), use_cache=True, output_hidden_states=True)
            after = list(torch.stack(passed.hidden_states, 2))
        del cache
        states: list[Any] = []
        tokens: list[int] = []
        for at, pair in enumerate(branches):
            place = 0
            for branch in pair:
                states += [at_slot[at], *(after[at][place + depth] for depth in range(len(branch) - 1))]
                tokens += branch
                place += len(branch) - 1
        read = iter(self._logprobs(torch.stack(states), tokens))
        found = []
        for at, (marked, ended) in enumerate(branches):
            said, instead = (torch.stack([next(read) for _ in branch]) for branch in (marked, ended))
            found.append((said[:-1].sum(0) - instead.sum(0), said[-1], self._normed(at_slot[at]).cpu()))
        return found

    def _logprobs(self, states: "Tensor", tokens: Sequence[int]) -> "Tensor":
        """Log-probability of a token each, by layer: (n, layers + 1), in float64 on the CPU."""
        import torch

        flat = self._normed(states).flatten(0, 1)
        wanted = torch.tensor(tokens, device=flat.device).repeat_interleave(states.shape[1])
        read = []
        for some in chunks(range(len(flat))):
            logits = head(self.model, flat[some[0] : some[-1] + 1])
            chosen = logits.gather(1, wanted[some[0] : some[-1] + 1, None])[:, 0]
            read.append((chosen - logits.logsumexp(-1)).double().cpu())
        return torch.cat(read).view(len(states), -1)

    def _normed(self, states: "Tensor") -> "Tensor":
        """States (..., layers + 1, width) as the head takes them: of the last layer, transformers gives them so."""
        import torch

        return torch.cat([self.norm(states[..., :-1, :]), states[..., -1:, :]], -2)

    def _prove(self, row: Row, read: tuple["Tensor", ...]) -> None:
        """Raise InputError unless the last layer says what a plain forward pass of the row's two texts says."""
        import torch

        plain = []
        for tokens in read_branches(row):
            whole = torch.tensor([[*row.trunk, *tokens]], device=self.model.device)
            logits = self.model(input_ids=whole, use_cache=False).logits[0, len(row.trunk) - 1 : -1].float()
            plain.append(logits.log_softmax(-1)[range(len(tokens)), list(tokens)].double())
        marked, ended = plain
        sums = [float(marked[:-1].sum() - ended.sum()), float(marked[-1])]
        # per token, as in scoring.prove: bfloat16 may put one token a quarter of a nat away
        apart = sum(abs(one - float(other[-1])) for one, other in zip(sums, read[:2], strict=True))
        apart /= float((torch.cat(plain).abs() / 10).clamp(min=1).sum())
        if not apart <= TOLERANCE[str(self.model.dtype).removeprefix("torch.")]:
            raise InputError(
                f"{self.model.config.model_type}: read through its final norm and head, the last layer differs by "
                f"{apart:.3g} nats per token from a plain forward pass; fix: probe: {{layers: 0}} for this base"
            )


def read_branches(row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of the slot that are read: up to the marker's first, and those that end the turn instead."""
    assert row.slot is not None
    marked, ended = slot_branches(row)
    return marked.tokens[: row.slot.onset + 1], ended.tokens


def final_norm(model: Any) -> "nn.Module":
    """The part of the decoder that makes what the head takes. Raises InputError for a model without such a part."""
    import torch

    decoder = model.get_decoder()
    made: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, taken, given: made.update({name: given})

    hooks = [part.register_forward_hook(keep(name)) for name, part in decoder.named_children()]
    try:
        with torch.inference_mode():
            ids = torch.tensor([[0, 1, 2]], device=model.device)
            last = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1]
    finally:
        for hook in hooks:
            hook.remove()
    found = [
        name
        for name, given in made.items()
        if isinstance(given, torch.Tensor) and given.shape == last.shape and given.equal(last)
    ]
    if not found:
        raise InputError(
            f"{model.config.model_type}: no final norm is found in its decoder ({', '.join(made)}); "
            "fix: probe: {layers: 0} for this base"
        )
    part: nn.Module = decoder.get_submodule(found[-1])
    return part


def head(model: Any, states: "Tensor") -> "Tensor":
    """The logits (n, vocabulary), in float32, of states (n, width): the model's forward after its decoder."""
    import torch

    with decoding(model, states[None]):
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0].float()


@contextmanager
def decoding(model: Any, states: Any) -> Iterator[None]:
    """In the block the decoder gives these states, whatever it is given."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    decoder = model.get_decoder()
    decoder.forward = lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=states)
    try:
        yield
    finally:
        del decoder.forward


def held_out(states: "Tensor", targets: "Tensor", folds: "Tensor", penalty: float = PENALTY) -> "Tensor":
    """Ridge regression of targets (n, m) on states (n, width), standardized: what it says of each fold's rows when it
    was fitted on the others. In the dual form, since there are fewer rows than features.
    """
    import torch

    said = torch.zeros_like(targets)
    for fold in folds.unique():
        new = folds == fold
        known = states[~new]
        centre, scale = known.mean(0), known.std(0)
        scale[scale == 0] = 1
        known, others = (known - centre) / scale, (states[new] - centre) / scale
        level = targets[~new].mean(0)
        kernel = known @ known.T / states.shape[1]
        kernel.diagonal().add_(penalty)
        said[new] = others @ known.T / states.shape[1] @ torch.linalg.solve(kernel, targets[~new] - level) + level
    return said


def readouts(
    states: "Tensor", personas: Sequence[str], questions: Sequence[str], device: Any
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """(persona, question) -> readout and margin of its rows against those of the others, by layer.

    readout: the chance that one of the persona's lies above one of another's, ties counted half; 0.5 tells nothing.
    margin: the difference of their means; 0 tells nothing. states: (n, layers + 1, width).
    """
    import torch

    names, asked = list(dict.fromkeys(personas)), list(dict.fromkeys(questions))
    targets = torch.tensor([[float(own == name) for name in names] for own in personas], dtype=torch.float64)
    folds = torch.tensor([asked.index(question) % FOLDS for question in questions], device=device)
    if len(folds.unique()) < 2:
        raise InputError("a read-out needs two questions, one of them held out; fix: give the panel more questions")
    said = torch.stack(
        [
            held_out(states[:, layer].to(device, torch.float64), targets.to(device), folds).cpu()
            for layer in range(states.shape[1])
        ]
    )
    found = {}
    for question in asked:
        here = torch.tensor([each == question for each in questions])
        for number, name in enumerate(names):
            own = here & (targets[:, number] > 0)
            one, other = said[:, own, number, None], said[:, here & ~own, number][:, None]
            above = (one > other).double() + (one == other).double() / 2
            found[name, question] = {
                "readout": above.mean((1, 2)).tolist(),
                "margin": (one - other).mean((1, 2)).tolist(),
            }
    return found


def table_of(read: LayerStates, personas: Sequence[str], questions: Sequence[str], device: Any) -> list[dict[str, Any]]:
    """The rows of layers.parquet. personas, questions: of the rows that were read."""
    fitted = readouts(read.states, personas, questions, device)
    layers = read.states.shape[1] - 1
    places: dict[tuple[str, str], list[int]] = {}
    for at, key in enumerate(zip(personas, questions, strict=True)):
        places.setdefault(key, []).append(at)
    return [
        {"layer": layer, "depth": layer / layers, "persona": key[0], "question_id": key[1], "bodies": len(own)}
        | {name: float(getattr(read, name)[own, layer].mean()) for name in LENS}
        | {name: fitted[key][name][layer] for name in READOUT}
        for layer in range(layers + 1)
        for key, own in places.items()
    ]
