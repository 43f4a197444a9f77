"""A model is its lineage: load the base, then merge the adapters of its ancestors in order."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run.program import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from inputs.outside import check_unchanged
from model.adapters import check_adapter
from model.full import last_full
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
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise InputError(
            f"{base}: the chat templates are called {', '.join(tokenizer.chat_template)}, and none is the default; "
            "fix: in a copy of the model's folder (base: {from: path}), write the one to use into chat_template.jinja"
        )
    return with_settings(tokenizer, base)


def load_model(
    base: str | Path, adapters: Sequence[str | Path] = (), dtype: str = "float32", device: str | None = None
) -> "PreTrainedModel":
    """The base in `dtype` with each adapter merged in turn (safe_merge, in that dtype), in eval mode.

    The folder of a stage that trained all weights (model.full) takes the place of the base and all before it.

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
    base, adapters = last_full(base, adapters)
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
    check_loaded(base, loaded)
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


def check_fits(base: str | Path) -> None:
    """Raise InputError unless the weights, by name and shape, are the model of config.json. No weight is read.

    transformers' own loading, with its renaming of older names, onto the device that holds no numbers.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would print the table of what differs
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            str(base),
            device_map="meta",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else it stops with a list of all
        )
    except Exception as error:  # of a dozen types
        raise explained(base, error, "its weights are not those of its config.json", "fetch it again") from error
    finally:
        logging.set_verbosity(verbosity)
    check_loaded(base, found[1])


def check_loaded(base: str | Path, loaded: Mapping[str, Any]) -> None:
    """Raise InputError if weights were missing, left over or of another shape, of which transformers only warns.

    loaded: what from_pretrained says with output_loading_info.
    """
    shapes = {
        name: f"is {tuple(held)} and should be {tuple(wanted)}" for name, held, wanted in loaded["mismatched_keys"]
    }
    missing = dict.fromkeys(loaded["missing_keys"], "is missing")
    odd = missing | dict.fromkeys(loaded["unexpected_keys"], "is no part of that model") | shapes
    if odd:
        name = min(odd)
        others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise InputError(
            f"{base}: weights and config.json differ: {name} {odd[name]}{others}; fix: fetch both again, or correct "
            "what config.json says of the model's shape"
        )


def check_finite(
    model: str | Path, weights: "Iterable[tuple[str, torch.Tensor]]", fix: str = "fetch the model again"
) -> None:
    """Raise InputError if a weight is NaN or infinite: a model with one still answers, with noise."""
    for name, weight in weights:
        if not weight.isfinite().all():
            raise InputError(f"{model}: the weight {name} is not finite; fix: {fix}")


def load_config(base: str | Path) -> "PretrainedConfig":
    """The base model's config.json as transformers reads it. Raises InputError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    except Exception as error:  # of a dozen types, for a damaged config
        raise explained(base, error, "no usable config.json", "point base.path at a model folder") from None


def context_length(base: str | Path, config: "PretrainedConfig | None" = None) -> int:
    """The longest prompt plus completion the base model can hold, in tokens. config: if it is read already.

    Raises InputError.
    """
    config = config or load_config(base)
    length = longest_text(config)
    if length is None:
        parts = [name for name in ("vision_config", "audio_config", "text_config") if hasattr(config, name)]
        what = "a model of text and more" if parts else "does not say how long a text may be (max_position_embeddings)"
        raise InputError(f"{base}: {config.model_type}: {what}; fix: use a model of text alone")
    return length


def longest_text(config: "PretrainedConfig") -> int | None:
    """How many tokens a text may have, as transformers reads the config; None if it does not say.

    Of scaled positions `yarn` and `dynamic` reach further than max_position_embeddings where that is what the model was
    pretrained with; the other kinds' (llama3, longrope, linear) says the length with the scaling.
    """
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int):
        return None
    scaled = getattr(config, "rope_parameters", None) or {}
    kinds = [scaled] if "rope_type" in scaled else [kind for kind in scaled.values() if isinstance(kind, dict)]
    reach = [
        int(kind["factor"] * (kind.get("original_max_position_embeddings") or length))
        for kind in kinds
        if kind.get("rope_type") in ("yarn", "dynamic") and kind.get("factor")
    ]
    return max([length, *reach])


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
            said, way = (
                ("no such folder", fix) if missing else ("no permission to read it", "let its owner chmod a+r it")
            )
            return InputError(f"{file}: {said}; fix: {way}")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "allocate memory" in str(error):
        return InputError(
            f"{folder}: {what}: out of memory ({first_line(error)}); fix: end what else runs there, or use a machine "
            "(or card) with more"
        )
    return InputError(f"{folder}: {what} ({first_line(error)}); fix: {fix}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
