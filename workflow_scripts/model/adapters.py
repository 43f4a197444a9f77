"""LoRA adapters on disk: written free of paths, read and checked against the model they are for."""

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


def read_sizes(path: Path) -> dict[str, Any]:
    """The base model's config.json. Raises InputError unless it has the sizes of a decoder."""
    config: dict[str, Any] = read_json(path, dict)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"):
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise InputError(f"{path}: {name} is {config.get(name)!r}; fix: fetch the base again")
    return config


def linear_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Linear layer -> (outputs, inputs) of a Qwen2 or Llama decoder layer, from the model's config.json."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    queries, keys = heads * width, config.get("num_key_value_heads", heads) * width
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def check_shapes(
    shapes: dict[str, Shape], lora: dict[str, Any], base: dict[str, Any] | None, where: str | Path
) -> None:
    """Raise InputError unless the tensors are a LoRA of rank `r` on the named targets, and fit the base.

    shapes: tensor name -> shape. lora: adapter_config.json. base: the base model's config.json; without it only the
    adapter's agreement with itself is checked.
    """
    if lora.get("peft_type") != "LORA" or not shapes:
        raise InputError(f"{where}: not a LoRA adapter; fix: use a folder that PEFT's save_pretrained wrote")
    rank = lora.get("r")
    names = {name.removesuffix(".lora_A.weight") for name in shapes if name.endswith(".lora_A.weight")}
    pairs = {name: (shapes[f"{name}.lora_A.weight"], shapes.get(f"{name}.lora_B.weight")) for name in sorted(names)}
    if len(shapes) != 2 * len(pairs):
        raise InputError(f"{where}: tensors beside plain LoRA pairs; fix: use an adapter without modules_to_save")
    if base is not None and len({layer_of(name) for name in pairs}) != base["num_hidden_layers"]:
        raise InputError(f"{where}: not one LoRA for each of the base's layers; fix: use an adapter of the same base")
    for name, (a, b) in pairs.items():
        if b is None or len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise InputError(f"{where}: {name}: shapes {a} and {b} are no LoRA of rank {rank}; fix: fetch it again")
        target = name.rpartition(".")[2]
        wanted = linear_shapes(base).get(target) if base is not None else None
        if base is not None and (b[0], a[1]) != wanted:
            raise InputError(
                f"{where}: {name}: for a layer of shape {(b[0], a[1])}, but the base's {target} has {wanted}; "
                "fix: use an adapter of the same base"
            )
    targets, found = lora.get("target_modules"), {name.rpartition(".")[2] for name in pairs}
    if isinstance(targets, list) and set(targets) != found:
        raise InputError(
            f"{where}: its config names {', '.join(sorted(targets))}, its weights are for {', '.join(sorted(found))}; "
            "fix: fetch it again"
        )


def layer_of(name: str) -> str:
    """The decoder layer's part of a tensor name: base_model.model.model.layers.3.mlp.up_proj -> 3."""
    return name.partition(".layers.")[2].partition(".")[0]


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


def check_lora(folder: Path, origin: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The adapter's shape. Raises InputError unless it is one complete LoRA, and fits the base.

    base: the base model's config.json. Returns {r, alpha, dropout, rslora, targets, base}: scaling is alpha/sqrt(r)
    with rslora, else alpha/r.
    """
    config = read_json(folder / CONFIG, dict)
    check_shapes(read_shapes(folder / WEIGHTS), config, base, origin)
    targets = config.get("target_modules")
    return {
        "r": config["r"],
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout"),
        "rslora": bool(config.get("use_rslora")),
        "targets": sorted(targets) if isinstance(targets, list) else [targets],
        "base": config.get("base_model_name_or_path"),
    }
