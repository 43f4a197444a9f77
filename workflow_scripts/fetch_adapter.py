"""Fetch a ready-made LoRA adapter from one folder of a Hub repository, and check that it is one.

    python workflow_scripts/fetch_adapter.py --repo superkaiba1/explore-persona-space --revision main \\
        --folder adapters/zlt1_lr5e-06_ep20_villain_s42 --output adapter --manifest manifest.json

Only that folder is listed and only its two files are fetched: the published repository is so large that a snapshot
with patterns stalls (PROTOCOL section 2).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import downloads
from downloads import Hub
from records import InputError, partial, read_json, run, sha256_of, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", required=True, help="model repository on the Hub")
    parser.add_argument("--revision", required=True, help="branch or commit; the manifest records the commit")
    parser.add_argument("--folder", required=True, help="folder of the adapter inside the repository")
    parser.add_argument("--output", required=True, help="adapter folder to write")
    parser.add_argument("--manifest", required=True, help="JSON to write")
    downloads.add_arguments(parser)
    args = parser.parse_args()
    hub = Hub(args.repo, "model", args.cache, args.retries, args.backoff)
    commit = downloads.commit_of(hub, args.revision)
    folder = args.folder.strip("/")
    wanted = [file for file in downloads.list_files(hub, commit, folder) if Path(file.name).name in (CONFIG, WEIGHTS)]
    if len(wanted) != 2:
        found = ", ".join(Path(file.name).name for file in wanted) or "neither"
        raise InputError(
            f"{args.repo}@{commit[:12]}: {folder}: needs {CONFIG} and {WEIGHTS}, has {found}; "
            "fix: name a folder that holds a PEFT adapter in safetensors (a pickle is never loaded)"
        )
    files = downloads.fetch(hub, commit, wanted)
    with partial(args.output) as output:
        output.mkdir()
        for path in files.values():
            shutil.copyfile(path, output / path.name)
        lora = check_lora(output, f"{args.repo}/{folder}")
    record = {
        "adapter": sha256_of(args.output),
        "files": {Path(file.name).name: file.sha256 or sha256_of(files[file.name]) for file in wanted},
        "lora": lora,
        "origin": {"repo": args.repo, "commit": commit, "folder": folder},
    }
    write_json(args.manifest, record)
    print(f"fetch_adapter: {args.repo}@{commit[:12]}: {folder}: r {lora['r']}, {len(lora['targets'])} targets")


def check_lora(folder: Path, origin: str) -> dict[str, Any]:
    """The adapter's shape. Raises InputError unless config and tensors are those of one complete LoRA.

    Returns {r, alpha, dropout, rslora, targets, base}: scaling is alpha/sqrt(r) with rslora, else alpha/r.
    """
    from safetensors import SafetensorError, safe_open

    config = read_json(folder / CONFIG, dict)
    rank = config.get("r")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or rank < 1:
        raise InputError(f"{origin}: {CONFIG} is not a LoRA's ({config.get('peft_type')}, r {rank}); fix: name another")
    shapes = {}
    try:
        with safe_open(folder / WEIGHTS, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                shapes[name] = tensors.get_slice(name).get_shape()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{origin}: {WEIGHTS} is damaged ({error}); fix: fetch it again, or name another") from None
    down = {name.replace(".lora_A.", ".lora_?.") for name in shapes if ".lora_A." in name}
    up = {name.replace(".lora_B.", ".lora_?.") for name in shapes if ".lora_B." in name}
    if not down or down != up:
        odd = sorted(down ^ up)
        raise InputError(
            f"{origin}: {WEIGHTS} holds {len(down)} lora_A and {len(up)} lora_B tensors"
            f"{f' (unpaired: {odd[0]})' if odd else ''}; fix: name a folder with a complete LoRA"
        )
    pattern = config.get("rank_pattern") or {}
    for name, shape in sorted(shapes.items()):
        if ".lora_A." in name and not pattern and shape[0] != rank:
            raise InputError(f"{origin}: {name} has rank {shape[0]}, {CONFIG} says {rank}; fix: name another adapter")
    targets = config.get("target_modules")
    return {
        "r": rank,
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout"),
        "rslora": bool(config.get("use_rslora")),
        "targets": sorted(targets) if isinstance(targets, list) else [targets],
        "base": config.get("base_model_name_or_path"),
    }


if __name__ == "__main__":
    run(main)
