"""Fetch the base chat model by pinned revision, or take a local copy, and record the hash of every file.

    python workflow_scripts/fetch_base.py --repo Qwen/Qwen2.5-7B-Instruct \\
        --revision a09a35458c702b33eeacc393d103063234e8bc28 --sources resources/sources.yaml \\
        --output inputs/base --manifest inputs/base.json

The output is a folder of links to the files a model needs: config, tokenizer and safetensors weights. Pickled weights
and code that comes with a model are never taken. With --path the links point to your folder, and nothing is fetched.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inputs import downloads
from inputs.downloads import Hub, HubFile
from inputs.outside import CONFIG, INDEX, SMALL, WEIGHTS, hashes_of, link, memory_of, model_files
from model.template import Settings
from run.files import partial, write_json
from run.program import InputError, run
from run.readers import json_argument, read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", help="model repository on the Hub")
    parser.add_argument("--revision", help="commit (or branch) of it")
    parser.add_argument("--sources", help="resources/sources.yaml: size and sha256 of the files of known commits")
    parser.add_argument("--path", help="a local model folder; then nothing is fetched")
    parser.add_argument("--template", default="{}", help="JSON: how its chat template is applied (base.template)")
    parser.add_argument("--output", required=True, help="folder of links to make")
    parser.add_argument("--manifest", required=True, help="JSON to write: files and hashes")
    downloads.add_arguments(parser)
    args = parser.parse_args()
    pins = downloads.pins_of(args.sources, args.repo, args.revision) if args.sources else {}
    settings = Settings.of(json_argument("--template", args.template, dict)).mapping()
    if args.path:
        model = None
        files = {name: Path(args.path) / name for name in model_files(Path(args.path))}
        hashes = hashes_of(files, memory_of(args.output))
        if args.repo and args.revision and hashes == {name: pin["sha256"] for name, pin in pins.items()}:
            model = f"{args.repo}@{args.revision}"
    elif args.repo and args.revision:
        hub = Hub(args.repo, "model", args.cache, args.retries, args.backoff)
        commit = downloads.commit_of(hub, args.revision)
        # Pins name every file, so a filled cache then needs no network.
        wanted = downloads.pinned_files(pins) or [file for file in downloads.list_files(hub, commit) if is_part(file)]
        model = f"{args.repo}@{commit}"
        files = downloads.fetch(hub, commit, wanted)
        verified = {file.name: file.sha256 for file in wanted if file.sha256}
        hashes = hashes_of(files, memory_of(args.output), verified) | verified
    else:
        raise InputError("fetch_base: no model named; fix: give --repo and --revision, or --path")
    with partial(args.output) as folder:
        link(files, folder, settings)
        check_model(folder, args.path or args.repo)
    write_json(args.manifest, manifest(files, hashes, model, settings))
    print(f"fetch_base: {len(files)} files, {model or 'a local copy that is not the pinned model'}")


def is_part(file: HubFile) -> bool:
    return file.name in SMALL or WEIGHTS.fullmatch(file.name) is not None


def check_model(folder: Path, origin: str) -> None:
    """Raise InputError unless the folder holds config, tokenizer and every tensor that the index promises."""
    from safetensors import SafetensorError, safe_open

    if not (folder / CONFIG).is_file():
        raise InputError(f"{origin}: {CONFIG} is missing; fix: use a complete model in the transformers format")
    config = read_json((folder / CONFIG).resolve(), dict)
    if "auto_map" in config:
        raise InputError(
            f"{origin}: {CONFIG} asks for code of its own (auto_map), which is never run; fix: use a model whose "
            "architecture is part of transformers, and drop auto_map from its config.json"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"{origin}: no tokenizer; fix: put tokenizer.json and tokenizer_config.json beside the weights"
        )
    shards = {path.name for path in folder.iterdir() if WEIGHTS.fullmatch(path.name)}
    promised: dict[str, str] = {}
    if (folder / INDEX).is_file():
        promised = read_json((folder / INDEX).resolve(), dict).get("weight_map", {})
        if not isinstance(promised, dict) or not all(isinstance(name, str) for name in promised.values()):
            raise InputError(f"{origin}: {INDEX} names no files; fix: copy or fetch this file again")
        shards |= set(promised.values())
    held = set()
    for shard in sorted(shards):
        if not (folder / shard).is_file():
            raise InputError(f"{origin}: {shard} is missing; fix: complete the copy, or fetch the model again")
        try:
            with safe_open(folder / shard, framework="np") as tensors:
                held |= set(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{origin}: {shard} is damaged ({error}); fix: copy or fetch this file again") from None
    if not held:
        raise InputError(f"{origin}: no weights in safetensors format; fix: use a revision or copy that has them")
    if lost := sorted(set(promised) - held):
        raise InputError(f"{origin}: {promised[lost[0]]} lacks {lost[0]}; fix: copy or fetch this file again")


def manifest(
    files: Mapping[str, Path], hashes: Mapping[str, str], model: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """What identifies the model. A local copy of the pinned files gives the very same record as fetching them.

    model: repository@commit, or None for a folder whose files are not the pinned ones. settings: of its chat template.
    sha256: of the model's files, without the settings.
    """
    return {
        "files": {name: {"bytes": path.stat().st_size, "sha256": hashes[name]} for name, path in files.items()},
        "model": model,
        "sha256": downloads.folder_sha256(hashes),
        "template": settings,
    }


if __name__ == "__main__":
    run(main)
