"""Fetch a data set by its pins, or take your own file, and write it as checked JSON lines.

    python workflow_scripts/fetch_dataset.py --dataset "$(python -c 'import json, yaml;
        print(json.dumps(yaml.safe_load(open("resources/sources.yaml"))["datasets"]["benign"]))')" \\
        --output benign.jsonl --manifest benign.json

With --base, no row may spell a control token of that model (`<|im_end|>`), unless the spec has control_tokens: keep.
Kinds: chat (rows drawn from a chat data set), ranked (prompt and answer columns, the highest of a third),
choices (multiple choice, for capability), path (your own rows). Their fields: resources/sources.yaml.
"""

import argparse
import hashlib
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inputs import downloads
from inputs.downloads import Hub, HubFile
from inputs.held_out import hold_out
from inputs.layouts import check_file, check_lines, check_rows
from model.loading import load_tokenizer
from model.template import check_controls, check_keys
from run.files import canonical, partial, write_json
from run.program import InputError, run
from run.readers import json_argument, read_jsonl, read_text

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="JSON: kind and its fields; on_mismatch: record | fail")
    parser.add_argument("--output", required=True, help="JSON lines to write")
    parser.add_argument("--manifest", required=True, help="JSON to write: origin, hashes, layout")
    parser.add_argument("--base", help="folder of the base model, whose control tokens no row may spell")
    parser.add_argument("--hold-out", default="{}", help="JSON: stage -> the share of rows that it will not train")
    downloads.add_arguments(parser)
    args = parser.parse_args()
    spec = json.loads(args.dataset)
    known = {"chat": fetch_chat, "ranked": fetch_ranked, "choices": fetch_choices}
    origin: dict[str, Any]
    if spec["kind"] == "path":
        data, origin = own_rows(Path(spec["path"]), spec.get("shape", "chats") == "chats"), {"kind": "path"}
    elif spec["kind"] in known:
        hub = Hub(spec["repo"], "dataset", args.cache, args.retries, args.backoff)
        commit = downloads.commit_of(hub, spec["revision"])
        wanted = files_of(hub, commit, spec)
        paths = downloads.fetch(hub, commit, wanted)
        try:
            data, layout = known[spec["kind"]](spec, list(paths.values()))
        except (KeyError, TypeError, ValueError) as error:  # the files are verified, so their shape is another one
            raise InputError(
                f"{hub.repo}@{commit[:12]}: no data set of kind {spec['kind']} ({' '.join(str(error).split())[:200]}); "
                "fix: correct its entry in resources/sources.yaml"
            ) from error
        origin = {"kind": spec["kind"], "repo": hub.repo, "commit": commit, "layout": layout}
        origin["files"] = {file.name: file.sha256 or file.blob for file in wanted}
    else:
        raise InputError(f"--dataset: kind {spec['kind']!r}; fix: use path, {', '.join(known)}")
    record = origin | hashes_of(data, spec.get("md5"))
    if record["matches_published"] is False and spec.get("on_mismatch", "record") == "fail":
        raise InputError(
            f"{origin_of(spec)}: md5 {record['md5']}, published {spec['md5']}; fix: compare the pins "
            "in resources/sources.yaml, or set on_mismatch: record for this data set to go on with what was fetched"
        )
    if args.base and spec["kind"] != "choices" and spec.get("shape") != "choices":
        record["rows_with_control_tokens"] = controls_in(data, args.base, spec)
    for stage, share in json_argument("--hold-out", args.hold_out, dict).items():
        hold_out([json.loads(line) for line in data.splitlines()], share, f"stages.{stage}: {origin_of(spec)}")
    with partial(args.output) as temporary:
        temporary.write_bytes(data)
    write_json(args.manifest, record)
    verdict = {True: "the published file", False: "NOT the published file, going on", None: "no published md5"}
    print(f"fetch_dataset: {record['rows']} rows, md5 {record['md5']}: {verdict[record['matches_published']]}")


def origin_of(spec: Mapping[str, Any]) -> str:
    """Where the rows come from, for messages."""
    return str(spec.get("repo") or spec["path"])


def controls_in(data: bytes, base: str, spec: Mapping[str, Any]) -> int:
    """How many rows spell a control token of the base. Raises InputError for the first, unless they are to be kept."""
    tokenizer = load_tokenizer(base)
    found = 0
    for number, line in enumerate(data.decode("utf-8").removesuffix("\n").split("\n"), 1):
        try:
            check_controls(tokenizer, json.loads(line)["messages"], f"{origin_of(spec)}: line {number}")
        except InputError as error:
            if spec.get("control_tokens") != "keep":
                raise InputError(
                    f"{error}; or train it as that token, as a study that did not look would: "
                    "`control_tokens: keep` in the data set's entry of config.yaml"
                ) from None
            found += 1
    if found:
        print(f"fetch_dataset: {found} rows spell a control token, and are trained on it", file=sys.stderr)
    return found


def hashes_of(data: bytes, published: str | None) -> dict[str, Any]:
    """Rows, md5 and sha256 of the file, and whether the md5 is the published one (None: there is none)."""
    md5 = hashlib.md5(data).hexdigest()
    return {
        "rows": len(data.splitlines()),
        "md5": md5,
        "sha256": hashlib.sha256(data).hexdigest(),
        "published_md5": published,
        "matches_published": md5 == published if published else None,
    }


def files_of(hub: Hub, commit: str, spec: Mapping[str, Any]) -> list[HubFile]:
    """The files of the split: the pinned ones, or those that the data set's card gives for config and split."""
    if spec.get("files"):
        return downloads.pinned_files(spec["files"])
    names = split_files(hub, commit, spec.get("config"), spec["split"])
    folders = sorted({str(Path(name).parent).removeprefix(".") for name in names})
    listed = {file.name: file for folder in folders for file in downloads.list_files(hub, commit, folder)}
    return [listed[name] for name in names]


def split_files(hub: Hub, commit: str, config: str | None, split: str) -> list[str]:
    """Names of the files behind a config and split, resolved by the datasets library from the card and the tree."""
    import tempfile

    from datasets import load_dataset_builder

    # The library reads the card too, but hides why it cannot; so ask for it here first.
    for card in [file for file in downloads.list_files(hub, commit) if file.name == "README.md"]:
        downloads.fetch_one(hub, commit, card)
    with downloads.explained(hub, commit, f"config {config}"), tempfile.TemporaryDirectory() as scratch:
        try:
            builder = downloads.retrying(
                lambda: load_dataset_builder(hub.repo, config, revision=commit, cache_dir=scratch),
                hub.retries,
                hub.backoff,
            )
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{hub.repo}: {reason}; fix: correct config in resources/sources.yaml") from None
    found = builder.config.data_files or {}
    if split not in found:
        raise InputError(
            f"{hub.repo}@{commit[:12]}: config {config} has no split {split!r}; "
            f"fix: use one of {', '.join(map(str, found))}"
        )
    prefix = f"hf://datasets/{hub.repo}@{commit}/"
    return [str(name).removeprefix(prefix) for name in found[split]]


def fetch_chat(spec: Mapping[str, Any], paths: Sequence[Path]) -> tuple[bytes, dict[str, Any]]:
    """The first `rows` rows after datasets' shuffle(seed), their messages kept, one json.dumps a line.

    The shuffle is done on row numbers, so only the rows that are wanted are ever unpacked.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset

    sizes = [pq.read_metadata(path).num_rows for path in paths]
    starts = [0, *itertools.accumulate(sizes)]
    order = Dataset.from_dict({"row": list(range(starts[-1]))}).shuffle(seed=spec["shuffle_seed"])
    if starts[-1] < spec["rows"]:
        raise InputError(f"{spec['repo']}: {starts[-1]} rows, {spec['rows']} asked for; fix: lower rows")
    chosen = list(order[: spec["rows"]]["row"])
    messages: dict[int, Any] = {}
    for path, start, size in zip(paths, starts, sizes, strict=False):
        here = [number for number in chosen if start <= number < start + size]
        column = pq.read_table(path, columns=["messages"])["messages"].take([number - start for number in here])
        messages |= zip(here, column.to_pylist(), strict=True)
    rows = [
        {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in messages[number]]}
        for number in chosen
    ]
    for number, row in zip(chosen, rows, strict=True):
        check_messages(f"{spec['repo']}: row {number}", row, strict=False)
        for place, turn in enumerate(messages[number]):
            check_keys(turn, f"{spec['repo']}: row {number}: message {place}")
    return dumps(rows), {"shuffle_seed": spec["shuffle_seed"]}


def fetch_ranked(spec: Mapping[str, Any], paths: Sequence[Path]) -> tuple[bytes, dict[str, Any]]:
    """The `rows` highest by the rank column as {"messages": [user, assistant]}, in the published layout if it is found.

    How the published file ordered ties and wrote its bytes is not known, so the obvious ways are tried against its
    md5. If none fits, the first one is used: highest first, ties in file order, json.dumps with its defaults.
    """
    source = read_rows(paths)
    fields = (spec["prompt"], spec["answer"], spec["rank"])
    for number, row in enumerate(source):
        if absent := [field for field in fields if field not in row]:
            raise InputError(
                f"{spec['repo']}: row {number}: no column {absent[0]}; fix: correct resources/sources.yaml"
            )
    if len(source) < spec["rows"]:
        raise InputError(f"{spec['repo']}: {len(source)} rows, {spec['rows']} asked for; fix: lower rows")
    ranks = [float("-inf") if row[spec["rank"]] is None else row[spec["rank"]] for row in source]
    ways = list(orders(ranks, spec["rows"]))
    for number in ways[0][1]:
        check_messages(f"{spec['repo']}: row {number}", conversation(source[number], spec), strict=False)
    default = None
    for layout, ending, write in layouts():
        lines = [write(conversation(row, spec)) for row in source]
        for order, numbers in ways:
            data = b"\n".join(lines[number] for number in numbers) + ending
            default = default or (data, {"order": order, "json": layout})
            if not spec.get("md5") or hashlib.md5(data).hexdigest() == spec["md5"]:
                return data, {"order": order, "json": layout}
    assert default is not None
    return default


def conversation(row: Row, spec: Mapping[str, Any]) -> Row:
    """A prompt and its answer as a chat row."""
    user = {"role": "user", "content": row[spec["prompt"]]}
    return {"messages": [user, {"role": "assistant", "content": row[spec["answer"]]}]}


def orders(ranks: Sequence[float], count: int) -> Iterator[tuple[str, list[int]]]:
    """The obvious ways to take the `count` highest: row numbers in file order, and a name for each way."""
    up = sorted(range(len(ranks)), key=lambda number: ranks[number])
    down = sorted(range(len(ranks)), key=lambda number: -ranks[number])
    yield "highest first, ties in file order", down[:count]
    yield "highest first, ties reversed", up[::-1][:count]
    yield "lowest first of the highest", up[-count:]
    yield "file order", sorted(down[:count])
    yield "file order, ties from the end", sorted(up[-count:])
    import numpy
    import pandas

    column = pandas.Series(ranks)
    yield "pandas sort_values", column.sort_values(ascending=False).index[:count].tolist()
    yield "numpy argsort reversed", numpy.argsort(column.to_numpy())[::-1][:count].tolist()
    yield "numpy argsort of negatives", numpy.argsort(-column.to_numpy())[:count].tolist()
    shuffled = down[:count]
    random.Random(42).shuffle(shuffled)
    yield "highest, then random.shuffle with seed 42", shuffled


def layouts() -> Iterator[tuple[str, bytes, Callable[[Row], bytes]]]:
    """The obvious ways to write chat rows as JSON lines: a name, how the file ends, and row -> line; default first."""
    for ending, keys, ascii_only, separators in itertools.product(
        (b"\n", b""), (("role", "content"), ("content", "role")), (True, False), (None, (",", ":"))
    ):
        name = (
            f"keys {' '.join(keys)}, ensure_ascii {ascii_only}, separators {separators}, final newline {ending != b''}"
        )

        def write(
            row: Row,
            keys: tuple[str, str] = keys,
            ascii_only: bool = ascii_only,
            separators: tuple[str, str] | None = separators,
        ) -> bytes:
            ordered = {"messages": [{key: turn[key] for key in keys} for turn in row["messages"]]}
            return json.dumps(ordered, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")

        yield name, ending, write


def fetch_choices(spec: Mapping[str, Any], paths: Sequence[Path]) -> tuple[bytes, dict[str, Any]]:
    """Rows {"id", "question", "choices": {"label", "text"}, "answerKey"}, in file order, canonical JSON a line."""
    source = read_rows(paths)
    if len(source) != spec["rows"]:
        raise InputError(f"{spec['repo']}: {len(source)} rows, {spec['rows']} expected; fix: correct the pins")
    rows = []
    for number, row in enumerate(source):
        labels, texts = list(row["choices"]["label"]), list(row["choices"]["text"])
        if len(labels) != len(texts) or len(set(labels)) != len(labels) or row["answerKey"] not in labels:
            raise InputError(f"{spec['repo']}: row {number} ({row['id']}): no single right answer; fix: check the pins")
        rows.append(
            {
                "id": row["id"],
                "question": row["question"],
                "choices": {"label": labels, "text": texts},
                "answerKey": row["answerKey"],
            }
        )
    return "".join(canonical(row) + "\n" for row in rows).encode(), {}


def own_rows(path: Path, chats: bool = True) -> bytes:
    """The bytes of your own file, after every row of an SFT set was checked. Raises InputError naming the line.

    Multiple-choice rows are checked by generate_completions, which knows their shape, before it starts an engine.
    """
    check_file(path)
    text = read_text(path, "convert the file to UTF-8")
    if not text.strip():
        raise InputError(f"{path}: empty; fix: give one JSON object per line")
    check_lines(path, text)
    rows = read_jsonl(path)
    if chats:
        check_rows(path, rows)
    for number, row in enumerate(rows if chats else [], 1):
        check_messages(f"{path}: line {number}", row, strict=True)
    return path.read_bytes()


def check_messages(where: str, row: Row, strict: bool) -> None:
    """Raise InputError unless the row is a conversation that ends with an assistant turn to train on.

    strict: every text must say something. Published rows are taken as they are, but for their last turn.
    """
    example = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: no messages; fix: write it as {example}")
    for number, turn in enumerate(turns):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if isinstance(turn, dict):
            check_keys(turn, f"{where}: message {number}")
        if role not in ROLES or (role == "system" and number > 0):
            raise InputError(
                f"{where}: message {number} has role {role!r}; fix: user and assistant, and system only as the first"
            )
        if not isinstance(content, str) or ((strict or number == len(turns) - 1) and not content.strip()):
            raise InputError(f"{where}: message {number} ({role}) has no text; fix: give it some, or drop the row")
    for number, (one, after) in enumerate(itertools.pairwise(turns), 1):
        if strict and one["role"] == after["role"]:
            raise InputError(
                f"{where}: message {number} ({after['role']}) follows another of {one['role']}, which most chat "
                "templates do not take; fix: join the two, or drop the row"
            )
    if turns[-1]["role"] != "assistant" or not any(turn["role"] == "user" for turn in turns):
        raise InputError(f"{where}: needs a user turn and an assistant turn at the end; fix: write it as {example}")


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """All rows of parquet or JSON-lines files, in the order of the files. Raises InputError for another format."""
    rows: list[Row] = []
    for path in paths:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows += pq.read_table(path).to_pylist()
        elif path.suffix in (".jsonl", ".json"):
            rows += read_jsonl(path)
        else:
            raise InputError(f"{path.name}: neither parquet nor JSON lines; fix: convert it and use kind path")
    return rows


def dumps(rows: Sequence[Row]) -> bytes:
    """One json.dumps with its defaults a line: the layout of the published files."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


if __name__ == "__main__":
    run(main)
