"""A model is its lineage: load the base, then merge the adapters of its ancestors in order."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from records import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(base: str | Path) -> "PreTrainedTokenizerBase":
    """The base model's tokenizer. Raises InputError if it is missing or has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{base}: no usable tokenizer ({first_line(error)}); fix: point base.path at a complete model folder"
        ) from None
    # without tokenizer.json transformers returns a tokenizer that knows one token
    if len(tokenizer) < 256:
        raise InputError(f"{base}: the tokenizer is incomplete ({len(tokenizer)} tokens); fix: fetch the model again")
    if not tokenizer.chat_template:
        raise InputError(f"{base}: the tokenizer has no chat template; fix: use a chat model")
    return tokenizer


def load_model(
    base: str | Path, adapters: Sequence[str | Path] = (), dtype: str = "float32", device: str | None = None
) -> "PreTrainedModel":
    """The base in `dtype` with each adapter merged in turn (safe_merge, in that dtype), in eval mode.

    Merging one after the other is exact for any mix of plain LoRA and rsLoRA, which PEFT's
    add_weighted_adapter(combination_type="cat") is not. device: None means CUDA if there is one.
    Raises InputError if a folder is damaged, incomplete or not safetensors, or a weight is not finite.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(base), dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
        model = model.to(device)
    except Exception as error:  # the loaders raise a dozen types for a damaged folder
        raise InputError(f"{base}: cannot load the base model ({first_line(error)}); fix: fetch it again") from error
    for adapter in adapters:
        check_adapter(adapter)
        try:
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
        except Exception as error:  # likewise; safe_merge raises ValueError on NaN
            raise InputError(
                f"{adapter}: cannot merge the adapter ({first_line(error)}); fix: delete its node folder and run again"
            ) from error
        # merge_and_unload leaves this behind, and the next adapter would warn about a second one
        if hasattr(model, "peft_config"):
            del model.peft_config
    return model.eval()


def check_adapter(adapter: str | Path) -> None:
    """Raise InputError unless the folder holds a complete PEFT adapter in safetensors (a pickle is never loaded)."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise InputError(f"{adapter}: {name} is missing; fix: delete this node's folder and run again")


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
