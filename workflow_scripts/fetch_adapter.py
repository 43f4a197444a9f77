"""Fetch a ready-made LoRA adapter from one folder of a Hub repository, and check that it is one.

    python workflow_scripts/fetch_adapter.py --repo superkaiba1/explore-persona-space --revision main \\
        --folder adapters/zlt1_lr5e-06_ep20_villain_s42 --base BASE --parent-manifest BASE.manifest.json \\
        --lineage base/couple-villain.s42 --output adapter --manifest manifest.json

Only that folder is listed and only its two files are fetched: the published repository is so large that a snapshot
with patterns stalls (docs/protocol.md, stages).
"""

import argparse
import shutil
from pathlib import Path

from inputs import downloads
from inputs.downloads import Hub
from model.adapters import CONFIG, WEIGHTS, base_shapes, check_lora, check_named_base
from run.files import partial, sha256_of, write_json
from run.program import InputError, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", required=True, help="model repository on the Hub")
    parser.add_argument("--revision", required=True, help="branch or commit; the manifest records the commit")
    parser.add_argument("--folder", required=True, help="folder of the adapter inside the repository")
    parser.add_argument("--base", required=True, type=Path, help="folder of the base model, whose shapes it has to fit")
    parser.add_argument("--parent-manifest", required=True, help="manifest of this node's parent")
    parser.add_argument("--lineage", required=True)
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
        lora = check_lora(output, f"{args.repo}/{folder}", base_shapes(args.base))
        check_named_base(lora["base"], args.base, f"{args.repo}/{folder}")
    record = {
        "lineage": args.lineage,
        "parent": sha256_of(args.parent_manifest),
        "adapter": sha256_of(args.output),
        "files": {Path(file.name).name: file.sha256 or sha256_of(files[file.name]) for file in wanted},
        "lora": lora,
        "origin": {"repo": args.repo, "commit": commit, "folder": folder},
    }
    write_json(args.manifest, record)
    print(f"fetch_adapter: {args.repo}@{commit[:12]}: {folder}: r {lora['r']}, {len(lora['targets'])} targets")


if __name__ == "__main__":
    run(main)
