"""Training all weights instead of an adapter: what is trained, with which optimizer, and the node that holds it.

A model of a lineage is its base, or the last stage that trained all weights, and the adapters after that. So among the
folders that a lineage is made of, one with `config.json` takes the place of the base and of all before it.
"""

import os
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph.recipe import PART, layer_numbers
from inputs.outside import CONFIG, hashes_of, memory_of
from run.files import sha256_of
from run.program import InputError
from run.readers import read_json
from run.space import free_space

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# dtype: the optimizer's states are of the weights' dtype. 8bit: quantized in blocks of 256.
STATES = ("8bit", "dtype")
TORCHAO = "0.18.0"  # the version that was tested
SHARD = "5GB"
# Bytes of the optimizer's two states per weight, less what is shared by a block
STATE_BYTES = {"float32": {"dtype": 8, "8bit": 2}, "bfloat16": {"dtype": 4, "8bit": 2}}


def is_full(folder: str | Path) -> bool:
    """Whether a node's folder holds all weights, and no adapter."""
    return (Path(folder) / CONFIG).is_file()


def last_full(base: str | Path, folders: Sequence[str | Path]) -> tuple[str | Path, list[str | Path]]:
    """The folder that a lineage's weights begin with, and the adapters after it, in order.

    Raises InputError if that folder is not the one of its manifest.
    """
    place = max((at for at, folder in enumerate(folders) if is_full(folder)), default=None)
    if place is None:
        return base, list(folders)
    check_full(Path(folders[place]))
    return folders[place], list(folders[place + 1 :])


def check_full(folder: Path) -> None:
    """Raise InputError unless the folder holds the files that its node's manifest was written for.

    Without a manifest it is taken as it is. Large files are read again only if they changed.
    """
    manifest = folder.parent / "manifest.json"
    if not manifest.is_file():
        return
    known = read_json(manifest, dict).get("files", {})
    found = hashes_of({name: folder / name for name in known}, memory_of(folder))
    if damaged := [name for name in known if found[name] != known[name]]:
        raise InputError(
            f"{folder}: {damaged[0]} is not the file that {manifest} was written for: it is damaged; "
            "fix: delete its node's folder and run again"
        )


def choose_trained(model: "PreTrainedModel", freeze: Iterable[str], where: str) -> list[str]:
    """Let all weights be trained but the frozen ones; returns the names of those that are trained.

    freeze, where, errors: see frozen_weights.
    """
    count = model.config.get_text_config().num_hidden_layers
    names = [name for name, _ in model.named_parameters()]
    frozen = frozen_weights(names, count, freeze, where)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in frozen)
    return [name for name in names if name not in frozen]


def frozen_weights(names: Sequence[str], count: int, freeze: Iterable[str], where: str) -> set[str]:
    """Which of the parameters, of a model with `count` decoder layers, are not trained.

    freeze: parts of parameters' names, such as embed_tokens, mlp or layers.0, and parts of the layers, such as 1/3.
    Raises InputError if one of them is no part of the model, or nothing is left to train.
    """
    frozen: set[str] = set()
    for word in freeze:
        words = [word]
        if PART.fullmatch(word):
            words = [f"layers.{number}" for number in layer_numbers(word, count, f"{where}: freeze")]
        found = {name for name in names if any(f".{each}." in f".{name}." for each in words)}
        if not found:
            parts = sorted(
                {part for name in names for part in name.split(".") if not re.fullmatch(r"\d+|weight", part)}
            )
            raise InputError(f"{where}: freeze: the model has no {word}; fix: choose from {', '.join(parts)}, or 1/3")
        frozen |= found
    if frozen == set(names):
        raise InputError(f"{where}: freeze: leaves nothing to train; fix: freeze less")
    return frozen


def check_states(states: str, dtype: str) -> str:
    """What computes the optimizer's states. Raises InputError if it is not installed.

    torchao is in no lock: where it is installed, every job of a model imports it, for two seconds.
    """
    if dtype == "float32" and states == "dtype":
        return "torch"
    try:
        return f"torchao {version('torchao')}"
    except PackageNotFoundError:
        raise InputError(
            f"training all weights in {dtype} with optimizer states of {states} needs torchao; "
            f"fix: pip install --no-deps torchao=={TORCHAO}, or hardware: {{dtype: float32, optimizer_states: dtype}}"
        ) from None


def optimizer_of(recipe: dict[str, Any], states: str, dtype: str) -> tuple[type, dict[str, Any]] | None:
    """The optimizer of a training of all weights, and its settings; None for transformers' own of the recipe.

    A weight of bfloat16 has 8 bits: a step is often less than half the last of them, and would be lost by rounding to
    the nearest. torchao's AdamW rounds up or down by chance, right on average. Raises InputError for what has no such
    rounding.
    """
    name = recipe.get("optimizer", "adamw")
    if name != "adamw" and (dtype != "float32" or states != "dtype"):
        raise InputError(
            f"recipe.optimizer: {name} of all weights in {dtype} with states of {states}: its steps would be lost in "
            "rounding; fix: adamw, or hardware: {dtype: float32, optimizer_states: dtype}"
        )
    if dtype == "float32" and states == "dtype":
        return None
    os.environ.setdefault("TORCHAO_SKIP_LOADING_SO_FILES", "1")  # its kernels, none of which is used
    from torchao.optim import AdamW8bit, _AdamW

    settings = {
        "lr": recipe["lr"],
        "betas": tuple(recipe["betas"]),
        "eps": recipe["eps"],
        "bf16_stochastic_round": dtype == "bfloat16",
    }
    return (AdamW8bit if states == "8bit" else _AdamW), settings


def check_room(model: "PreTrainedModel", states: str, dtype: str, places: dict[Path, bool]) -> None:
    """Raise InputError unless every place has room. places: folder -> whether it gets resumable states, too.

    Of those two are there while one is written, each of the weights and the optimizer's states.
    """
    weights = {name: weight.numel() for name, weight in model.named_parameters()}
    size = sum(weights.values()) * (4 if dtype == "float32" else 2)
    state = sum(weights.values()) * STATE_BYTES[dtype][states]
    for folder, resumable in places.items():
        needed = size + resumable * 2 * (size + state)
        free = free_space(folder)
        if free < needed:
            raise InputError(
                f"{folder}: a training of all weights needs {needed / 1e9:.3g} GB there, {free / 1e9:.3g} GB are free; "
                "fix: make room, or write no states to go on from: hardware: {full_checkpoint_every: 0}"
            )


def save_full(model: "PreTrainedModel", folder: Path, base: str | Path) -> None:
    """Write the weights (safetensors, in shards) and the base's config.json into `folder` (created): nothing else."""
    model.save_pretrained(folder, max_shard_size=SHARD)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # transformers writes its own version and the attention's name into it
    (folder / CONFIG).write_bytes((Path(base) / CONFIG).read_bytes())


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of a node's weights, for its manifest."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
