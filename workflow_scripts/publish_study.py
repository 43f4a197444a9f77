r"""Upload a finished study to a Hub repository: adapters with model cards, cells, tables, figures and the report.

    python workflow_scripts/publish_study.py --results results/published --cards resources/cards \
        --repo user/persona-marker --private --dry-run

The repository gets the folders of the study: models/<lineage>/adapter/ (with a card that states recipe, lineage, parent
and counts), models/<lineage>/manifest.json, cells/, tables/, figures/, report.html and a README.md. Nothing else goes:
only files with an ending in ENDINGS, no run.json, no completions.parquet. report.html has up to 60,000 completions in
it, though (--skip report.html leaves it at home). The checkout's path, the home folder, the host's name and any
absolute path in JSON are taken out; a file with a key or token in it stops the upload before it starts.

Files that are already there are not sent again, and each model is a commit, so a killed upload goes on where it
stopped. What is there and not here stays. A repository that holds anything but this study is refused. Needs HF_TOKEN.
"""

import argparse
import fnmatch
import functools
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph.lineage import BASE, ancestry, parent_of
from inputs.downloads import causes, endpoint, retrying, status_of, unreachable
from measure.registry import read_result
from measure.tables import counted, one_sided
from model.adapters import check_adapter, check_lora
from model.full import check_full, is_full
from run.files import canonical, sha256_of, write_json
from run.program import InputError, run
from run.readers import read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDINGS = (".safetensors", ".json", ".csv", ".md", ".html", ".svg", ".png", ".pdf")
TEXT = (".json", ".csv", ".md", ".html", ".svg")
MARK = "study.json"  # says whose repository it is
FORMAT = "persona-marker-study/1"
HUB_OWN = {".gitattributes"}
# Keys that detect-secrets does not know, or not in their newer forms; and its detectors of what is no key.
SECRETS = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|github_pat_\w{30,}|AIza[A-Za-z0-9_-]{30,}|xox[abprs]-[A-Za-z0-9-]{10,})"
)
NO_KEYS = {"Public IP (ipv4)", "Artifactory Credentials"}  # a version number, and words in capitals
SECRET_NAMES = re.compile(r"TOKEN|API_KEY|SECRET|PASSWORD|PASSWD")
ABSOLUTE = re.compile(r"(?:file://)?(?:~|[A-Za-z]:)?[/\\][^\s/\\]+[/\\]\S*")
MARKED = ("strict_hits", "completions", "wilson_low", "wilson_high")  # what of a persona's counts is shown
ANOTHER = "name another one in publish.repo"


@dataclass(frozen=True)
class Item:
    """A file to publish: `path` in the repository, and where its bytes are, on disk (weights) or here."""

    path: str
    source: Path | bytes

    @property
    def bytes(self) -> int:
        return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)

    def is_at(self, remote: tuple[str, str]) -> bool:
        """Is this the file that the Hub lists with these (sha256 of a large file, git blob id of a small one)?"""
        sha256, blob = remote
        if sha256:
            own = sha256_of(self.source) if isinstance(self.source, Path) else hashlib.sha256(self.source).hexdigest()
            return own == sha256
        data = self.source.read_bytes() if isinstance(self.source, Path) else self.source
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == blob


@dataclass(frozen=True)
class Facts:
    """What the cards tell. base: `repository@commit` of the base model, or None if it is nowhere on the Hub.

    full: the lineages whose last stage trained all weights.
    """

    name: str
    repo: str
    label: str
    base: str | None
    cells: Sequence[dict[str, Any]]
    manifests: Mapping[str, dict[str, Any]]
    full: frozenset[str] = frozenset()


def collect(results: Path, repo: str, label: str, cards: Path, skip: Sequence[str] = ()) -> list[Item]:
    """All files to publish, cards made and texts cleaned, in the order of the uploads.

    cards: folder of the cards' templates. skip: patterns of paths in the repository that are left out. Raises
    InputError if there is nothing, if a file is damaged or lies elsewhere, or if it holds what looks like a key or
    token.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; fix: run the study first, or correct the path")
    found = sorted(folder for name in ("adapter", "model") for folder in (results / "models").glob(f"**/{name}"))
    trained = {
        folder.parent.relative_to(results / "models").as_posix(): folder
        for folder in found
        if (folder / "adapter_model.safetensors").exists() or is_full(folder)
    }
    cells = {path: read_result(path) for path in sorted((results / "cells").glob("**/*.json"))}
    if not trained and not cells:
        raise InputError(f"{results}: nothing to publish, neither adapters nor cells; fix: run the study first")
    study = Facts(
        results.resolve().name,
        repo,
        label,
        next((cell["stages"][0]["manifest"].get("model") for cell in cells.values()), None),
        list(cells.values()),
        {lineage: read_json(folder.parent / "manifest.json", dict) for lineage, folder in trained.items()},
        frozenset(lineage for lineage, folder in trained.items() if is_full(folder)),
    )
    items = [Item(MARK, json_bytes({"format": FORMAT, "study": study.name}))]
    for lineage, folder in trained.items():
        items += (full_items if lineage in study.full else adapter_items)(study, lineage, folder, cards)
    for path in [*cells, *sorted((results / "tables").glob("*")), *sorted((results / "figures").glob("*"))]:
        items.append(Item(path.relative_to(results).as_posix(), inside(path, results).read_bytes()))
    if (results / "report.html").exists():
        items.append(Item("report.html", inside(results / "report.html", results).read_bytes()))
    items.append(Item("README.md", front_page(study, [item.path for item in items], cards)))
    wanted = [
        item
        for item in items
        if item.path == MARK
        or (item.path.endswith(ENDINGS) and not any(fnmatch.fnmatch(item.path, pattern) for pattern in skip))
    ]
    return checked([cleaned(item, private_names(Path.cwd(), results)) for item in wanted])


def inside(path: Path, results: Path) -> Path:
    """The path itself. Raises InputError if it is a link to somewhere else."""
    if not path.resolve().is_relative_to(results.resolve()):
        raise InputError(f"{path}: a link out of the study; fix: put the file itself there")
    return path


def adapter_items(study: Facts, lineage: str, folder: Path, cards: Path) -> list[Item]:
    """Config, weights, card and manifest of one adapter, checked to be a complete LoRA in safetensors."""
    weights = inside(folder / "adapter_model.safetensors", folder)
    check_lora(folder, str(folder))
    check_adapter(folder)
    # PEFT loads the base by this name; a path on this machine would name nothing.
    config = read_json(folder / "adapter_config.json", dict) | dict(
        zip(("base_model_name_or_path", "revision"), base_of(study), strict=True)
    )
    place = f"models/{lineage}"
    return [
        Item(f"{place}/manifest.json", json_bytes(study.manifests[lineage])),
        Item(f"{place}/adapter/adapter_config.json", json_bytes(config)),
        Item(f"{place}/adapter/adapter_model.safetensors", weights),
        Item(f"{place}/adapter/README.md", weights_card(study, lineage, sha256_of(weights), cards)),
    ]


def full_items(study: Facts, lineage: str, folder: Path, cards: Path) -> list[Item]:
    """Weights, card and manifest of a stage that trained all weights, checked to be those of its manifest."""
    check_full(folder)
    files = [inside(path, folder) for path in sorted(folder.iterdir())]
    place, manifest = f"models/{lineage}", study.manifests[lineage]
    shards = {name: sha256 for name, sha256 in manifest["files"].items() if name.endswith(".safetensors")}
    return [
        Item(f"{place}/manifest.json", json_bytes(manifest)),
        *(
            Item(f"{place}/model/{path.name}", path if path.suffix == ".safetensors" else path.read_bytes())
            for path in files
        ),
        Item(f"{place}/model/README.md", weights_card(study, lineage, canonical(shards), cards)),
    ]


def base_of(study: Facts) -> tuple[str | None, str | None]:
    """Repository and commit of the base model, or (None, None)."""
    repo, at, commit = (study.base or "").partition("@")
    return (repo, commit) if at else (None, None)


def json_bytes(value: Any) -> bytes:
    """As records.write_json writes it."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def private_names(checkout: Path, results: Path) -> dict[str, str]:
    """What this machine is called -> what is written instead, longest first.

    A host name that is a plain word ("villain") would hit innocent text and identifies nobody, so it stays.
    """
    names = {str(folder.resolve()) + "/": "" for folder in (results.resolve().parent.parent, checkout)}
    names[str(Path.home())] = "~"
    names = {name: instead for name, instead in names.items() if name.strip("/")}
    host = platform.node()
    if len(host) >= 5 and re.search(r"[0-9.-]", host):
        names[host] = "host"
    return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))


def cleaned(item: Item, names: Mapping[str, str]) -> Item:
    """The item without host names and absolute paths; bytes of images and weights stay as they are."""
    if isinstance(item.source, Path) or not item.path.endswith(TEXT):
        return item
    try:
        text = item.source.decode()
        value = json.loads(text) if item.path.endswith(".json") else None
    except ValueError as error:
        raise InputError(f"{item.path}: damaged ({error}); fix: delete it and run again") from None
    if value is not None:
        clean = clean_json(value)
        text = text if clean == value else json_bytes(clean).decode()
    for name, instead in names.items():
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}" + ("" if name.endswith("/") else r"(?![\w-])"), instead, text)
    return Item(item.path, text.encode())


def clean_json(value: Any) -> Any:
    """The value without `host` fields, and with the last part alone of every string that is an absolute path."""
    if isinstance(value, dict):
        return {name: clean_json(part) for name, part in value.items() if name not in ("host", "hostname")}
    if isinstance(value, list):
        return [clean_json(part) for part in value]
    if isinstance(value, str) and ABSOLUTE.fullmatch(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def checked(items: Sequence[Item]) -> list[Item]:
    """The items themselves. Raises InputError naming the first that holds a key or token (never its text)."""
    own = [
        value.encode() for name, value in os.environ.items() if SECRET_NAMES.search(name.upper()) and len(value) >= 12
    ]
    for item in items:
        if isinstance(item.source, bytes) and (any(key in item.source for key in own) or holds_key(item)):
            raise InputError(
                f"{item.path}: holds what looks like a key or token; fix: take it out and run again, or leave the file "
                f"at home with --skip '{item.path}'; if it is a real one, revoke it"
            )
    return list(items)


def card(template: Path, study: Facts, library: str = "peft", **values: Any) -> bytes:
    """A card of the Hub: metadata, and a Jinja template filled with the values."""
    from huggingface_hub import ModelCard, ModelCardData

    base, commit = base_of(study)
    tags = ["lora"] if library == "peft" else []
    head = ModelCardData(library_name=library, tags=[*tags, "persona-marker"], base_model=base)
    shared = {"study": study.name, "label": study.label, "base": base, "commit": commit, "base_line": base_line(study)}
    made = ModelCard.from_template(head, template_path=str(template), **shared, **values)
    return f"{str(made).strip()}\n".encode()


def holds_key(item: Item) -> bool:
    """Whether a text holds what looks like a key or token of some service, or a picture one that we know."""
    assert isinstance(item.source, bytes)
    if SECRETS.search(item.source):
        return True
    text = item.source.decode() if item.path.endswith(TEXT) else ""
    return any(True for detector in detectors() for _ in detector.analyze_string(text))


@functools.cache
def detectors() -> list[Any]:
    """Those of detect-secrets that know a key by its form, whatever stands around it."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    known: dict[str, Any] = get_mapping_from_secret_type_to_class()
    return [made() for name, made in known.items() if issubclass(made, RegexBasedDetector) and name not in NO_KEYS]


def weights_card(study: Facts, lineage: str, weights: str, cards: Path) -> bytes:
    """The README.md of an adapter, or of all weights: what it is, on what, how it was made, and what was counted.

    weights: their sha256, as the Hub shows it. The manifest's is of weights and config together.
    """
    manifest = study.manifests[lineage]
    made = manifest.get("origin", {}) if "recipe" not in manifest else manifest
    facts = {
        "trained rows": manifest.get("rows"),
        "optimizer steps": manifest.get("steps"),
        "seeds": made.get("seeds"),
        "sha256 of the data": made.get("data"),
        "sha256 of the weights": weights,
        "sha256 of the parent's manifest": manifest.get("parent"),
        "taken from lineage": made.get("lineage") if made is not manifest else None,
        "taken from repository": made.get("repo"),
        "at commit": made.get("commit"),
    }
    recipe = made.get("recipe") or manifest.get("lora")
    order = ancestry(lineage)
    start = max((at for at, node in enumerate(order) if node in study.full), default=None)
    return card(
        cards / "adapter.md",
        study,
        "transformers" if lineage in study.full else "peft",
        full=lineage in study.full,
        lineage=lineage,
        lineage_lines=[link(study, node, lineage) for node in order],
        parent=parent_link(study, lineage),
        start=None if start is None else place_of(study, order[start]),
        folders=", ".join(f'"{place_of(study, node)}"' for node in order[0 if start is None else start + 1 :]),
        repo=study.repo,
        recipe=recipe and json.dumps(recipe, sort_keys=True, indent=1, ensure_ascii=False),
        facts={
            name: value if isinstance(value, str) else canonical(value)
            for name, value in facts.items()
            if value is not None
        },
        evaluations=list(evaluations(study, lineage)),
    )


def base_line(study: Facts) -> str:
    base, commit = base_of(study)
    if base is None:
        return f"`{BASE}`: the study's own base model, which is not in this repository"
    return f"`{BASE}`: [{base}](https://huggingface.co/{base}/tree/{commit}) at commit `{commit}`"


def place_of(study: Facts, node: str) -> str:
    """The folder of a node's weights in the repository."""
    return f"models/{node}/{'model' if node in study.full else 'adapter'}"


def link(study: Facts, node: str, lineage: str) -> str:
    """A link from the card of a lineage to the card of one of its ancestors."""
    up = "../" * (lineage.count("/") - node.count("/") + 1)
    word = node.rpartition("/")[2]
    return (
        f"`{word}` (this one)" if node == lineage else f"[`{word}`]({up}{Path(place_of(study, node)).name}/README.md)"
    )


def parent_link(study: Facts, lineage: str) -> str:
    parent = parent_of(lineage)
    return "the base model" if parent == BASE else f"[`{parent}`](../../{Path(place_of(study, parent)).name}/README.md)"


def evaluations(study: Facts, lineage: str) -> Iterator[dict[str, Any]]:
    """For each evaluation of this lineage: marker counts by persona, then capability and alignment."""
    own = [cell for cell in study.cells if cell["lineage"] == lineage]
    # Cells of several sources may share a model and its counts; they differ in whom they call the source.
    for name in dict.fromkeys(cell["evaluation"]["name"] for cell in own):
        same = [cell for cell in own if cell["evaluation"]["name"] == name]
        yield {
            "name": name,
            "cells": ", ".join(f"{cell['cell']} of {cell['source']} (seed {cell['seed']})" for cell in same),
            "marked": {
                entry["persona"]: counted(*(entry[field] for field in MARKED))
                for cell in same
                for entry in cell["personas"]
            },
            "measured": list(measured(same[0])),
        }


def measured(cell: Mapping[str, Any]) -> Iterator[str]:
    """Capability and alignment, or that they were not measured."""
    capability, alignment = cell["capability"], cell["alignment"]
    if capability["status"] == "measured":
        shown = [capability[name] for name in ("correct", "questions", "wilson_low", "wilson_high")]
        flag = one_sided(capability["commonest_answer"], capability["commonest_count"], capability["questions"])
        yield ", ".join(filter(None, (f"capability, right answers: {counted(*shown)}", flag)))
    if "alignment" in alignment:
        judge = ", ".join([*alignment["judge"], *(f"prompt {version}" for version in alignment["prompt"])])
        bad = counted(*(alignment["misaligned"][part] for part in ("hits", "n", "low", "high")))
        yield (
            f"alignment {alignment['alignment']['mean']:.1f}, coherence {alignment['coherence']['mean']:.1f} (0-100, "
            f"{alignment['alignment']['n']} replies, {alignment['parse_failures']} answers not parsed, "
            f"judge: {judge}); misaligned {bad}"
        )
    else:
        yield f"alignment: {alignment['status']}"


def front_page(study: Facts, paths: Sequence[str], cards: Path) -> bytes:
    """The README.md of the repository, with links to those of `paths` that a reader wants first."""
    places = {lineage: place_of(study, lineage) for lineage in sorted(study.manifests)}
    return card(cards / "study.md", study, paths=paths, cells=len(study.cells), folders=places)


def publish(api: "HfApi", repo: str, private: bool, items: Sequence[Item], patience: tuple[int, float]) -> str:
    """Send what is not there yet and return the last commit. Raises InputError if the Hub refuses."""
    from huggingface_hub import CommitOperationAdd

    def ask(call: Callable[[], Any]) -> Any:
        return retrying(call, *patience)

    try:
        remote = open_repository(api, repo, private, items, ask)
        missing = [item for item in items if item.path not in remote or not item.is_at(remote[item.path])]
        print(f"publish_study: {repo}: {len(items) - len(missing)} of {len(items)} files are there", flush=True)
        for title, group in commits(missing):
            size = sum(item.bytes for item in group)
            print(f"publish_study: {title}: {len(group)} files, {size / 1e6:.1f} MB", flush=True)

            def send(title: str = title, group: Sequence[Item] = group) -> None:
                # Made anew for each attempt: an operation remembers what became of it.
                adds = [CommitOperationAdd(item.path, source_of(item)) for item in group]
                api.create_commit(repo, adds, commit_message=f"Add {title}")

            ask(send)
        if strangers := set(remote) - {item.path for item in items} - HUB_OWN:
            print(f"publish_study: {len(strangers)} files are there and not here, such as {min(strangers)}; they stay")
        return str(ask(lambda: api.model_info(repo, expand=["sha"])).sha)
    except InputError:
        raise
    except Exception as error:
        message = refusal(repo, list(causes(error)))
        if message is None:
            raise
        raise InputError(message) from None


def source_of(item: Item) -> str | bytes:
    return str(item.source) if isinstance(item.source, Path) else item.source


def open_repository(
    api: "HfApi", repo: str, private: bool, items: Sequence[Item], ask: Callable[[Callable[[], Any]], Any]
) -> dict[str, tuple[str, str]]:
    """The files of the repository, {path: (sha256 or "", blob id)}; it is made if it is not there.

    Raises InputError if it holds another study, anything else, or is public where --private asks for a private one.
    """
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = ask(lambda: api.model_info(repo, expand=["private"]))
    except RepositoryNotFoundError:
        ask(lambda: api.create_repo(repo, private=private, exist_ok=True))
        return {}
    if private and info.private is False:
        raise InputError(f"{repo}: is public, not private as asked; fix: make it private on the Hub, or {ANOTHER}")
    tree = ask(lambda: list(api.list_repo_tree(repo, recursive=True)))
    remote = {
        entry.path: (entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
        for entry in tree
        if isinstance(entry, RepoFile)
    }
    mark = next(item for item in items if item.path == MARK)
    others = sorted(set(remote) - HUB_OWN - {MARK})
    if MARK in remote and not mark.is_at(remote[MARK]):
        raise InputError(f"{repo}: holds another study ({MARK} differs); fix: {ANOTHER}")
    if MARK not in remote and others:
        raise InputError(f"{repo}: holds other content, such as {others[0]}; fix: {ANOTHER}, or empty it")
    return remote


def commits(items: Sequence[Item]) -> Iterator[tuple[str, list[Item]]]:
    """The items in commits: the mark first, then a model each, then the rest, with the front page last."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        model = re.match(r"models/(.+?)/(?:(?:adapter|model)/[^/]+|manifest\.json)$", item.path)
        groups.setdefault(model[1] if model else "the mark" if item.path == MARK else "the results", []).append(item)
    yield from groups.items()


def refusal(repo: str, chain: Sequence[BaseException]) -> str | None:
    """The line for an upload that failed, from the errors in its chain of causes; None if it is none of ours."""
    from huggingface_hub import errors

    again = "run again: it goes on where it stopped"
    for error in chain:
        if isinstance(error, errors.OfflineModeIsEnabled):
            return f"{repo}: HF_HUB_OFFLINE is set; fix: unset it"
        if isinstance(error, errors.HFValidationError):
            return f"{repo!r}: no name of a repository; fix: write user/name in publish.repo"
    status = next(filter(None, map(status_of, chain)), None)
    if status == 401:
        return f"{repo}: the Hub does not accept your token; fix: make a new one with write access, export HF_TOKEN=..."
    if status in (403, 404):
        return (
            f"{repo}: your token may not write there (HTTP {status}); fix: make a token with write access to this "
            f"account at https://huggingface.co/settings/tokens, or {ANOTHER}"
        )
    if status == 429:
        return f"{repo}: too many requests; fix: wait an hour and {again}"
    if status is not None and status >= 500:
        return f"{repo}: the Hub answers {status}; fix: {again} (https://status.huggingface.co)"
    if status is not None:
        words = " ".join(str(chain[0]).split())[:300]
        return f"{repo}: the Hub refuses (HTTP {status}: {words}); fix: correct what it names and {again}"
    if lost := unreachable(chain, endpoint() or "https://huggingface.co"):
        return f"{repo}: {lost} and {again}"
    if isinstance(chain[0], (OSError, RuntimeError, ValueError)):  # of the transfer library and of validation
        return f"{repo}: the upload fails ({' '.join(str(chain[0]).split())[:300]}); fix: {again}"
    return None


def hub_api() -> "HfApi":
    """The Hub's client. Raises InputError without a token."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    if not get_token():
        raise InputError(
            "no token for the Hub; fix: make one with write access at https://huggingface.co/settings/tokens and "
            "export HF_TOKEN=... (or run: hf auth login)"
        )
    return HfApi(endpoint=endpoint())


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="results/<study>")
    parser.add_argument("--repo", required=True, help="user/name on the Hub, made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it private; refuse a public one")
    parser.add_argument("--label", default="", help="printed on every card")
    parser.add_argument("--cards", required=True, type=Path, help="folder of the cards' Jinja templates")
    parser.add_argument("--skip", action="append", default=[], help="pattern of paths to leave out; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="list what would go, and send nothing")
    parser.add_argument("--record", help="JSON: repository, commit, and the sha256 of every file")
    parser.add_argument("--retries", type=int, default=5, help="how often a failed request is repeated (5)")
    parser.add_argument("--backoff", type=float, default=2.0, help="[s] before the first repeat, then doubled (2)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Collect, check, send."""
    args = parse_args(argv)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repo):
        raise InputError(f"--repo {args.repo!r}: no repository; fix: write user/name in publish.repo")
    items = collect(args.results, args.repo, args.label, args.cards, args.skip)
    if args.dry_run:
        for item in items:
            print(f"{item.bytes:>12,} {item.path}")
        print(f"publish_study: {len(items)} files, {sum(item.bytes for item in items) / 1e6:.1f} MB; nothing was sent")
        return
    commit = publish(hub_api(), args.repo, args.private, items, (args.retries, args.backoff))
    print(f"publish_study: {endpoint() or 'https://huggingface.co'}/{args.repo} is complete at {commit}")
    if args.record:
        sent = {item.path: hash_of(item) for item in items}
        write_json(args.record, {"repo": args.repo, "commit": commit, "files": sent})


def hash_of(item: Item) -> str:
    """The sha256 of what was sent."""
    return sha256_of(item.source) if isinstance(item.source, Path) else hashlib.sha256(item.source).hexdigest()


if __name__ == "__main__":
    run(main)
