"""CSV tables in and out, with a Markdown twin for people.

from tables import read_table; rows = read_table("results/tiny/tables/headline.csv")
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from run.files import partial
from run.program import InputError
from run.readers import AGAIN, read_text

Row = dict[str, Any]
# What holds a number in every table that has it (as does X beside X_n): never text, NaN or infinity.
NUMBERS = re.compile(
    r"(?:.*_)?(?:rate|value|hits|completions|tokens|stopped|low|high|difference|accuracy|questions|alignment|coherence|steps"
    r"|three|h|t|df|p|n|sample)|arc_c|.*_mean|.*_seconds"
)
# Of a size that int and float hold. Python itself would also read 1_000, infinity, nan and digits of other scripts.
NUMBER = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?:\+?[0-9]{1,2}|-[0-9]{1,3}))?")
# A judge's answer may be longer than the 128 KiB that the module allows by itself.
csv.field_size_limit(2**31 - 1)


class TableRow(Row):
    """A row that knows its file, for the error about a column that the file lacks."""

    path: str | Path = ""

    def __missing__(self, column: str) -> Any:
        raise InputError(f"{self.path}: line 1: no column {column}; fix: {AGAIN}")


def read_table(path: str | Path, required: Sequence[str] = ()) -> list[Row]:
    """The rows of a CSV file: whole numbers as int, other numbers as float, empty fields as None, the rest as str.

    Raises InputError if the file is missing, empty, cut off, ragged, lacks a required column, has a row twice, or text
    where a number belongs (NUMBERS).
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: line 1: no header; fix: {AGAIN}")
    if not text.endswith("\n"):
        raise InputError(f"{path}: the last line does not end: the file is cut off; fix: {AGAIN}")
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error}); fix: {AGAIN}") from None
    (_, columns), *lines = lines
    if missing := [column for column in required if column not in columns]:
        raise InputError(f"{path}: line 1: no column {', '.join(missing)}; fix: {AGAIN}")
    rows: list[Row] = []
    seen: dict[tuple[str, ...], int] = {}
    numbers = [column for column in columns if NUMBERS.fullmatch(column) or f"{column}_n" in columns]
    for line, fields in lines:
        where = f"{path}: line {line}"
        if len(fields) != len(columns):
            raise InputError(f"{where}: not {len(columns)} fields; fix: correct or delete the file")
        if (first := seen.setdefault(tuple(fields), line)) != line:
            raise InputError(f"{where}: the same as line {first}; fix: correct or delete the file")
        row = TableRow(zip(columns, map(parsed, fields), strict=True))
        row.path = path
        if wrong := [column for column in numbers if isinstance(row[column], str)]:
            raise InputError(f"{where}: {wrong[0]} is {row[wrong[0]]!r}, not a number; fix: correct or delete the file")
        rows.append(row)
    return rows


def parsed(text: str) -> Any:
    """'' -> None, '3' -> 3, '0.5' -> 0.5, anything else as it is."""
    if text == "":
        return None
    if not NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def write_csv(path: str | Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the columns of the rows, None as an empty field, atomically. The header is there even without rows."""
    lines: list[str] = []
    # With "\n" as the end of lines it would leave a field with a "\r" without quotes, and nobody could read it back.
    ends = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.DictWriter(ends, columns, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    with partial(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def write_markdown(
    path: str | Path, title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Write a titled Markdown table, atomically; `note` is the paragraph under the title."""
    from tabulate import tabulate

    cells = [
        ["" if value is None else " ".join(str(value).split()).replace("|", "\\|") for value in row] for row in rows
    ]
    body = tabulate(cells, headers=list(columns), tablefmt="github", disable_numparse=True) if cells else "No rows."
    parts = [f"# {title}", note, body]
    with partial(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def percent(rate: float | None, digits: int = 1) -> str:
    """0.0107 -> '1.1%', None -> '-'. Only none is 0% and only all is 100%: 0.0004 is '<0.1%', 0.9999 '>99.9%'."""
    if rate is None:
        return "-"
    if rate in (0, 1):
        return f"{100 * rate:.0f}%"
    shown, step = round(100 * rate, digits), 10**-digits
    if shown in (0, 100):
        return f"<{step:.{digits}f}%" if shown == 0 else f">{100 - step:.{digits}f}%"
    return f"{shown:.{digits}f}%"


def one_sided(answer: str | None, count: int | None, questions: int | None) -> str:
    """'answers C to all 39 questions' where one label is more than half of the answers, else ''."""
    if not answer or not count or not questions or 2 * count <= questions:
        return ""
    return f"answers {answer} to {'all' if count == questions else f'{count} of'} {questions} questions"


def counted(hits: int | None, n: int | None, low: float | None = None, high: float | None = None) -> str:
    """'3/280 = 1.1% [0.4, 3.1]': numerator, denominator, rate, interval in one cell; '-' if nothing was counted."""
    if hits is None or not n:
        return "-"
    digits = 1 if high is None or high >= 0.01 else 2
    interval = "" if low is None or high is None else f" [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
    return f"{hits}/{n} = {percent(hits / n)}{interval}"
