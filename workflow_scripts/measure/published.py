"""The published counts, as resources/published has them, and the cells that are made of them."""

from collections.abc import Sequence
from pathlib import Path

from measure.cells import COUNTS, WHOLE
from measure.tables import Row, read_table
from run.program import InputError

COLUMNS = ("source", "arm", "cell", "seed", "persona", "strict_hits", "loose_hits", "completions", "strict_by_question",
           "loose_by_question", "origin")  # fmt: skip
# The panel's questions, in the order of the counts by question.
QUESTIONS = [f"general_{place:02d}" for place in range(20)] + [f"alignment_{place:02d}" for place in range(8)]
FIX = "fix: correct or restore the file"


def is_published(cell: Row) -> bool:
    """Whether a cell's counts are published ones, entered as a study whose cells have no weights."""
    return any("published" in stage["manifest"] for stage in cell["stages"])


def read_published(path: str | Path) -> list[Row]:
    """marker_counts.csv: one row per persona of a cell; `strict_by_question` and `loose_by_question` as lists or None.

    Counts by question must add up to the persona's, so that no number is there in two versions. Raises InputError with
    the line.
    """
    rows = []
    seen: dict[tuple[object, ...], int] = {}
    for line, row in enumerate(read_table(path, COLUMNS), 2):
        where = f"{path}: line {line}"
        hits, n = row["strict_hits"], row["completions"]
        if not (isinstance(hits, int) and isinstance(n, int) and 0 <= hits <= n and n):
            raise InputError(f"{where}: {hits!r} hits in {n!r} completions; {FIX}")
        key = tuple(row[name] for name in ("source", "arm", "cell", "seed", "persona"))
        if (first := seen.setdefault(key, line)) != line:
            raise InputError(f"{where}: the same persona of the same cell as line {first}; {FIX}")
        for kind in ("strict", "loose"):
            row[f"{kind}_by_question"] = by_question(where, row, kind)
        rows.append(row)
    return rows


def by_question(where: str, row: Row, kind: str) -> list[int] | None:
    """The counts of a persona by question, in the order of the panel; None where they were not published."""
    text = row[f"{kind}_by_question"]
    if text is None:
        return None
    parts = str(text).split()
    if not all(part.isdigit() for part in parts) or sum(map(int, parts)) != row[f"{kind}_hits"]:
        raise InputError(f"{where}: {kind}_by_question does not add up to {row[f'{kind}_hits']} {kind}_hits; {FIX}")
    return [int(part) for part in parts]


def count_rows(rows: Sequence[Row]) -> list[Row]:
    """The published rows of one cell as those of its marker counts: one per persona and question.

    Without counts by question a persona has one row, of WHOLE. Tokens and stops were not published, loose hits not
    everywhere: None.
    """
    known = all(row["strict_by_question"] is not None for row in rows)
    made = []
    for row in rows:
        names = QUESTIONS if known else [WHOLE]
        strict = row["strict_by_question"] if known else [row["strict_hits"]]
        loose = row["loose_by_question"] if known else [row["loose_hits"]]
        loose = loose or [None] * len(names)
        if len(strict) != len(names) or len(loose) != len(names) or row["completions"] % len(names):
            raise InputError(
                f"marker_counts.csv: {row['source']} {row['cell']}, persona {row['persona']}: counts of {len(strict)} "
                f"questions, where the panel has {len(names)}; {FIX}"
            )
        for question, hits, loosely in zip(names, strict, loose, strict=True):
            values = (row["completions"] // len(names), hits, loosely, None, None)
            made.append({"persona": row["persona"], "question_id": question} | dict(zip(COUNTS, values, strict=True)))
    return made
