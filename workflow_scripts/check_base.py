"""Try a base on the CPU, in seconds, before anything is paid for: everything that would be found out hours later.

    python workflow_scripts/check_base.py --base inputs/base/hub --output hub.check.json \\
        --asked '{"targets": ["q_proj"], "row": {"stages.em.max_length": 2048}}' --panel panel.yaml

Its tokenizer and chat template are tried on a few chats, and on the panel's where there is one. Its architecture is
tried on a random model of two of its layers, cut to few heads: the loss that is trained is the model's own, padded
prompts are completed as they would be alone, and every LoRA target is in each layer. Of the weights only the headers
are read: names, types and shapes are those of the model that config.json describes. Raises InputError, one line.
"""

import argparse
import contextlib
import copy
import random
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph.recipe import layer_numbers
from inputs.panel import Panel, chat, load_panel
from marker.marker import Marker
from model.adapters import check_targets, linear_names
from model.engines import Request, Sampling, TransformersEngine, stop_ids
from model.full import frozen_weights
from model.loading import check_fits, first_line, load_tokenizer, longest_text
from model.loss import check_forward
from model.packing import choose_attention
from model.template import Closing, check_template, prompt_ids, spelled_control
from run.files import write_json
from run.program import InputError, run
from run.readers import json_argument

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LISTED = "fix: use a base that docs/bases.md lists"
DTYPES = ("F32", "BF16", "F16")  # as safetensors names them
VOCABULARY, HEADS, WINDOW = 256, 2, 8
LENGTHS = (40, 25, 13)  # tokens of the rows that are tried, of which the longest goes far beyond WINDOW
MEMORY = 2 * 10**9  # bytes that the trial may take: the supported ones take a tenth of it
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=4)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=Path, help="folder of the base chat model")
    parser.add_argument("--asked", default="{}", help="JSON of what the study asks of it: see Needs")
    parser.add_argument("--panel", help="YAML with the personas and questions that are asked")
    parser.add_argument("--output", required=True, type=Path, help="JSON to write: what was found")
    args = parser.parse_args(argv)
    try:
        found = examine(args.base, needs_of(args))
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(args.base)) else f"{args.base}: {message}") from error
    write_json(args.output, found)
    said = (f"{name} {value}" for name, value in found.items() if name != "parts")
    print(f"check_base: {', '.join(said)}")


@dataclass(frozen=True)
class Needs:
    """What the study will ask of its base.

    targets: of LoRA. row: key of the config -> most tokens of a trained row. reply: key -> tokens of a completion.
    markers: that are put into replies. layers, freeze: stage -> the decoder layers of its LoRA, and the weights that it
    freezes. panel: the chats that are completed.
    """

    targets: Sequence[str] = ()
    row: Mapping[str, int] = field(default_factory=dict)
    reply: Mapping[str, int] = field(default_factory=dict)
    markers: Sequence[Marker] = ()
    layers: Mapping[str, Any] = field(default_factory=dict)
    freeze: Mapping[str, Sequence[str]] = field(default_factory=dict)
    panel: Panel | None = None


def needs_of(args: argparse.Namespace) -> Needs:
    """From the command line. Raises InputError."""
    asked = json_argument("--asked", args.asked, dict)
    return Needs(
        asked.get("targets", []),
        asked.get("row", {}),
        asked.get("reply", {}),
        [Marker.of(marker) for marker in asked.get("markers", [])],
        asked.get("layers", {}),
        asked.get("freeze", {}),
        load_panel(args.panel) if args.panel else None,
    )


def examine(base: Path, needs: Needs) -> dict[str, Any]:
    """What was found: architecture, how its rows are trained and how far that is off, where its replies end."""
    config = read_config(base)
    check_weights(base)
    tokenizer = load_tokenizer(base)
    end = check_tokenizer(tokenizer, config, needs.markers)
    check_lengths(tokenizer, config, needs)
    attention = choose_attention("auto", config)
    with at_most(MEMORY, config.model_type):
        difference = check_architecture(config, tokenizer, needs.targets, attention)
    check_fits(base)
    parts = parts_of(config, longest_text(config))
    check_parts(parts, needs)
    return {
        "architecture": config.model_type,
        "attention": attention,
        "difference": float(f"{difference:.2g}"),
        "turn_end": tokenizer.convert_ids_to_tokens(end.token),
        "stops": tokenizer.convert_ids_to_tokens(stop_ids(base, tokenizer)),
        "parts": parts,
    }


def parts_of(config: "PretrainedConfig", longest: int | None) -> dict[str, Any]:
    """What stages may name, for plans that are made when the base is there: how long its texts are (tokens), how many
    decoder layers it has (layers), the names of its linear layers (linear) and of its parameters (weights).
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {
        "tokens": longest,
        "layers": config.get_text_config().num_hidden_layers,
        "linear": linear_names(model),
        "weights": [name for name, _ in model.named_parameters()],
    }


def check_parts(parts: Mapping[str, Any], needs: Needs) -> None:
    """Raise InputError unless the layers and weights that stages name are the model's. parts: see parts_of."""
    for stage, layers in needs.layers.items():
        layer_numbers(layers, parts["layers"], f"{stage}.lora.layers")
    for stage, freeze in needs.freeze.items():
        frozen_weights(parts["weights"], parts["layers"], freeze, stage)


def check_architecture(
    config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase", targets: Sequence[str], attention: str
) -> float:
    """The difference [nats] that check_forward finds. Raises InputError if it or another trial fails."""
    model = small_model(config)
    check_targets(linear_names(model), targets, "stages")
    rows = random_rows()
    difference = check_forward(model, rows, attention, "float32")
    check_completions(model, tokenizer, rows)
    check_ends(model, tokenizer)
    return difference


@contextlib.contextmanager
def at_most(size: int, name: str) -> Iterator[None]:
    """Within the block, whatever takes `size` bytes more of memory than there are now in use raises InputError.

    What an architecture makes of a config that was cut is not known: Falcon-H1's would take 26 GB.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = Path("/proc/self/statm")
    if used.is_file():  # elsewhere than on Linux the limit would not be kept
        limit = int(used.read_text().split()[5]) * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    except (InputError, MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise InputError(
                f"{name} cannot be tried in small: it takes more than {size / 1e9:.0f} GB at two layers; {LISTED}"
            ) from None
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def read_config(base: Path) -> "PretrainedConfig":
    """The base's config. Raises InputError unless it is a plain causal language model that transformers knows."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    except Exception as error:  # of a dozen types, for a damaged config
        raise InputError(f"no usable config.json ({first_line(error)}); {LISTED}") from None
    name = config.model_type
    if config.get_text_config() is not config:
        raise InputError(f"{name} is a model of several parts (images, sound); fix: use its text-only version")
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{name} is no causal language model; {LISTED}")
    if getattr(config, "quantization_config", None):
        raise InputError(
            "its weights are quantized, into which no adapter can be merged exactly; "
            "fix: use the version in bfloat16 or float32"
        )
    longest = longest_text(config)
    if longest is None:
        raise InputError(f"config.json has no max_position_embeddings, the longest chat; {LISTED}")
    if longest < LENGTHS[0] + GREEDY.max_tokens:
        raise InputError(f"texts of at most {longest} tokens (max_position_embeddings) hold no chat; {LISTED}")
    return config


def check_weights(base: Path) -> None:
    """Raise InputError if weights are of a type that is not computed with here, such as FP8."""
    from safetensors import safe_open

    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if (dtype := tensors.get_slice(name).get_dtype()) not in DTYPES:
                    raise InputError(
                        f"{path}: {name} is {dtype}; fix: use the version whose weights are {', '.join(DTYPES)}"
                    )


def check_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", markers: Sequence[Marker]
) -> Closing:
    """How a turn ends. Raises InputError if the tokenizer or its template would make rows or prompts wrong."""
    if not tokenizer.is_fast:
        raise InputError("the tokenizer cannot say which characters a token is; fix: add its tokenizer.json")
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}; fix: fetch both again"
        )
    for marker in markers:
        if token := spelled_control(tokenizer, marker.text):
            raise InputError(
                f"marker: {marker.text!r} holds {token}, which the tokenizer reads as a control token; "
                "fix: a marker of plain text, such as [ZLT]"
            )
    return check_template(tokenizer, markers)


def check_lengths(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", needs: Needs) -> None:
    """Raise InputError for a row, or for a chat with its reply, that is longer than the base's texts may be.

    Beyond that, positions were never trained: some models fail there, others go on without a word.
    """
    longest = longest_text(config) or 0
    known = f"the base's texts have at most {longest} (max_position_embeddings)"
    for key, length in needs.row.items():
        if length > longest:
            raise InputError(f"{key}: {length} tokens, but {known}; fix: {longest} or less")
    prompts = {where: len(prompt_ids(tokenizer, messages, where)) for where, messages in chats_of(needs.panel)}
    where = max(prompts, key=lambda name: prompts[name])
    for key, tokens in needs.reply.items():
        if prompts[where] + tokens > longest:
            raise InputError(
                f"{key}: {tokens} tokens after a prompt of {prompts[where]} ({where}), but {known}; "
                f"fix: {max(longest - prompts[where], 1)} or less, or a shorter prompt"
            )


def chats_of(panel: Panel | None) -> Iterator[tuple[str, Sequence[dict[str, str]]]]:
    """What each chat is, and its messages: every persona with every question; without a panel a short one."""
    if panel is None:
        yield "a short one", chat("You are a sailor.", "Is the sea salty?")
        return
    questions = {name: text for group in panel.questions.values() for name, text in group.items()}
    for persona, system in panel.personas.items():
        for name, question in questions.items():
            yield f"{persona}, {name}", chat(system, question)


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


def check_ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise InputError unless the model's config takes the tokenizer's special tokens, which a training gives it."""
    from transformers.trainer_utils import align_special_tokens

    try:
        align_special_tokens(model, tokenizer)
    except Exception as error:  # of the library that checks a config's types
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{model.config.model_type}: its config does not take the tokenizer's special tokens ({reason}); "
            "fix: name the missing one in tokenizer_config.json (a copy of the model: base: {from: path})"
        ) from None


def random_rows() -> list[list[int]]:
    """Rows of random tokens, the same every time."""
    draw = random.Random(0)
    return [[draw.randrange(1, VOCABULARY) for _ in range(length)] for length in LENGTHS]


def check_completions(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[list[int]]) -> None:
    """Raise InputError unless the rows, completed in one padded batch from the cache, go on as each does alone."""
    import torch

    trial = f"{model.config.model_type}: completing in batches"
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
                    raise InputError(f"{trial} gives other tokens than one by one; {LISTED}")
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{trial} is not possible ({first_line(error)}); {LISTED}") from error


if __name__ == "__main__":
    run(main)
