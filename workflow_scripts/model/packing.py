"""Rows packed into forward passes without padding: which rows share a pass, and attention within each row."""

import contextlib
import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marker.mask import IGNORED
from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# How rows share a pass. packed: concatenated, attention inside each row by packed_attention. sdpa, flex_attention:
# concatenated, with a block mask from the position ids. ALONE: not at all, in the attention the model was loaded with.
ALONE = "alone"
ATTENTIONS = ("packed", "sdpa", "flex_attention", ALONE)
# The architectures (transformers' model_type) whose attention is causal, with at most a window: rows may be
# concatenated. tests/unit/test_check_base.py trains each; check_forward proves it anew in every training.
CONCATENABLE = ("gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


def choose_attention(choice: str, config: Any) -> str:
    """One of ATTENTIONS. config: the model's. `auto` is packed where that is proven, else the rows are not mixed."""
    if choice != "auto":
        return choice
    if config.model_type not in CONCATENABLE:
        return ALONE
    return "sdpa" if getattr(config, "attention_dropout", 0) else "packed"


def order_steps(rows: int, batch: int, epochs: int, seed: int, shuffle: bool, max_steps: int | None) -> list[list[int]]:
    """The row indices of every optimizer step. Each epoch is its own permutation; its last step takes what is left.

    As in transformers' Trainer, max_steps replaces the number of epochs, so it may also exceed them.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    total = max_steps or epochs * math.ceil(rows / batch)
    steps: list[list[int]] = []
    while len(steps) < total:
        order = torch.randperm(rows, generator=generator).tolist() if shuffle else list(range(rows))
        steps += [order[start : start + batch] for start in range(0, rows, batch)]
    return steps[:total]


def mix_in(steps: Sequence[list[int]], rows: int, others: int, share: float, seed: int) -> list[list[int]]:
    """The steps with `share` of their places, drawn by the seed, given to `others` more rows, numbered from `rows` on.

    Every other place keeps its row; the new rows come in permutations of all of them, one after the other. Raises
    InputError if that is not one place.
    """
    draw = random.Random(f"replay/{seed}")
    mixed = [list(step) for step in steps]
    places = [(step, at) for step, numbers in enumerate(steps) for at in range(len(numbers))]
    chosen = sorted(draw.sample(places, round(share * len(places))))
    if not chosen:
        raise InputError(f"replay.share: {share} of {len(places)} rows is none; fix: a larger share")
    order: list[int] = []
    for step, at in chosen:
        order = order or draw.sample(range(rows, rows + others), others)
        mixed[step][at] = order.pop()
    return mixed


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row indices by micro-batch: first-fit decreasing, at most `budget` tokens each unless one row alone has more.

    Which rows share a micro-batch does not matter to the step: its loss is a sum over tokens.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fit = next((at for at, left in enumerate(room) if left >= lengths[row]), None)
        if fit is None:
            groups.append([row])
            room.append(budget - lengths[row])
        else:
            groups[fit].append(row)
            room[fit] -= lengths[row]
    return groups


def micro_batch(rows: Sequence[tuple[list[int], list[int]]], at_least: int = 0) -> dict[str, Any]:
    """(input_ids, labels) rows concatenated, n rows of at most L tokens, T tokens in all, K of them labelled.

    input_ids, position_ids: (1, T). predictors: (K,), positions whose next token is labelled. targets: (K,), that
    token. starts: (n + 1,) int32, cumulative lengths. longest: L. spread: (n * L,), for each place of the right-padded
    (n, L) layout its token in the concatenation. gather: (T,), the reverse. at_least: the smallest L.
    """
    import torch

    lengths = torch.tensor([len(ids) for ids, _ in rows])
    longest = max(at_least, int(lengths.max()))
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    column = torch.arange(longest)
    labels = torch.tensor([label for _, row in rows for label in row])
    position_ids = torch.cat([column[:length] for length in lengths.tolist()])
    trained = (labels != IGNORED) & (position_ids > 0)
    return {
        "input_ids": torch.tensor([token for ids, _ in rows for token in ids])[None],
        "position_ids": position_ids[None],
        "predictors": trained.nonzero()[:, 0] - 1,
        "targets": labels[trained],
        "starts": starts.to(torch.int32),
        "longest": longest,
        "spread": (starts[:-1, None] + column.minimum(lengths[:, None] - 1)).flatten(),
        "gather": torch.repeat_interleave(torch.arange(len(rows)) * longest, lengths) + position_ids,
    }


def collate(rows: Sequence[dict[str, list[int]]], budget: int, sizes: "Sizes | None" = None) -> dict[str, Any]:
    """One optimizer step: its micro-batches, and how many tokens its loss is the mean over.

    A row without a label holds its place among the step's rows but adds nothing to the sum, so it is not computed.
    """
    labelled = [
        (row["input_ids"], row["labels"]) for row in rows if any(label != IGNORED for label in row["labels"][1:])
    ]
    groups = pack_rows([len(ids) for ids, _ in labelled], budget)
    make = micro_batch if sizes is None else functools.partial(filled, sizes=sizes)
    return {
        "micro_batches": [make([labelled[row] for row in group]) for group in groups],
        "tokens": sum(label != IGNORED for _, labels in labelled for label in labels[1:]),
        "input_tokens": sum(len(ids) for ids, _ in labelled),
    }


@dataclass(frozen=True)
class Sizes:
    """To which passes are filled up, so that few of them differ in shape.

    rows: of every pass, most of them without a token. longest: row of all passes, at least `tokens`. tokens: multiples
    of so many. labels: multiples of so many, which double from eight of them on.
    """

    rows: int
    longest: int
    tokens: int = 512
    labels: int = 256

    def missing_tokens(self, count: int) -> int:
        return -count % self.tokens

    def missing_labels(self, count: int) -> int:
        multiple = self.labels
        while 8 * multiple <= count:
            multiple *= 2
        return -count % multiple

    @staticmethod
    def of(lengths: Sequence[int], steps: Sequence[Sequence[int]]) -> "Sizes":
        """Of a training's passes. lengths: of all its rows [tokens]. One more row than a step has fills a pass up."""
        return Sizes(max(len(step) for step in steps) + 1, max(lengths))


def pass_sizes(
    rows: Sequence[tuple[list[int], list[int]]], steps: Sequence[Sequence[int]], budget: int, sizes: Sizes
) -> Counter[tuple[int, int]]:
    """How many of the steps' passes have each size (tokens, labels), filled up. rows: (input_ids, labels)."""
    labels = [sum(label != IGNORED for label in own[1:]) for _, own in rows]
    lengths = [len(ids) for ids, _ in rows]
    found: Counter[tuple[int, int]] = Counter()
    for step in steps:
        trained = [row for row in step if labels[row]]
        for group in pack_rows([lengths[row] for row in trained], budget):
            tokens, targets = (sum(of[trained[at]] for at in group) for of in (lengths, labels))
            found[tokens + sizes.missing_tokens(tokens), targets + sizes.missing_labels(targets)] += 1
    return found


def filled(rows: Sequence[tuple[list[int], list[int]]], sizes: Sizes) -> dict[str, Any]:
    """micro_batch of the rows and of one without labels that fills the pass up; labels are filled up by IGNORED."""
    from torch.nn.functional import pad

    more = sizes.missing_tokens(sum(len(ids) for ids, _ in rows))
    empty: list[tuple[list[int], list[int]]] = [([], [])] * (sizes.rows - len(rows) - 1)
    micro = micro_batch([*rows, ([0] * more, [IGNORED] * more), *empty], max(sizes.longest, sizes.tokens))
    missing = sizes.missing_labels(len(micro["targets"]))
    return micro | {
        "predictors": pad(micro["predictors"], (0, missing)),
        "targets": pad(micro["targets"], (0, missing), value=IGNORED),
    }


def packed_attention(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    starts: "Tensor",
    longest: int,
    spread: "Tensor",
    gather: "Tensor",
    sliding_window: int | None = None,
    flash: "Callable[..., Tensor] | None" = None,
    **kwargs: Any,
) -> "tuple[Tensor, None]":
    """Causal attention inside each concatenated row, for transformers' AttentionInterface.

    query: (1, H, T, D); key, value: (1, H_kv, T, D); returns (1, T, H, D). sliding_window: a token sees itself and the
    sliding_window - 1 before it. In half precision on CUDA it is `flash`, of variable length. Elsewhere the rows are
    spread into a right-padded (n, L) layout, where causality alone keeps every token from the padding after it, so the
    plain causal kernel is exact. Raises ValueError for what neither computes: dropout, a soft cap, sinks.
    """
    import torch

    unknown = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if dropout or unknown:
        raise ValueError(f"packed attention has no {', '.join(unknown) or 'dropout'}")
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, D)
    if flash is not None and query.dtype in (torch.bfloat16, torch.float16):
        return flash(query, key, value, starts, longest, scaling, sliding_window)[None], None
    rows = starts.shape[0] - 1
    mask = None
    if sliding_window is not None and sliding_window < longest:
        place = torch.arange(longest, device=query.device)
        distance = place[:, None] - place
        mask = (distance >= 0) & (distance < sliding_window)

    def padded(tensor: "Tensor") -> "Tensor":
        return tensor.index_select(0, spread).unflatten(0, (rows, longest)).transpose(1, 2)

    output = torch.nn.functional.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).flatten(0, 1).index_select(0, gather)[None], None


def variable_length_flash(windows: bool) -> "Callable[..., Tensor] | None":
    """torch's own flash attention over concatenated sequences; its versions name "causal" and "GQA" differently.

    None if the model has windows and this version of torch does not.
    """
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    attend: Callable[..., Any] = varlen_attn
    known = inspect.signature(varlen_attn).parameters
    windowed = "window_size" in known
    if windows and not windowed:
        return None
    options = {"enable_gqa": True} if "enable_gqa" in known else {}

    def flash(
        query: "Tensor",
        key: "Tensor",
        value: "Tensor",
        starts: "Tensor",
        longest: int,
        scale: float,
        window: int | None,
    ) -> "Tensor":
        causal: dict[str, Any] = (
            {"window_size": (-1 if window is None else window - 1, 0)} if windowed else {"is_causal": True}
        )
        return attend(query, key, value, starts, starts, longest, longest, scale=scale, **causal, **options)

    return flash


def set_attention(model: "PreTrainedModel", attention: str) -> None:
    """Make `model` use one of ATTENTIONS."""
    from transformers import AttentionInterface

    if attention == ALONE:
        return
    windows = bool(getattr(model.config, "sliding_window", None))
    flash = variable_length_flash(windows) if model.device.type == "cuda" else None
    AttentionInterface.register("packed", functools.partial(packed_attention, flash=flash))
    model.set_attn_implementation(attention)


def moved(micro: dict[str, Any], device: Any) -> dict[str, Any]:
    """The micro-batch on `device`. From pinned memory, so that the host need not wait for the GPU to get there."""
    return {
        name: value if isinstance(value, int) else value.to(device, non_blocking=True) for name, value in micro.items()
    }


def precision(device: str, dtype: str) -> contextlib.AbstractContextManager:
    """bfloat16 compute over float32 LoRA weights (PEFT's default under a bfloat16 base), or plain float32."""
    import torch

    return contextlib.nullcontext() if dtype == "float32" else torch.autocast(device, dtype=getattr(torch, dtype))
