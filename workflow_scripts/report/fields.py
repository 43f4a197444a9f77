"""What the report's template prints: fields, tables of them, and links between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from measure.tables import Row, counted, percent

# Outcomes and verdicts that agree, and that do not; any other is "cannot say".
YES = {"pass", "consistent", "supported", "reproduced"}
NO = {"fail", "contradicted", "not reproduced"}


@dataclass(frozen=True)
class Field:
    """A field of a table: its text, what to sort it by, where it leads, how it looks (a CSS class), a smaller line, and
    the id by which others lead to it.
    """

    text: str
    sort: float | str | None = None
    link: str = ""
    look: str = ""
    more: str = ""
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table for the template: columns are headings, rows hold a Field for each."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Field]]
    note: str = ""
    look: str = ""


@dataclass(frozen=True)
class Contents:
    """The tables by name, the results of cells, and the (source, cell, seed) whose completions are in the report."""

    tables: dict[str, list[Row]]
    cells: list[Row]
    browsable: frozenset[tuple[str, str, int]]


def plain(value: Any, look: str = "") -> Field:
    """Text as it is, numbers at the right."""
    if value is None:
        return Field("", None, look=look)
    if isinstance(value, int | float):
        return Field(f"{value:,}" if isinstance(value, int) else f"{value:g}", value, look=look or "number")
    return Field(str(value), str(value), look=look)


def outcome(value: str | None, reading: str | None = None) -> Field:
    """A verdict as a badge: agreeing, disagreeing or neither; its word says which."""
    look = "yes" if value in YES else "no" if value in NO else "unknown"
    return Field(reading or value or "", reading or value or "", look=f"badge {look}")


def rate(row: Row, prefix: str = "", hits: str = "strict_hits", link: str = "") -> Field:
    """3/280 = 1.1% [0.4, 3.1], sorted by the rate."""
    n, found = row.get(f"{prefix}completions"), row.get(f"{prefix}{hits}")
    text = counted(found, n, row.get(f"{prefix}wilson_low"), row.get(f"{prefix}wilson_high"))
    return Field(text, found / n if n else None, link if n else "", "number")


def points(value: float | None, low: float | None, high: float | None) -> Field:
    """A difference of rates in percentage points."""
    if value is None or low is None or high is None:
        return Field("")
    return Field(f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", value, look="number")


def bounds(low: float | None, high: float | None) -> Field:
    """An interval in percent."""
    if low is None or high is None:
        return Field("")
    return Field(f"[{100 * low:.1f}, {100 * high:.1f}]", high, look="number")


def estimate(value: float | None, low: float | None = None, high: float | None = None, form: str = ".2f") -> Field:
    """0.53 [0.51, 0.56], each number in this form."""
    if value is None:
        return Field("", None)
    interval = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return Field(f"{value:{form}}{interval}", value, look="number")


def measured(row: Row | None, unit: str) -> Field:
    """A row of measures.csv as 12.3 [11, 14], n = 56; a share in percent; > 1.2 where only a lower bound is known."""
    if row is None:
        return Field("", None)
    shown = percent if unit == "share" else "{:.4g}".format
    interval = "" if row["low"] is None or row["high"] is None else f" [{shown(row['low'])}, {shown(row['high'])}]"
    value = f"> {shown(row['low'])}" if row["value"] is None else f"{shown(row['value'])}{interval}"
    text = value + ("" if row["n"] is None else f", n = {row['n']:,}")
    return Field(text, row["value"], look="number")


def browse(
    study: Contents, source: str, cell: str, seed: int | None = None, persona: str = "", question: str = ""
) -> str:
    """The link to the completions of a cell (of all its seeds without one), or "" where none are in the report."""
    keys = {key for key in study.browsable if key[:2] == (source, cell) and seed in (None, key[2])}
    if not keys:
        return ""
    fields = {
        "source": source,
        "cell": cell,
        "seed": "" if seed is None else seed,
        "persona": persona,
        "question": question,
    }
    return f"#completions&{urlencode({name: value for name, value in fields.items() if value != ''}, quote_via=quote)}"


def anchor(measurement: str, source: str, cell: str, seed: int) -> str:
    """The id of a cell's first row in the table of a measurement."""
    return f"{measurement}-{source}-{cell}-{seed}"


def side_by_side(rows: Sequence[Row], by: Sequence[str], column: str) -> dict[tuple[Any, ...], dict[Any, Row]]:
    """The rows that agree in the fields `by`, each under what it has in `column`."""
    found: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[field] for field in by), {})[row[column]] = row
    return found
