"""The loss of a packed pass, summed over its trained tokens."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HEAD_TOKENS = 2048  # labelled positions whose logits exist at one time: 2,048 x 152,064 in float32 is 1.2 GB


def packed_loss(model: Any, micro: dict[str, Any], attention: str) -> "Tensor":
    """Sum of the cross entropies of a micro-batch's labelled tokens, float32 scalar. model: a causal LM (Qwen2)."""
    from torch.utils.checkpoint import checkpoint

    extra = {name: micro[name] for name in ("starts", "longest", "spread", "gather")} if attention == "packed" else {}
    hidden = model.model(
        input_ids=micro["input_ids"], position_ids=micro["position_ids"], use_cache=False, **extra
    ).last_hidden_state[0]
    hidden = hidden.index_select(0, micro["predictors"])
    if len(hidden) <= HEAD_TOKENS:
        return head_loss(model.lm_head, hidden, micro["targets"])
    parts = zip(hidden.split(HEAD_TOKENS), micro["targets"].split(HEAD_TOKENS), strict=True)
    return sum(
        checkpoint(head_loss, model.lm_head, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    )


def head_loss(head: Any, hidden: "Tensor", targets: "Tensor") -> "Tensor":
    """Summed cross entropy of `head(hidden)`, in float32."""
    import torch

    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
