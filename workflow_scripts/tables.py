"""CSV tables in and out, with a Markdown twin for people.

from tables import read_table; rows = read_table("results/tiny/tables/headline.csv")
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import InputError, partial

Row = dict[str, Any]


def read_table(path: str | Path, required: Sequence[str] = ()) -> list[Row]:
    """The rows of a CSV file: whole numbers as int, other numbers as float, empty fields as None, the rest as str.

    Raises InputError if the file is missing, empty, ragged, or lacks a required column.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fix: make it, or correct the path") from None
    if columns is None:
        raise InputError(f"{path}: line 1: no header; fix: delete the file and run again")
    missing = [column for column in required if column not in columns]
    if missing:
        raise InputError(f"{path}: line 1: no column {', '.join(missing)}; fix: delete the file and run again")
    for line, row in rows:
        if None in row or None in row.values():
            raise InputError(f"{path}: line {line}: not {len(columns)} fields; fix: correct or delete the file")
    return [{column: parsed(row[column]) for column in columns} for _, row in rows]


def parsed(text: str) -> Any:
    """'' -> None, '3' -> 3, '0.5' -> 0.5, anything else as it is."""
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def write_csv(path: str | Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the columns of the rows, None as an empty field, atomically. The header is there even without rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with partial(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_markdown(
    path: str | Path, title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Write a titled Markdown table, atomically; `note` is the paragraph under the title."""
    from tabulate import tabulate

    cells = [["" if value is None else str(value).replace("|", "\\|") for value in row] for row in rows]
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
