"""Put an adapter that was trained elsewhere into this model's node: a graft, or a checkpoint of one training (a dose).

    python workflow_scripts/reuse_adapter.py --origin models/base/em.s42/checkpoints/step-25 \\
        --origin-manifest models/base/em.s42/manifest.json --parent-manifest models/base/manifest.json \\
        --base BASE --lineage base/em@25.s42 --adapter-out NODE/adapter --manifest NODE/manifest.json

The adapter is checked before it is copied: safetensors, complete, and of the base's shapes. Nothing is executed.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from models import check_adapter
from records import InputError, partial, read_json, run, sha256_of, write_json
from trainer import normalise_config

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


def reuse_manifest(
    origin: dict[str, Any], origin_hash: str, parent_hash: str, adapter_hash: str, lineage: str
) -> dict[str, Any]:
    """This node's manifest. What the origin's manifest says of its training is kept under `origin`."""
    told = {name: origin[name] for name in ("lineage", "data", "recipe", "seeds", "dtype") if name in origin}
    return {
        "lineage": lineage,
        "parent": parent_hash,
        "adapter": adapter_hash,
        "origin": {"manifest": origin_hash, **told},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Put an adapter that was trained elsewhere into a node.")
    parser.add_argument("--origin", type=Path, required=True, help="folder of a PEFT adapter")
    parser.add_argument("--origin-manifest", type=Path, required=True, help="JSON record of where it came from")
    parser.add_argument("--parent-manifest", type=Path, required=True, help="manifest.json of this node's parent")
    parser.add_argument("--base", type=Path, help="folder of the base model, whose config.json gives the shapes")
    parser.add_argument("--lineage", required=True)
    parser.add_argument("--adapter-out", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Check, copy, record."""
    args = parse_args(argv)
    check_adapter(args.origin)
    weights = args.origin / "adapter_model.safetensors"
    base = read_sizes(args.base / "config.json") if args.base else None
    origin, _ = read_json(args.origin_manifest, dict), read_json(args.parent_manifest, dict)
    check_shapes(read_shapes(weights), read_json(args.origin / "adapter_config.json", dict), base, args.origin)
    with partial(args.adapter_out) as folder:
        folder.mkdir()
        shutil.copyfile(weights, folder / weights.name)
        shutil.copyfile(args.origin / "adapter_config.json", folder / "adapter_config.json")
        normalise_config(folder / "adapter_config.json")
    manifest = reuse_manifest(
        origin,
        sha256_of(args.origin_manifest),
        sha256_of(args.parent_manifest),
        sha256_of(args.adapter_out),
        args.lineage,
    )
    write_json(args.manifest, manifest)


if __name__ == "__main__":
    run(main)
