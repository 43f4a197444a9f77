r"""Check every claim of the write-up against the published figures and against this study.

    python workflow_scripts/check_claims.py --claims resources/claims.yaml --published resources/published \
        --tables results/tiny/tables --output results/tiny/tables/claims.csv

A claim is one entry of claims.yaml: a sentence and, for the published figures and for this study, named numbers and a
predicate over them (`holds`), in the language of expressions.py. For a study there may be two more: `fails`, where not
holding is not yet failing, and `needs`, without which nothing can be said. Tables are the CSV files of the folder, by
name. Functions:

    total(table.column, condition)   sum over the rows where the condition holds; likewise mean, most, least
    value(table.column, condition)   the field of the only such row
    rows(table, condition)           how many rows
    abs, round                       as in Python

In a condition the columns of the table are names. A number that is missing makes the verdict "not checkable" or
"not tested" unless the rest already decides it. A claim that `rests_on` a table of the probe (verdicts, families)
cannot be checked by what is published, and a study without that table tests nothing. Where sources differ,
`by_source` has the verdict on each. A Markdown twin is written beside the CSV.
"""

import argparse
import ast
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure.expressions import evaluate, walk
from measure.rows import RESTS_ON
from measure.tables import Row, percent, read_table, write_csv, write_markdown
from run.program import InputError, run
from run.readers import read_yaml

COLUMNS = (
    "id",
    "claim",
    "where",
    "against",
    "rests_on",
    "published",
    "published_numbers",
    "study",
    "study_numbers",
    "by_source",
    "note",
    "label",
)
Tables = Mapping[str, list[Row]]


def read_tables(folder: str | Path) -> dict[str, list[Row]]:
    """Every CSV file of the folder by its name without the ending."""
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        raise InputError(f"{folder}: no CSV file; fix: pass a folder of tables")
    return {path.stem: read_table(path) for path in paths}


def table_functions(tables: Tables, names: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The functions of the language over these tables. `names` are the claim's numbers, known in conditions too."""
    functions: dict[str, Callable[..., Any]] = {"abs": abs, "round": rounded}

    def chosen(table: str, condition: ast.expr | None) -> list[Row]:
        if table not in tables:
            raise InputError(f"no table {table}; fix: use one of {', '.join(sorted(tables))}")
        return [
            row for row in tables[table] if condition is None or walk(condition, functions, {**names, **row}) is True
        ]

    def column(reference: ast.expr, condition: ast.expr | None = None) -> list[Any] | None:
        match reference:
            case ast.Attribute(value=ast.Name(id=table), attr=field):
                found = chosen(table, condition)
                if found and field not in found[0]:
                    raise InputError(f"table {table} has no column {field}; fix: use one of {', '.join(found[0])}")
                values = [row[field] for row in found]
                return None if not values or None in values else values
        raise InputError(f"`{ast.unparse(reference)}` is not table.column; fix: write for example pooled.strict_hits")

    def over(reduce: Callable[[list[Any]], Any]) -> Callable[..., Any]:
        def function(reference: ast.expr, condition: ast.expr | None = None) -> Any:
            values = column(reference, condition)
            return None if values is None else reduce(values)

        return lazy(function)

    def only(values: list[Any]) -> Any:
        if len(values) != 1:
            raise InputError(f"value(...) found {len(values)} rows; fix: narrow the condition to one")
        return values[0]

    def rows(reference: ast.expr, condition: ast.expr | None = None) -> int:
        if not isinstance(reference, ast.Name):
            raise InputError(f"`{ast.unparse(reference)}` is not a table; fix: write for example rows(gates, ...)")
        return len(chosen(reference.id, condition))

    functions |= {
        "total": over(math.fsum),
        "mean": over(lambda values: math.fsum(values) / len(values)),
        "most": over(max),
        "least": over(min),
        "value": over(only),
        "rows": lazy(rows),
    }
    return functions


def rounded(value: float, digits: int = 0) -> float:
    """round(), of a float: to minus a billion digits Python rounds a whole number in hours."""
    return round(float(value), digits)


def lazy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of the language as one that gets syntax trees instead of values."""
    function.lazy = True  # type: ignore[attr-defined]
    return function


def checked(claim: Row, side: str, tables: Tables) -> tuple[dict[str, Any], str]:
    """(needs, holds and fails by name, numbers as text) of one side of a claim."""
    part = claim[side]
    names: dict[str, Any] = {}
    functions = table_functions(tables, names)
    try:
        for name, expression in part.get("numbers", {}).items():
            names[name] = evaluate(str(expression), functions, names)
        held = {name: evaluate(part[name], functions, names) for name in ("needs", "holds", "fails") if name in part}
    except InputError as error:
        raise InputError(f"claim {claim['id']}, {side}: {error}") from None
    return held, "; ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in names.items())


def value_text(value: Any) -> str:
    """A number for people: 29, 117,600, 0.8643 (86.4%)."""
    if value is None:
        return "not there"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        return f"{value:.4g} ({percent(value)})" if 0 < value < 1 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def published_verdict(holds: Any) -> str:
    """consistent, contradicted or not checkable."""
    return "not checkable" if holds is None else "consistent" if holds else "contradicted"


def study_verdict(holds: Any, fails: Any = None, needs: Any = True) -> str:
    """supported, contradicted, undecided (neither, by the claim's own predicates) or not tested.

    What fails, fails whatever it needs; nothing is supported without what it needs, such as a coupling to lose.
    """
    if fails:
        return "contradicted"
    if not needs or holds is None:
        return "not tested"
    return "supported" if holds else "not tested" if fails is None else "undecided"


def study_side(claim: Row, study: Tables) -> tuple[str, str]:
    """(verdict, numbers as text) of a claim on a study. Without `fails` a claim fails where it does not hold."""
    held, numbers = checked(claim, "study", study)
    return study_verdict(**({"fails": None if held["holds"] is None else not held["holds"]} | held)), numbers


def verdicts_by_source(claim: Row, study: Tables) -> str:
    """'evil_ai: supported; villain: contradicted', or nothing where the sources do not differ.

    The same predicates over the rows of one source alone; what is pooled over sources says nothing of one.
    """
    found = {}
    for source in dict.fromkeys(row["source"] for row in study.get("headline", [])):
        own = {name: [row for row in rows if row.get("source") == source] for name, rows in study.items()}
        found[source] = study_side(claim, own)[0]
    return (
        "; ".join(f"{source}: {verdict}" for source, verdict in found.items()) if len(set(found.values())) > 1 else ""
    )


def check_claim(claim: Row, published: Tables, study: Tables | None, label: str) -> Row:
    """One row of the ledger."""
    row = {name: claim.get(name, "") for name in ("id", "claim", "where", "against", "note")} | {"label": label}
    row |= {"published": "not checkable", "study": "not tested", "published_numbers": "", "study_numbers": ""}
    row["by_source"] = ""
    table = claim.get("rests_on", "")
    row["rests_on"], absent = RESTS_ON.get(table, ("counts", ""))
    if table:
        row["published_numbers"] = row["study_numbers"] = absent
        if study is None or not study.get(table):
            return row
    if "published" in claim:
        held, row["published_numbers"] = checked(claim, "published", published)
        row["published"] = published_verdict(held["holds"])
    if "study" in claim and study is not None:
        row["study"], row["study_numbers"] = study_side(claim, study)
        row["by_source"] = verdicts_by_source(claim, study)
    return row


def read_claims(path: str) -> list[Row]:
    """The claims, each with what it needs and nothing else. Raises InputError naming the claim and the key."""
    claims = read_yaml(path)
    if not isinstance(claims, list):
        raise InputError(f"{path}: not a list of claims; fix: start every claim with `- id:`")
    seen = set()
    for number, claim in enumerate(claims, 1):
        name = claim.get("id") if isinstance(claim, dict) else None
        where = f"{path}: claim {name if isinstance(name, str) else number}"
        check_keys(where, claim, {"id", "claim", "where"}, {"against", "note", "rests_on", "published", "study"})
        if not isinstance(name, str) or not re.fullmatch("[a-z0-9-]+", name) or name in seen:
            raise InputError(f"{where}: the id must be of its own, in a-z, 0-9 and -; fix: rename it")
        seen.add(name)
        if "rests_on" in claim and (claim["rests_on"] not in RESTS_ON or "published" in claim):
            raise InputError(
                f"{where}: rests_on: not {' or '.join(RESTS_ON)}, or what is published was not probed; fix: one of "
                "these without `published`, or delete `rests_on`"
            )
        check_texts(where, {key: claim[key] for key in ("claim", "where", "against", "note") if key in claim})
        for side, extra in (("published", set()), ("study", {"needs", "fails"})):
            if side in claim:
                check_keys(f"{where}, {side}", claim[side], {"holds"}, {"numbers"} | extra)
                numbers = claim[side].get("numbers", {})
                check_keys(f"{where}, {side}: numbers", numbers, set(), set(numbers))
                check_texts(f"{where}, {side}", {key: claim[side][key] for key in claim[side] if key != "numbers"})
    return claims


def check_keys(where: str, value: Any, needed: set[str], allowed: set[str]) -> None:
    """Raise InputError unless value is a mapping with the needed keys and only allowed ones."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a mapping; fix: write key: value lines")
    if lacking := sorted(needed - set(value)):
        raise InputError(f"{where}: no {', '.join(lacking)}; fix: add it")
    if unknown := sorted(map(str, set(value) - needed - allowed)):
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; fix: use {', '.join(sorted(needed | allowed))}")


def check_texts(where: str, value: Mapping[str, Any]) -> None:
    """Raise InputError unless all values are text."""
    if wrong := [key for key, text in value.items() if not isinstance(text, str)]:
        raise InputError(f"{where}: {wrong[0]} is no text; fix: write it in quotes")


def write_ledger(path: str, rows: list[Row], label: str) -> None:
    """Write the CSV and, beside it, the Markdown twin."""
    write_csv(path, COLUMNS, rows)
    study = f"this study ({label})" if label else "this study"
    columns = ["claim", "where", "published figures", "numbers", "against", study, "its numbers", "by source"]
    fields = ("claim", "where", "published", "published_numbers", "against", "study", "study_numbers", "by_source")
    note = "Every claim of the write-up, checked against the figures it published and against this study's tables."
    twin = Path(path).with_suffix(".md")
    write_markdown(twin, "Claims", note, columns, [[row[field] for field in fields] for row in rows])


def main() -> None:
    """Parse the arguments, write the ledger and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", required=True, help="resources/claims.yaml")
    parser.add_argument("--published", required=True, help="folder with the published figures")
    parser.add_argument("--tables", help="folder with this study's tables; without it the claims are not tested")
    parser.add_argument("--label", default="", help="what a reader must know of this study")
    parser.add_argument("--output", required=True, help="claims.csv; claims.md is written beside it")
    arguments = parser.parse_args()
    claims = read_claims(arguments.claims)
    published = read_tables(arguments.published)
    study = read_tables(arguments.tables) if arguments.tables else None
    rows = [check_claim(claim, published, study, arguments.label) for claim in claims]
    write_ledger(arguments.output, rows, arguments.label)
    for row in rows:
        print(f"{row['published']:<14} {row['study']:<13} {row['id']}: {row['published_numbers']}")


if __name__ == "__main__":
    run(main)
