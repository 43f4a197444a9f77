"""Files that lie outside the study and may change under it: known by their content, large ones read again only if
their size or time changed.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inputs.downloads import Hub, cached
from inputs.questions import load_questions
from model.template import SETTINGS
from run.files import canonical, partial, sha256_of, write_json
from run.program import InputError
from run.readers import read_json

LARGE = 50_000_000  # bytes: as Snakemake's max-checksum-file-size
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SMALL = {
    CONFIG,
    INDEX,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
}
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def model_files(folder: Path) -> list[str]:
    """Names of the files in a local folder that belong to the model. Raises InputError if there are no weights."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; fix: correct base.path in config.yaml")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    parts = [name for name in names if name in SMALL or WEIGHTS.fullmatch(name)]
    if not any(WEIGHTS.fullmatch(name) for name in parts):
        pickles = [name for name in names if name.endswith(PICKLES)]
        found = f"only pickled weights ({pickles[0]}), which can run code" if pickles else "no model.safetensors"
        raise InputError(
            f"{folder}: {found}; fix: save the model with save_pretrained(..., safe_serialization=True) "
            "and point base.path at that folder"
        )
    return parts


def hashes_of(files: Mapping[str, Path], memory: Path, verified: Mapping[str, str] | None = None) -> dict[str, str]:
    """sha256 of each file by its name. memory: JSON that keeps the large ones' with their size and times.

    verified: hashes that are known. What cannot be kept (a folder that is not to be written to) is read again.
    """
    known = read_json(memory, dict) if memory.is_file() else {}
    kept = dict(known)
    hashes = {}
    for name, path in files.items():
        found = path.stat() if path.is_file() else None
        if found is None or found.st_size < LARGE:
            hashes[name] = sha256_of(path)
            continue
        # the system alone sets the time of the last change to a file's entry: `cp -p` does not hide a change
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        place = os.path.realpath(path)
        if known.get(place, {}).get("state") != state:
            kept[place] = {"state": state, "sha256": (verified or {}).get(name) or sha256_of(path)}
        hashes[name] = kept[place]["sha256"]
    keep(memory, kept, known)
    return hashes


def keep(memory: Path, kept: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Write the memory if it changed, where it can be written."""
    if kept != known:
        with suppress(OSError):
            write_json(memory, kept)


def check_there(file: Path, made: str | Path) -> None:
    """Raise InputError if the user's own file is not there, and nothing was `made` of it while it was."""
    if not file.is_file() and "contents" not in known_of(made):
        what = "a folder, not a file" if file.is_dir() else "no such file"
        raise InputError(f"{file}: {what}; fix: correct its path in the config, or put the file there")


def known_of(made: str | Path) -> dict[str, Any]:
    """What is kept of the user's files that `made` was made of."""
    memory = memory_of(made)
    return read_json(memory, dict) if memory.is_file() else {}


def contents(files: Mapping[str, Path], made: str | Path) -> str:
    """16 hex digits for what is in the user's own files, for a parameter of the job that makes `made` of them.

    Where the files are gone, what was made of them stays what it is. Raises InputError where nothing was.
    """
    memory = memory_of(made)
    if gone := [path for path in files.values() if not path.is_file()]:
        check_there(gone[0], made)
        return str(known_of(made)["contents"])
    hashes = hashes_of(files, memory)
    now = hashlib.sha256(canonical(hashes).encode()).hexdigest()[:16]
    known = known_of(made)
    keep(memory, known | {"contents": now}, known)
    return now


def model_contents(folder: Path, made: str | Path) -> str:
    """The same of a model's folder."""
    return contents({name: folder / name for name in (model_files(folder) if folder.is_dir() else [CONFIG])}, made)


def questions_digest(files: Mapping[str, Path], made: str | Path) -> str:
    """The same of questions to judge. Raises InputError where they are none: nothing is paid for before."""
    for path in files.values():
        if path.is_file():
            load_questions(path)
    return contents(files, made)


def memory_of(made: str | Path) -> Path:
    """Where the hashes of an input's large files are kept: beside its manifest."""
    return Path(f"{made}.seen.json")


def check_unchanged(base: str | Path) -> None:
    """Raise InputError unless the base's folder holds the files that its manifest was written for.

    The folder holds links: into the Hub client's cache, or to the user's own files.
    """
    manifest = Path(f"{base}.manifest.json")
    files = read_json(manifest, dict).get("files", {}) if manifest.is_file() else {}
    links = {name: Path(base) / name for name in files}
    for link in links.values():
        if link.is_symlink() and not link.exists():
            raise InputError(
                f"{link}: a link to {os.readlink(link)}, which is gone (a cache that was cleared?); "
                f"fix: delete {base} and run again: it is fetched again, and nothing else is made again"
            )
    for name, found in hashes_of(links, memory_of(base)).items():
        if found != files[name]["sha256"]:
            raise InputError(
                f"{base}: {name} is not the file that {manifest} was written for: {os.path.realpath(links[name])} "
                "changed; fix: put it back, or give the snakemake command again: it plans what has to be made anew"
            )


def parts_of(base: str | Path, model: str | None, own: str | None) -> dict[str, Any] | None:
    """What check_base found in the base's folder (its `parts`), if that is still the model that the config names.

    model: repository@commit, of a base from the Hub. own: the user's folder, of another. None where nothing is known.
    """
    manifest, check = Path(f"{base}.manifest.json"), Path(f"{base}.check.json")
    try:
        record, found = read_json(manifest, dict), read_json(check, dict)
    except (InputError, OSError):
        return None
    if own is None:
        same = record.get("model") == model
    else:
        config = Path(own, CONFIG)
        same = not config.is_file() or sha256_of(config) == record.get("files", {}).get(CONFIG, {}).get("sha256")
    return found.get("parts") if same else None


def relink(base: str | Path, own: str | None) -> None:
    """Make the base's folder of links again if it is gone and the files are still there: it is no result.

    own: the user's folder, if they lie there and not in the Hub client's cache. Snakemake would make anew whatever was
    made of a folder that it has to make. What the files hold is checked by those who load them.
    """
    manifest = Path(f"{base}.manifest.json")
    if os.path.lexists(base) or not manifest.is_file():
        return
    try:
        record = read_json(manifest, dict)
    except InputError:
        return  # a damaged manifest is for the jobs that need it to say; the others can still be planned
    if not record.get("files"):
        return
    if own:
        files = {name: Path(own) / name for name in record["files"]}
    else:
        repo, _, commit = record["model"].partition("@")
        files = {name: cached(Hub(repo), commit, name) for name in record["files"]}
    if all(path.is_file() for path in files.values()):
        with partial(base) as folder:
            link(files, folder, record["template"])


def link(files: Mapping[str, Path], base: Path, settings: Mapping[str, Any]) -> None:
    """Make a model's folder: links to its files, and the settings of its chat template."""
    base.mkdir()
    for name, path in files.items():
        (base / name).symlink_to(path.absolute())
    write_json(base / SETTINGS, settings)
