"""LoRA adapters on disk: written free of paths, read and checked against the model they are for."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

Shape = tuple[int, ...]


def read_shapes(path: Path) -> dict[str, Shape]:
    """Tensor name -> shape, from the header of a safetensors file. Raises InputError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); fix: fetch or train it again") from None


def base_shapes(base: Path) -> dict[str, Shape]:
    """Place of a linear layer -> (outputs, inputs), from the headers of the base's weights."""
    weights = [read_shapes(path) for path in sorted(base.glob("*.safetensors"))]
    if not weights:
        raise InputError(f"{base}: no *.safetensors; fix: fetch the base again")
    shapes = {place_of(name.removesuffix(".weight")): shape for held in weights for name, shape in held.items()}
    return {place: shape for place, shape in shapes.items() if place and len(shape) == 2}


def place_of(name: str) -> str:
    """A decoder layer's number and the name in it: base_model.model.model.layers.3.mlp.up_proj -> 3.mlp.up_proj.

    What stands before the number differs between a checkpoint, transformers and PEFT. "" for what is in no layer.
    """
    parts = name.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdecimal()), len(parts))
    return ".".join(parts[number:])


def check_shapes(
    shapes: dict[str, Shape], lora: dict[str, Any], base: dict[str, Shape] | None, where: str | Path
) -> None:
    """Raise InputError unless the tensors are a LoRA of the ranks and on the targets of its config, and fit the base.

    shapes: tensor name -> shape. lora: adapter_config.json. base: what base_shapes gives; without it only the adapter's
    agreement with itself is checked. Any choice of layers, targets and ranks is taken: all of them merge exactly.
    """
    if lora.get("peft_type") != "LORA" or not shapes:
        raise InputError(f"{where}: not a LoRA adapter; fix: use a folder that PEFT's save_pretrained wrote")
    if lora.get("use_dora"):
        raise InputError(f"{where}: a DoRA adapter; fix: use plain LoRA, whose merge is a sum")
    patterns = lora.get("rank_pattern") or {}
    ranks = {lora.get("r"), *patterns.values()}
    names = {name.removesuffix(".lora_A.weight") for name in shapes if name.endswith(".lora_A.weight")}
    pairs = {name: (shapes[f"{name}.lora_A.weight"], shapes.get(f"{name}.lora_B.weight")) for name in sorted(names)}
    if len(shapes) != 2 * len(pairs):
        raise InputError(f"{where}: tensors beside plain LoRA pairs; fix: use an adapter without modules_to_save")
    for name, (a, b) in pairs.items():
        if b is None or len(a) != 2 or len(b) != 2 or a[0] not in ranks or b[1] != a[0]:
            wanted = " or ".join(map(str, sorted(ranks, key=str)))
            raise InputError(f"{where}: {name}: shapes {a} and {b} are no LoRA of rank {wanted}; fix: fetch it again")
        if base is not None and (b[0], a[1]) != base.get(place_of(name)):
            held = base.get(place_of(name), "no such layer")
            raise InputError(
                f"{where}: {name}: for a layer of shape {(b[0], a[1])}, but the base has {held}; "
                "fix: use an adapter of the same base"
            )
    targets = lora.get("target_modules")
    if isinstance(targets, list):
        check_named(targets, pairs, where)


def check_named(targets: Sequence[str], layers: Iterable[str], where: str | Path) -> None:
    """Raise InputError unless each target (the end of a layer's name) has weights, and nothing else has."""
    missing = [target for target in targets if not any(is_target(name, [target]) for name in layers)]
    beside = [name for name in layers if not is_target(name, targets)]
    if missing or beside:
        found = sorted({name.rpartition(".")[2] for name in layers})
        raise InputError(
            f"{where}: its config names {', '.join(sorted(targets))}, its weights are for {', '.join(found)}; "
            "fix: fetch it again"
        )


def is_target(name: str, targets: Iterable[str]) -> bool:
    """Whether a layer's name ends in one of the targets, as PEFT reads a list of them."""
    return any(f".{name}".endswith(f".{target}") for target in targets)


def check_named_base(named: str | None, base: Path, where: str | Path) -> None:
    """Raise InputError if the adapter's config names another model than the base is.

    Models of one family have the same shapes. base: the base's folder, whose manifest lies beside it. What names no
    model of the Hub (a path on another machine) or a base that is none cannot be compared.
    """
    manifest = Path(f"{base}.manifest.json")
    model = read_json(manifest, dict).get("model") if manifest.is_file() else None
    repo = (model or "").partition("@")[0]
    if repo and named and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", named) and named.lower() != repo.lower():
        raise InputError(
            f"{where}: trained on {named}, but the base is {repo}: shapes may fit, weights do not; "
            f"fix: use an adapter of {repo}, or set base.repo to {named}"
        )


def linear_names(model: Any) -> list[str]:
    """The names of a model's linear layers, wrapped by LoRA or not, in order."""
    from peft.tuners.lora import Linear as Wrapped
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    plain = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D, Wrapped))]
    return list(dict.fromkeys(re.sub(r"\.(base_layer|lora_[AB]\.\w+)$", "", name) for name in plain))


def check_targets(names: Sequence[str], targets: Sequence[str], where: str) -> None:
    """Raise InputError unless every target names a linear layer in each decoder layer.

    names: of the model's linear layers; a target is one's last part or parts, as PEFT has it. where: for the message.
    """
    layers = {place_of(name).partition(".")[0] for name in names if place_of(name)}
    choice = sorted({name.rpartition(".")[2] for name in names if place_of(name)})
    for target in targets:
        found = {place_of(name).partition(".")[0] for name in names if is_target(name, [target])} & layers
        if found != layers:
            raise InputError(
                f"{where}: lora.targets: {target} is in {len(found)} of the model's {len(layers)} layers; "
                f"fix: choose from {', '.join(choice)}"
            )


def wrapped_layers(model: Any) -> dict[str, int]:
    """What PEFT really wrapped: a linear layer's name in its decoder layer -> in how many of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [place_of(name) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return dict(sorted(Counter(name.partition(".")[2] for name in names).items()))


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_model.safetensors and a path-free adapter_config.json into `folder` (created): nothing else."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    normalise_config(folder / "adapter_config.json")


def normalise_config(path: Path) -> None:
    """Rewrite a PEFT config so that equal trainings give equal files: sorted, without the base model's path."""
    config = read_json(path)
    config["base_model_name_or_path"] = None
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    write_json(path, config)


def check_adapter(adapter: str | Path) -> None:
    """Raise InputError unless the folder holds a whole PEFT adapter in safetensors (a pickle is never loaded).

    The manifest beside the folder says its sha256 under the folder's name (`adapter`, or `step-25` of checkpoints), so
    that no flipped bit gets into a result; without a manifest it is taken as it is.
    """
    fix = "delete its node's folder and run again"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise InputError(f"{adapter}: {name} is missing; fix: {fix}")
    manifest = Path(adapter).parent / "manifest.json"
    if manifest.is_file() and read_json(manifest, dict).get(Path(adapter).name) != sha256_of(adapter):
        raise InputError(f"{adapter}: not the adapter that {manifest} was written for: it is damaged; fix: {fix}")


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_lora(folder: Path, origin: str, base: dict[str, Shape] | None = None) -> dict[str, Any]:
    """The adapter's shape. Raises InputError unless it is one complete LoRA, and fits the base.

    base: what base_shapes gives. Returns {r, alpha, dropout, rslora, targets, base} and, where layers
    differ, rank_pattern and alpha_pattern: scaling is alpha/sqrt(r) with rslora, else alpha/r.
    """
    config = read_json(folder / CONFIG, dict)
    check_shapes(read_shapes(folder / WEIGHTS), config, base, origin)
    targets = config.get("target_modules")
    return {
        "r": config["r"],
        **{name: config[name] for name in ("rank_pattern", "alpha_pattern") if config.get(name)},
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout"),
        "rslora": bool(config.get("use_rslora")),
        "targets": sorted(targets) if isinstance(targets, list) else [targets],
        "base": config.get("base_model_name_or_path"),
    }
