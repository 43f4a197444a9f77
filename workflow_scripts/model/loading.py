"""A model is its lineage: load the base, then merge the adapters of its ancestors in order."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run.program import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
from inputs.outside import check_unchanged
from model.adapters import check_adapter
from model.template import with_settings


def load_tokenizer(base: str | Path) -> "PreTrainedTokenizerBase":
    """The base's tokenizer, its template's settings with it. Raises InputError without one, or without a template.

    Whatever loads a base begins with its tokenizer, so here the whole base is held against its manifest.
    """
    from transformers import AutoTokenizer

    check_unchanged(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), trust_remote_code=False)
    except Exception as error:  # the loaders raise a dozen types for a damaged folder
        raise explained(base, error, "no usable tokenizer", "point base.path at a complete model folder") from None
    # without tokenizer.json transformers returns a tokenizer that knows one token
    if len(tokenizer) < 256:
        few = ValueError(f"{len(tokenizer)} tokens")
        raise explained(base, few, "the tokenizer is incomplete", "fetch the model again")
    if not tokenizer.chat_template:
        raise InputError(f"{base}: the tokenizer has no chat template; fix: use a chat model")
    return with_settings(tokenizer, base)


def load_model(
    base: str | Path, adapters: Sequence[str | Path] = (), dtype: str = "float32", device: str | None = None
) -> "PreTrainedModel":
    """The base in `dtype` with each adapter merged in turn (safe_merge, in that dtype), in eval mode.

    Merging one after the other is exact for any mix of plain LoRA and rsLoRA, which PEFT's
    add_weighted_adapter(combination_type="cat") is not. device: None means CUDA if there is one.
    Raises InputError if a folder is damaged, incomplete or not safetensors, a weight is not finite, or an adapter is
    not the one of its manifest. load_tokenizer checks the base's hashes.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            str(base),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, loaded = found[0].to(device), found[1]
    except Exception as error:  # likewise
        raise explained(base, error, "cannot load the base model", "fetch it again") from error
    # transformers only warns, fills in random weights, and leaves others out
    if odd := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"]}):
        raise InputError(f"{base}: weights and config.json differ in {odd[0]}; fix: fetch the base model again")
    check_finite(base, model.named_parameters())
    # the kernel that transformers chooses by itself leaves the soft cap out without a word (Gemma-2)
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    for adapter in adapters:
        check_adapter(adapter)
        try:
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
        except Exception as error:  # safe_merge raises ValueError on NaN
            raise explained(
                adapter, error, "cannot merge the adapter", "delete its node's folder and run again"
            ) from error
        # merge_and_unload leaves this behind, and the next adapter would warn about a second one
        if hasattr(model, "peft_config"):
            del model.peft_config
    return model.eval()


def check_finite(
    model: str | Path, weights: "Iterable[tuple[str, torch.Tensor]]", fix: str = "fetch the model again"
) -> None:
    """Raise InputError if a weight is NaN or infinite: a model with one still answers, with noise."""
    for name, weight in weights:
        if not weight.isfinite().all():
            raise InputError(f"{model}: the weight {name} is not finite; fix: {fix}")


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def explained(folder: str | Path, error: BaseException, what: str, fix: str) -> InputError:
    """The error for a model's or an adapter's folder that cannot be loaded, with its own cause.

    Loaders call whatever they cannot open missing, and whatever they cannot hold damaged. what and fix: of what is
    none of the causes known here.
    """
    for file in sorted(Path(folder).iterdir()) if os.access(folder, os.R_OK | os.X_OK) else [Path(folder)]:
        if file.is_symlink() and not file.exists():
            return InputError(
                f"{file}: a link to {os.readlink(file)}, which is gone (a cache that was cleared?); "
                f"fix: delete {folder} and fetch it again"
            )
        if not os.access(file, os.R_OK):
            missing = not os.path.lexists(file)
            told, way = (
                ("no such folder", fix) if missing else ("no permission to read it", "let its owner chmod a+r it")
            )
            return InputError(f"{file}: {told}; fix: {way}")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "allocate memory" in str(error):
        return InputError(
            f"{folder}: {what}: out of memory ({first_line(error)}); fix: end what else runs there, or use a machine "
            "(or card) with more"
        )
    return InputError(f"{folder}: {what} ({first_line(error)}); fix: {fix}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
