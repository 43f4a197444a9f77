"""Put an adapter that was trained elsewhere into this model's node: to merge it, or a training's checkpoint (a dose).

    python workflow_scripts/reuse_adapter.py --origin models/base/em.s42/checkpoints/step-25 \\
        --origin-manifest models/base/em.s42/manifest.json --parent-manifest models/base/manifest.json \\
        --base BASE --lineage base/em@25.s42 --adapter-out NODE/adapter --manifest NODE/manifest.json

The adapter is checked before it is copied: safetensors, complete, and of the base's shapes. Nothing is executed.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from model.adapters import base_shapes, check_adapter, check_lora, check_named_base, normalise_config
from run.files import partial, sha256_of, write_json
from run.program import run
from run.readers import read_json


def reuse_manifest(
    origin: dict[str, Any], origin_hash: str, parent_hash: str, adapter_hash: str, lineage: str
) -> dict[str, Any]:
    """This node's manifest. What the origin's manifest says of its training is kept under `origin`."""
    training = {name: origin[name] for name in ("lineage", "data", "recipe", "seeds", "dtype") if name in origin}
    return {
        "lineage": lineage,
        "parent": parent_hash,
        "adapter": adapter_hash,
        "origin": {"manifest": origin_hash, **training},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Put an adapter that was trained elsewhere into a node.")
    parser.add_argument("--origin", type=Path, required=True, help="folder of a PEFT adapter")
    parser.add_argument("--origin-manifest", type=Path, required=True, help="JSON record of where it came from")
    parser.add_argument("--parent-manifest", type=Path, required=True, help="manifest.json of this node's parent")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, which it has to fit")
    parser.add_argument("--lineage", required=True)
    parser.add_argument("--adapter-out", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Check, copy, record."""
    args = parse_args(argv)
    check_adapter(args.origin)
    weights = args.origin / "adapter_model.safetensors"
    origin, _ = read_json(args.origin_manifest, dict), read_json(args.parent_manifest, dict)
    lora = check_lora(args.origin, str(args.origin), base_shapes(args.base))
    check_named_base(lora["base"], args.base, args.origin)
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
