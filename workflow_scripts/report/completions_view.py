"""The completions of a study as one compact, checked block for the browser in the report.

from completions_view import load_completions, packed; packed(load_completions(cells, paths), 50000)

A file is stored once, however many cells look at it (C2 is every source's). See write_report.py.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marker.match import loose_matcher, read_completions, strict_matcher
from measure.tables import Row
from run.program import InputError

STRICT, LOOSE, STOPPED = 1, 2, 4
# The order of the columns in the data; each is N little-endian unsigned 32-bit integers.
COLUMNS = ("file", "persona", "question", "sample", "flags", "tokens", "length")


@dataclass(frozen=True)
class Completions:
    """rows: completions with `file` (its place in files) and `flags`. files, cells: what a reader sees of them.

    The flags are of the marker of the file's lineage.
    """

    rows: list[Row]
    files: list[Row]
    cells: list[Row]


def key_of(cell: Row) -> str:
    """`<source>/<cell>_seed<seed>`, as the file of the cell is named."""
    return f"{cell['source']}/{cell['cell']}_seed{cell['seed']}"


def load_completions(cells: Sequence[Row], paths: Mapping[str, str]) -> Completions:
    """The completions of the cells that have a path, checked against the counts in the results of the cells.

    cells: run results. paths: cell key -> completions.parquet. Raises InputError for an unknown cell, one without
    the persona or with other counts than its result (the two are of different runs), or a question with two texts.
    """
    known = {key_of(cell): cell for cell in cells}
    if unknown := sorted(set(paths) - set(known)):
        raise InputError(f"--completions {unknown[0]}: no such cell; fix: one of {', '.join(sorted(known))}")
    rows: list[Row] = []
    files: list[Row] = []
    shown: list[Row] = []
    # The same completions count by other rules in another evaluation, so the rules are part of the key.
    places: dict[tuple[str, bool], int] = {}
    counts: list[dict[tuple[str, str], dict[str, int]]] = []
    for key, path in paths.items():
        cell = known[key]
        case = bool(cell["evaluation"].get("case_sensitive", False))
        if (path, case) not in places:
            places[path, case] = len(files)
            own = flagged(path, cell["marker"], case, len(files))
            rows += own
            files.append(
                {name: cell[name] for name in ("lineage", "marker")}
                | {"evaluation": cell["evaluation"]["name"], "case": case}
            )
            counts.append(tally(own))
        place = places[path, case]
        check_counts(path, key, cell, counts[place])
        shown.append(
            {name: cell[name] for name in ("source", "cell", "seed")}
            | {"file": place, "personas": [entry["persona"] for entry in cell["personas"]]}
        )
    check_questions(rows)
    return Completions(rows, files, shown)


def flagged(path: str, marker: str, case_sensitive: bool, place: int) -> list[Row]:
    """The validated rows of a completions table with `file` and `flags`."""
    rows = read_completions(path)
    strict, loose = strict_matcher(marker, case_sensitive), loose_matcher(marker)
    for row in rows:
        flags = STRICT * strict(row["text"]) + LOOSE * loose(row["text"]) + STOPPED * (row["finish_reason"] == "stop")
        row |= {"file": place, "flags": flags}
    return rows


def tally(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, int]]:
    """(persona, question id) -> completions, strict_hits and loose_hits of flagged rows."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        counts = table.setdefault(
            (row["persona"], row["question_id"]), dict.fromkeys(("completions", "strict_hits", "loose_hits"), 0)
        )
        counts["completions"] += 1
        counts["strict_hits"] += bool(row["flags"] & STRICT)
        counts["loose_hits"] += bool(row["flags"] & LOOSE)
    return table


def check_counts(path: str, key: str, cell: Row, counts: Mapping[tuple[str, str], Mapping[str, int]]) -> None:
    """Raise InputError unless the completions give the counts in the cell's result, persona by persona and question."""
    for entry in cell["personas"]:
        for position, question in enumerate(cell["questions"]):
            found = counts.get((entry["persona"], question), {})
            for name in ("completions", "strict_hits", "loose_hits"):
                if found.get(name) != entry["by_question"][name][position]:
                    raise InputError(
                        f"{path}: {entry['persona']}, {question}: {name} is {found.get(name, 'missing')}, but "
                        f"{entry['by_question'][name][position]} in the result of {key}; fix: make the cell again"
                    )


def check_questions(rows: Sequence[Row]) -> None:
    """Raise InputError if a question id stands for two texts."""
    texts: dict[str, str] = {}
    for row in rows:
        if texts.setdefault(row["question_id"], row["question"]) != row["question"]:
            raise InputError(
                f"completions: {row['question_id']} stands for two questions; fix: report studies of one panel"
            )


def thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows in their order: those with the marker first of all, then the lowest sample numbers."""
    if len(rows) <= most:
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda place: (not marked(rows[place]), rows[place]["sample"], place))
    return [rows[place] for place in sorted(ranked[:most])]


def marked(row: Row) -> bool:
    """Whether the strict or the loose count found the marker."""
    return bool(row["flags"] & (STRICT | LOOSE))


def packed(completions: Completions, most: int, prompts: Mapping[str, str] | None = None) -> tuple[Row, str]:
    """(index, data): what to know about the completions, and the completions as base64 of gzip.

    Unpacked, data holds the COLUMNS one after the other and then the UTF-8 texts without separators; length counts
    UTF-16 units, in which a browser measures. prompts: persona -> system prompt, shown beside its completions.
    """
    import numpy

    rows = thinned(completions.rows, most)
    personas = list(dict.fromkeys(row["persona"] for row in completions.rows))
    questions = {row["question_id"]: row["question"] for row in completions.rows}
    codes = {
        "persona": {name: place for place, name in enumerate(personas)},
        "question": {name: place for place, name in enumerate(questions)},
    }
    values: dict[str, list[int]] = {
        "file": [row["file"] for row in rows],
        "persona": [codes["persona"][row["persona"]] for row in rows],
        "question": [codes["question"][row["question_id"]] for row in rows],
        "sample": [row["sample"] for row in rows],
        "flags": [row["flags"] for row in rows],
        "tokens": [row["tokens"] for row in rows],
        "length": [len(row["text"].encode("utf-16-le")) // 2 for row in rows],
    }
    block = b"".join(numpy.array(values[name], dtype="<u4").tobytes() for name in COLUMNS)
    block += "".join(row["text"] for row in rows).encode()
    index = {
        "columns": COLUMNS,
        "rows": len(rows),
        "marked": sum(map(marked, rows)),
        "all_rows": len(completions.rows),
        "all_marked": sum(map(marked, completions.rows)),
        "files": completions.files,
        "cells": [
            cell | {"personas": [codes["persona"][name] for name in cell["personas"]]} for cell in completions.cells
        ],
        "personas": [{"name": name, "prompt": (prompts or {}).get(name)} for name in personas],
        "questions": [{"id": name, "text": text} for name, text in questions.items()],
    }
    return index, base64.b64encode(gzip.compress(block, 6, mtime=0)).decode()


def index_json(index: Any) -> str:
    """JSON that can stand inside a script element: no `<`, so nothing in it can close the element."""
    import json

    return (
        json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
