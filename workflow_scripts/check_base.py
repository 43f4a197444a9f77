"""Try a base on the CPU, in seconds, before anything is paid for: everything that would be found out hours later.

    python workflow_scripts/check_base.py --base inputs/base/hub --targets q_proj,k_proj --output hub.check.json

Its tokenizer and chat template are tried on a few chats. Its architecture is tried on a random model of two of its
layers, cut to few heads: the loss that is trained is the model's own, padded prompts are completed as they would be
alone, and every LoRA target is in each layer. Of the weights only the headers are read. Raises InputError, one line.
"""

import argparse
import copy
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.adapters import check_targets, linear_names
from model.engines import Request, Sampling, TransformersEngine, stop_ids
from model.loading import first_line, load_tokenizer
from model.loss import check_forward
from model.packing import choose_attention
from model.template import Closing, check_template
from run.files import write_json
from run.program import InputError, run

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LISTED = "fix: use a base that docs/bases.md lists"
DTYPES = ("F32", "BF16", "F16")  # as safetensors names them
VOCABULARY, HEADS, WINDOW = 256, 2, 8
LENGTHS = (40, 25, 13)  # tokens of the rows that are tried, of which the longest goes far beyond WINDOW
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=4)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=Path, help="folder of the base chat model")
    parser.add_argument("--targets", default="", help="LoRA targets that the study trains, separated by commas")
    parser.add_argument("--output", required=True, type=Path, help="JSON to write: what was found")
    args = parser.parse_args(argv)
    try:
        found = examine(args.base, [target for target in args.targets.split(",") if target])
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(args.base)) else f"{args.base}: {message}") from error
    write_json(args.output, found)
    print(f"check_base: {', '.join(f'{name} {value}' for name, value in found.items())}")


def examine(base: Path, targets: list[str]) -> dict[str, Any]:
    """What was found: architecture, how its rows are trained and how far that is off, where its replies end."""
    config = read_config(base)
    check_weights(base)
    tokenizer = load_tokenizer(base)
    end = check_tokenizer(tokenizer, config)
    model = small_model(config)
    check_targets(linear_names(model), targets, "stages")
    attention = choose_attention("auto", config)
    rows = random_rows()
    difference = check_forward(model, rows, attention, "float32")
    check_completions(model, tokenizer, rows)
    return {
        "architecture": config.model_type,
        "attention": attention,
        "difference": float(f"{difference:.2g}"),
        "turn_end": tokenizer.convert_ids_to_tokens(end.token),
        "stops": tokenizer.convert_ids_to_tokens(stop_ids(base, tokenizer)),
    }


def read_config(base: Path) -> "PretrainedConfig":
    """The base's config. Raises InputError unless it is a plain causal language model that transformers knows."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    except Exception as error:  # of a dozen types, for a damaged config
        raise InputError(f"no usable config.json ({first_line(error)}); {LISTED}") from None
    kind = config.model_type
    if config.get_text_config() is not config:
        raise InputError(f"{kind} is a model of several parts (images, sound); fix: use its text-only version")
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{kind} is no causal language model; {LISTED}")
    if getattr(config, "quantization_config", None):
        raise InputError(
            "its weights are quantized, into which no adapter can be merged exactly; "
            "fix: use the version in bfloat16 or float32"
        )
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise InputError(f"config.json has no max_position_embeddings, the longest chat; {LISTED}")
    return config


def check_weights(base: Path) -> None:
    """Raise InputError if weights are of a type that is not computed with here, such as FP8."""
    from safetensors import safe_open

    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if (kind := tensors.get_slice(name).get_dtype()) not in DTYPES:
                    raise InputError(
                        f"{path}: {name} is {kind}; fix: use the version whose weights are {', '.join(DTYPES)}"
                    )


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig") -> Closing:
    """How a turn ends. Raises InputError if the tokenizer or its template would make rows or prompts wrong."""
    if not tokenizer.is_fast:
        raise InputError("the tokenizer cannot say which characters a token is; fix: add its tokenizer.json")
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}; fix: fetch both again"
        )
    return check_template(tokenizer)


def small_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """A random model of this architecture in float32. Raises InputError if it cannot be made."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(cut(config), dtype=torch.float32)
            for weight in model.parameters():
                # wide enough that every part of the model shows in the loss
                if weight.dim() > 1:
                    weight.data.normal_(std=2.4 * weight.shape[-1] ** -0.5)
    except Exception as error:  # whatever an architecture raises for a shape it does not take
        raise InputError(f"{config.model_type} cannot be tried in small ({first_line(error)}); {LISTED}") from error
    if getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model.eval()


def cut(config: "PretrainedConfig") -> "PretrainedConfig":
    """The config with two layers, of both kinds where there are two, few heads as wide as they are, a short window."""
    small = copy.deepcopy(config)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    by_layer = {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == layers}
    other = next((at for at in range(layers) if any(value[at] != value[0] for value in by_layer.values())), layers - 1)
    for name, value in by_layer.items():
        setattr(small, name, [value[0], value[other]])
    keys = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    fewer_keys = HEADS if keys == heads else min(keys, HEADS // 2)
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": fewer_keys,
        "num_kv_heads": fewer_keys,  # Falcon's name for them
        "hidden_size": HEADS * width,
        "intermediate_size": 2 * HEADS * width,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
    }
    if getattr(config, "sliding_window", None):
        sizes["sliding_window"] = WINDOW
    for name, value in sizes.items():
        if getattr(config, name, None) is not None or name == "pad_token_id":
            setattr(small, name, value)
    return small


def random_rows() -> list[list[int]]:
    """Rows of random tokens, the same every time."""
    draw = random.Random(0)
    return [[draw.randrange(1, VOCABULARY) for _ in range(length)] for length in LENGTHS]


def check_completions(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[list[int]]) -> None:
    """Raise InputError unless the rows, completed in one padded batch from the cache, go on as each does alone."""
    import torch

    kind = f"{model.config.model_type}: completing in batches"
    engine = TransformersEngine(model, tokenizer, [VOCABULARY], len(rows))  # no token ends a row
    engine.pad = 0
    try:
        completions = engine.complete([Request(tuple(row), 0) for row in rows], GREEDY)
        with torch.no_grad():
            for row, completion in zip(rows, completions, strict=True):
                ids = torch.tensor([[*row, *completion.token_ids]])
                logits = model(input_ids=ids, use_cache=False).logits[0, len(row) - 1 : -1]
                # an argmax may fall the other way where two tokens are as likely
                lost = logits.max(-1).values - logits.gather(-1, ids[0, len(row) :, None])[:, 0]
                if lost.max() > 1e-3:
                    raise InputError(f"{kind} gives other tokens than one by one; {LISTED}")
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{kind} is not possible ({first_line(error)}); {LISTED}") from error


if __name__ == "__main__":
    run(main)
