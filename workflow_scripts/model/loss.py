"""The loss of a pass over concatenated rows, and the proof that it is the model's own.

Logits come from the model's own forward, which alone knows its logit scale, soft cap and whatever follows the last
layer. What is ours is that rows are concatenated and attend inside themselves (packing.py), so every training first
compares that with the plain forward (check_forward).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from model.packing import ALONE, micro_batch, moved, precision, set_attention
from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LOSS_TOKENS = 2048  # labelled positions whose logits exist in float32 at one time: 2,048 x 152,064 is 1.2 GB
# Largest mean difference of a token's loss [nats] that is rounding: docs/bases.md has what was measured
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.2}
CHECKED_TOKENS = 2048  # of a checked row: the model's own attention holds tokens x tokens numbers a head
BEYOND = 256  # tokens of a checked row after a sliding window, if the row has them


def packed_loss(model: Any, micro: dict[str, Any], attention: str, compiled: Any = None) -> "Tensor":
    """Sum of the cross entropies of a micro-batch's labelled tokens, float32 scalar. model: a causal LM.

    compiled: `summed`, compiled, which has no logits in float32.
    """
    from torch.utils.checkpoint import checkpoint

    logits = labelled_logits(model, micro, attention)
    if compiled is not None:
        return compiled(logits, micro["targets"])
    if len(logits) <= LOSS_TOKENS:
        return summed(logits, micro["targets"])
    parts = zip(logits.split(LOSS_TOKENS), micro["targets"].split(LOSS_TOKENS), strict=True)
    return sum(checkpoint(summed, *part, use_reentrant=False, preserve_rng_state=False) for part in parts)


def labelled_logits(model: Any, micro: dict[str, Any], attention: str) -> "Tensor":
    """(K, vocabulary) logits of a micro-batch's labelled tokens, by the model's own forward."""
    extra = {name: micro[name] for name in ("starts", "longest", "spread", "gather")} if attention == "packed" else {}
    return model(
        input_ids=micro["input_ids"],
        position_ids=micro["position_ids"],
        use_cache=False,
        logits_to_keep=micro["predictors"],
        **extra,
    ).logits[0]


def summed(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """Summed cross entropy, in float32."""
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def check_forward(model: "PreTrainedModel", rows: Sequence[Sequence[int]], attention: str, dtype: str) -> float:
    """The mean difference of a token's loss [nats], of the longest row and another one, in one pass and each alone.

    In one pass as they are trained, with `attention`; alone with the plain forward, in the eager attention of the
    model's own code. rows: token ids, of which one at least has two; model: as loaded, without an adapter. Raises
    InputError if the difference is above TOLERANCE, or the forward cannot be computed so.
    """
    import torch

    kind = f"{model.config.model_type}: training in {attention} attention"
    chosen = checked_rows(model, rows)
    own = model.config._attn_implementation
    model.eval()
    try:
        with torch.no_grad(), precision(model.device.type, dtype):
            model.set_attn_implementation("eager")
            expected = [plain_losses(model, row) for row in chosen]
            model.set_attn_implementation(own)
            set_attention(model, attention)
            losses = list(trained_losses(model, chosen, attention))
            model.set_attn_implementation(own)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"{kind} is not possible ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            "fix: use a base that docs/bases.md lists"
        ) from error
    fix = "" if attention == ALONE else f"hardware: {{attention: {ALONE}}} (slower), or "
    difference = max((ours - theirs).abs().mean().item() for ours, theirs in zip(losses, expected, strict=True))
    if not difference <= TOLERANCE[dtype]:
        raise InputError(
            f"{kind} gives another loss than the model's own forward: {difference:.2g} nats a token, where rounding in "
            f"{dtype} stays below {TOLERANCE[dtype]}; fix: {fix}a base that docs/bases.md lists"
        )
    return difference


def checked_rows(model: "PreTrainedModel", rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Another row and the longest one, cut where more tokens could show nothing new."""
    window = getattr(model.config, "sliding_window", None) or 0
    longest, *others = sorted((row for row in rows if len(row) > 1), key=len, reverse=True)
    other = others[len(others) // 2] if others else longest
    return [list(row[: max(CHECKED_TOKENS, window + BEYOND)]) for row in (other, longest)]


def plain_losses(model: "PreTrainedModel", row: list[int]) -> "Tensor":
    """(T - 1,) the loss of every token but the first, by the plain forward."""
    import torch

    ids = torch.tensor([row], device=model.device)
    return each(model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])


def trained_losses(model: "PreTrainedModel", rows: Sequence[list[int]], attention: str) -> "Iterator[Tensor]":
    """The same of each row, computed as it is trained, with every token labelled."""
    groups = [[row] for row in rows] if attention == ALONE else [rows]
    for group in groups:
        micro = moved(micro_batch([(row, row) for row in group]), model.device)
        losses = each(labelled_logits(model, micro, attention), micro["targets"])
        yield from losses.split([len(row) - 1 for row in group])


def each(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """The cross entropy of every token, in float32."""
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
