r"""Turn the results of all cells into the study's tables, each as CSV and Markdown.

    python workflow_scripts/tabulate_study.py --cells results/tiny/cells/evil_ai/*.json \
        --gates results/tiny/study/gates/*.json --meaning results/tiny/study/tables.json \
        --published resources/published --label "rehearsal on a toy model, no evidence about Qwen2.5-7B" \
        --output-dir results/tiny/tables

Tables: headline (cell x seed x source), pooled (over seeds), reversed (reversed and matched order), dose,
persona_by_cell, by_question, concentration, cross_source, effects, selectivity_by_persona, gates, relearning,
published_comparison, measures (measure/registry.py). Every rate stands beside its hits and completions. The columns low
and high are the wider of its Wilson and cluster bounds: completions to one question, and of one seed, are not
independent, so verdicts rest on these.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from measure.cells import clustered, read_result, total_of, with_marker
from measure.comparison import COMPARED, comparison_rows
from measure.gates import evaluate_gates, highest_pooled, identical_cells, read_gates
from measure.registry import MEASURES, study_rows
from measure.relearning import RELEARNED, RELEARNING, relearning_rows
from measure.rows import (
    ABLATION,
    CLUSTERED,
    CONCENTRATED,
    FAMILIES,
    FAMILIES_NOTE,
    IDENTITY,
    INTERVALS,
    LAYERS,
    MEASURED,
    OVERLAP,
    ROLES,
    TABLES,
    VERDICTS,
    WIDE,
    ablation_rows,
    adapter_rows,
    dose_row,
    family_rows,
    layer_rows,
    persona_rows,
    question_rows,
    verdict_rows,
    wide_row,
)
from measure.stats import cohens_h, concentration, difference, rate_fields, rule_of_three, welch_one_sided
from measure.tables import Row, counted, one_sided, percent, write_csv, write_markdown
from probe.survival import VERDICT_NOTE
from run.program import InputError, run
from run.readers import read_part

HEADLINE = [
    *IDENTITY,
    "lineage",
    *WIDE,
    *MEASURED,
    "counts_sha256",
]
DOSE = [*IDENTITY, "lineage", "stage", "steps", *WIDE]
PERSONAS = [
    *IDENTITY,
    "persona",
    "role",
    "strict_hits",
    "loose_hits",
    "completions",
    *INTERVALS,
    *CLUSTERED,
    "mean_tokens",
    "stopped",
    "second_stage",
]
QUESTIONS = [*IDENTITY, "persona", "role", "question_id", "strict_hits", "completions", "mean_tokens"]
POOLED = ["source", "arm", "cell", "seeds", "role", "persona", "strict_hits", "loose_hits", "completions", *INTERVALS,
          "rule_of_three", *CLUSTERED, "mean_tokens", "second_stage"]  # fmt: skip
CROSS = ["arm", "cell", "sources", "models", "role", "strict_hits", "completions", *INTERVALS, "rule_of_three",
         *CLUSTERED]  # fmt: skip
CONCENTRATION = ["source", "arm", "cell", "seeds", "role", "persona", "strict_hits", "completions", "questions",
                 "questions_with_hits", "most_hits", "p", "power"]  # fmt: skip
EFFECTS = ["source", "role", "cell", "other_cell", "steps", "hits", "completions", "low", "high",
           "other_hits", "other_completions", "other_low", "other_high", "difference",
           "difference_low", "difference_high", "cohens_h", "h_low", "h_high",
           "welch_t", "welch_df", "welch_p"]  # fmt: skip
SELECTIVITY = ["source", "arm", "cell", "seeds", "persona", "role", "strict_hits", "completions", "source_hits",
               "source_completions", "difference", "difference_low", "difference_high"]  # fmt: skip
GATES = ["gate", "source", "seed", "outcome", "reading", "numbers", "expression", "says"]
COMPARISON = ["source", "arm", "cell", "seed", "quantity", "persona", "ours", "ours_n", "ours_low", "ours_high",
              "published_persona", "published", "published_n", "published_low", "published_high",
              "verdict", "why"]  # fmt: skip


def pooled_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of pooled.csv for the seeds of one cell: one per role, the bystander being the highest after pooling."""
    highest = [(role, highest_pooled(cells, role)) for role in ROLES]
    return [pooled_persona(cells, found[0], role) for role, found in highest if found]


def pooled_persona(cells: Sequence[Row], persona: str, role: str) -> Row:
    """A persona's counts and rate, pooled over the seeds of one cell."""
    entries = [entry for cell in cells for entry in cell["personas"] if entry["persona"] == persona]
    hits, n = (sum(entry[name] for entry in entries) for name in ("strict_hits", "completions"))
    return (
        {field: cells[0][field] for field in ("source", "arm", "cell")}
        | {"seeds": len(entries), "role": role, "persona": persona, "strict_hits": hits, "completions": n}
        | rate_fields(hits, n)
        | clustered([entry["by_question"] for entry in entries], *(cell["questions"] for cell in cells))
        | {
            "loose_hits": total_of(entry["loose_hits"] for entry in entries),
            "rule_of_three": round(rule_of_three(n), 6) if hits == 0 else None,
            "mean_tokens": mean_tokens(entries),
        }
    )


def staged(rows: Sequence[Row], second_stages: Sequence[str]) -> list[Row]:
    """The rows with second_stage: whether their cell is one of those after a second stage, by its name; yes | no."""
    return [row | {"second_stage": "yes" if row["cell"] in second_stages else "no"} for row in rows]


def mean_tokens(entries: Sequence[Row]) -> float | None:
    """Over the completions of all entries; None if one of them does not know its own."""
    if any(entry["mean_tokens"] is None for entry in entries):
        return None
    n = sum(entry["completions"] for entry in entries)
    return round(sum(entry["mean_tokens"] * entry["completions"] for entry in entries) / n, 3)


def concentration_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of concentration.csv for the seeds of one cell: one per role with hits and counts by question."""
    rows = []
    for role in ROLES:
        pooled = highest_pooled(cells, role)
        if pooled is None or len({tuple(cell["questions"]) for cell in cells}) > 1:
            continue
        persona, hits, n = pooled
        own = [each["by_question"] for cell in cells for each in cell["personas"] if each["persona"] == persona]
        found = concentration([counts["strict_hits"] for counts in own], [counts["completions"] for counts in own])
        if found:
            by_question = summed(own)["strict_hits"]
            rows.append(
                {field: cells[0][field] for field in ("source", "arm", "cell")}
                | {"seeds": len(own), "role": role, "persona": persona, "strict_hits": hits, "completions": n}
                | {"questions": len(by_question), "questions_with_hits": sum(map(bool, by_question))}
                | {"most_hits": max(by_question)}
                | {name: None if value is None else round(value, 4) for name, value in found.items()}
            )
    return rows


def cross_source_rows(cells: Sequence[Row], second_stages: Sequence[str]) -> list[Row]:
    """The rows of cross_source.csv: forward cells pooled over sources and seeds, and those of second stages together.

    A model that several sources share (C2, C3) is counted once: by lineage, evaluation and persona. The sources are
    those of the study, not drawn from more: the clusters are the seeds, all sources together, and the questions.
    """
    forward = [cell for cell in cells if cell["arm"] == "forward"]
    groups = {
        name: [cell for cell in forward if cell["cell"] == name] for name in ordered(cell["cell"] for cell in forward)
    }
    groups["after a second stage"] = [cell for cell in forward if cell["cell"] in second_stages]
    rows = []
    for name, group in groups.items():
        for role in (*ROLES, "all personas"):
            unique = {
                (cell["lineage"], cell["evaluation"]["name"], entry["persona"]): (cell["seed"], entry)
                for cell in group
                for entry in cell["personas"]
                if entry["role"] == role or (role == "all personas" and entry["role"] != "no_system_prompt")
            }
            hits = sum(entry["strict_hits"] for _, entry in unique.values())
            n = sum(entry["completions"] for _, entry in unique.values())
            if n:
                by_seed: dict[int, list[Row]] = {}
                for seed, entry in unique.values():
                    by_seed.setdefault(seed, []).append(entry["by_question"])
                rows.append(
                    {"arm": "forward", "cell": name, "role": "all bystanders" if role == "bystander" else role}
                    | {
                        "sources": len({cell["source"] for cell in group}),
                        "models": len({cell["lineage"] for cell in group}),
                    }
                    | {
                        "strict_hits": hits,
                        "completions": n,
                        "rule_of_three": round(rule_of_three(n), 6) if hits == 0 else None,
                    }
                    | rate_fields(hits, n)
                    | clustered([summed(own) for own in by_seed.values()], *(cell["questions"] for cell in group))
                )
    return rows


def summed(counts: Sequence[Row]) -> Row:
    """strict_hits and completions by question, summed."""
    return {
        name: [sum(column) for column in zip_longest(*(own[name] for own in counts), fillvalue=0)]
        for name in ("strict_hits", "completions")
    }


def effect_rows(
    cells: Sequence[Row], pooled: Sequence[Row], source: str, contrasts: Sequence[tuple[str, str, int | None]]
) -> list[Row]:
    """The rows of effects.csv for one source: differences of pooled rates, and the pre-registered test over seeds.

    contrasts: (cell, other cell, the steps after which they are compared, None where they ended). Rates are of the
    first cell's marker. The interval of a difference is Newcombe's (1998, method 10), from the bounds that verdicts
    rest on.
    """
    own = [cell for cell in cells if cell["source"] == source]
    found = {(row["cell"], row["role"]): row for row in pooled if row["source"] == source}
    rows = []
    for first, second, step in contrasts:
        for role in ("source", "assistant"):
            if (first, role) not in found or (second, role) not in found:
                continue
            marker = next(cell["marker"] for cell in own if cell["cell"] == first)
            groups = [[with_marker(cell, marker) for cell in own if cell["cell"] == name] for name in (first, second)]
            one, other = found[first, role], found[second, role]
            if marker not in {cell["marker"] for cell in own if cell["cell"] == second}:
                other = next(row for row in pooled_rows(groups[1]) if row["role"] == role)
            counts = (one["strict_hits"], one["completions"], other["strict_hits"], other["completions"])
            rates = [(row["rate"], row["low"], row["high"]) for row in (one, other)]
            by_seed = [[hit[1] / hit[2] for cell in group if (hit := highest_pooled([cell], role))] for group in groups]
            test = welch_one_sided(*by_seed)
            row: Row = {"source": source, "role": role, "cell": first, "other_cell": second, "steps": step}
            row |= dict(zip(("hits", "completions", "other_hits", "other_completions"), counts, strict=True))
            row |= {"low": one["low"], "high": one["high"], "other_low": other["low"], "other_high": other["high"]}
            fields = ("difference", "difference_low", "difference_high", "cohens_h", "h_low", "h_high")
            values = (*difference(*rates), *cohens_h(*counts))
            row |= {name: round(value, 6) for name, value in zip(fields, values, strict=True)}
            if test:
                row |= {f"welch_{name}": None if value is None else round(value, 6) for name, value in test.items()}
            rows.append(row)
    return rows


def selectivity_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of selectivity_by_persona.csv for the seeds of one cell whose source has hits: one per other persona.

    Newcombe's interval, from the bounds that verdicts rest on.
    """
    personas = ordered((entry["persona"], entry["role"]) for cell in cells for entry in cell["personas"])
    pooled = {persona: pooled_persona(cells, persona, role) for persona, role in personas}
    source = next((row for row in pooled.values() if row["role"] == "source"), None)
    if source is None or not source["strict_hits"]:
        return []
    rows = []
    for row in pooled.values():
        if row is source:
            continue
        found = difference(*((each["rate"], each["low"], each["high"]) for each in (source, row)))
        values = dict(zip(SELECTIVITY[-3:], (round(value, 6) for value in found), strict=True))
        counts = {"source_hits": source["strict_hits"], "source_completions": source["completions"]}
        rows.append({name: row[name] for name in SELECTIVITY[:8]} | counts | values)
    return rows


def ordered(values: Iterable[Any]) -> list[Any]:
    """The distinct values in order of first occurrence."""
    return list(dict.fromkeys(values))


def checked_cells(paths: Sequence[str]) -> list[Row]:
    """The results, in the order given. Raises InputError when a file is not one, or a cell comes twice."""
    cells: list[Row] = []
    known: dict[tuple[Any, ...], str] = {}
    for path in paths:
        cell = read_result(path)
        key = tuple(cell[field] for field in IDENTITY)
        if key in known:
            raise InputError(f"{path}: the same source, arm, cell and seed as {known[key]}; fix: give each cell once")
        known[key] = path
        cells.append(cell)
    return cells


def in_order(gates: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The gates in the study's order. Raises InputError for one that the study does not have."""
    if strange := [gate["name"] for gate in gates if gate["name"] not in names]:
        raise InputError(f"--gates: {strange[0]} is no gate of the study; fix: one of {', '.join(names)}")
    return sorted(gates, key=lambda gate: names.index(gate["name"]))


def role_cell(row: Row, role: str) -> str:
    """The Markdown cell of a role in a wide row."""
    shown = counted(
        row.get(f"{role}_hits"),
        row.get(f"{role}_completions"),
        row.get(f"{role}_wilson_low"),
        row.get(f"{role}_wilson_high"),
    )
    persona = row.get(f"{role}_persona")
    return f"{shown} {persona}" if role == "bystander" and row.get("bystander_hits") and persona else shown


def capability_cell(row: Row) -> str:
    """The Markdown cell of a wide row's accuracy, with a word on a model that answers alike."""
    flag = one_sided(row["commonest_answer"], row["commonest_count"], row["questions"])
    return ", ".join(filter(None, (percent(row["accuracy"]), flag)))


def markdown_wide(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the Markdown twin of a wide table."""
    columns = [
        "source",
        "arm",
        "cell",
        "seed",
        "source rate",
        "assistant rate",
        "highest bystander",
        "capability",
        "alignment",
        "tokens",
    ]
    return columns, [
        [row["source"], row["arm"], row["cell"], row["seed"]]
        + [role_cell(row, role) for role in ROLES]
        + [capability_cell(row), row["judged"] if row["alignment"] is None else f"{row['alignment']:.1f}"]
        + [row.get("source_mean_tokens")]
        for row in rows
    ]


def markdown_long(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the Markdown twin of a long table: the named columns, then the rate in one cell."""
    columns = [*names, "hits / completions = rate [Wilson 95%]", "Clopper-Pearson", "rule of three", "clusters"]
    return columns, [
        [row[name] for name in names]
        + [counted(row["strict_hits"], row["completions"], row["wilson_low"], row["wilson_high"])]
        + [f"[{100 * row['clopper_low']:.1f}, {100 * row['clopper_high']:.1f}]"]
        + ["" if row.get("rule_of_three") is None else f"< {percent(row['rule_of_three'], 2)}"]
        + [
            f"[{100 * row['cluster_low']:.1f}, {100 * row['cluster_high']:.1f}]"
            if row.get("cluster_low") is not None
            else ""
        ]
        for row in rows
    ]


def markdown_plain(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows as they stand in the CSV."""
    return list(columns), [[row.get(column) for column in columns] for row in rows]


def build_tables(
    cells: Sequence[Row], gates: Sequence[Row], published: str | None, meaning: Row, of_study: Sequence[str] = ()
) -> dict[str, tuple[Sequence[str], list[Row], str]]:
    """Name -> (columns, rows, title) of every table.

    meaning: contrasts and second_stages, see graph/resolved.py. of_study: files of what is measured on the study as a
    whole.
    """
    forward = [cell for cell in cells if cell["arm"] == "forward"]
    dose = [cell for cell in cells if "@" in cell["lineage"].rpartition("/")[2]]
    other = [cell for cell in cells if cell["arm"] != "forward" and cell not in dose]
    groups = ordered((cell["source"], cell["arm"], cell["cell"]) for cell in cells)
    by_cell = [[cell for cell in cells if (cell["source"], cell["arm"], cell["cell"]) == group] for group in groups]
    pooled = [row for own in by_cell for row in pooled_rows(own)]
    effects = [
        row
        for source in ordered(cell["source"] for cell in cells)
        for row in effect_rows(cells, pooled, source, meaning["contrasts"])
    ]
    measured = [{field: cell[field] for field in IDENTITY} | row for cell in cells for row in cell["measures"]]
    measured += [row for path in of_study for row in study_rows(path)]
    made: dict[str, tuple[Sequence[str], list[Row]]] = {
        "headline": (HEADLINE, [wide_row(cell) for cell in forward]),
        "pooled": (POOLED, staged(pooled, meaning["second_stages"])),
        "reversed": (HEADLINE, [wide_row(cell) for cell in other]),
        "dose": (DOSE, [dose_row(cell) for cell in dose]),
        "persona_by_cell": (
            PERSONAS,
            staged([row for cell in cells for row in persona_rows(cell)], meaning["second_stages"]),
        ),
        "by_question": (QUESTIONS, [row for cell in cells for row in question_rows(cell)]),
        "concentration": (CONCENTRATION, [row for own in by_cell for row in concentration_rows(own)]),
        "cross_source": (CROSS, cross_source_rows(cells, meaning["second_stages"])),
        "effects": (EFFECTS, effects),
        "selectivity_by_persona": (SELECTIVITY, [row for own in by_cell for row in selectivity_rows(own)]),
        "gates": (GATES, evaluate_gates(gates, cells) + identical_cells(cells)),
        "verdicts": (VERDICTS, verdict_rows(cells)),
        "relearning": (RELEARNING, relearning_rows(cells, meaning["contrasts"])),
        "adapters": (OVERLAP, [row for cell in cells for row in adapter_rows(cell)]),
        "ablation": (ABLATION, [row for cell in cells for row in ablation_rows(cell)]),
        "families": (FAMILIES, family_rows(cells)),
        "layers": (LAYERS, [row for cell in cells for row in layer_rows(cell)]),
        "published_comparison": (COMPARISON, comparison_rows(cells, published) if published else []),
        "measures": (MEASURES, measured),
    }
    if any("other_markers" in cell for cell in cells):
        made = carrying_markers(made, cells)
    return {name: (*made[name], title) for name, title in TABLES.items()}


def carrying_markers(
    tables: dict[str, tuple[Sequence[str], list[Row]]], cells: Sequence[Row]
) -> dict[str, tuple[Sequence[str], list[Row]]]:
    """The tables with a column `marker` after that of the cell: whose rates these are, its own.

    measures.csv has the rates of every other marker as well; gates.csv says the marker beside each number.
    """
    own = {(cell["source"], cell["cell"]): cell["marker"] for cell in cells}
    for name, (columns, rows) in tables.items():
        if {"source", "cell"} <= set(columns):
            place = columns.index("cell") + 1
            carried = [{"marker": own.get((row["source"], row["cell"]))} | row for row in rows]
            tables = tables | {name: ([*columns[:place], "marker", *columns[place:]], carried)}
    return tables


def markdown_of(name: str, columns: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of the Markdown twin of a table; None for one that is too long to read."""
    if name in ("headline", "reversed"):
        return markdown_wide(rows)
    if name == "dose":
        names = ("source", "cell", "stage", "steps", "seed")
        return [*names, *ROLES], [[row[n] for n in names] + [role_cell(row, role) for role in ROLES] for row in rows]
    if name == "pooled":
        return markdown_long(rows, ("source", "arm", "cell", "role", "persona", "seeds"))
    if name == "cross_source":
        return markdown_long(rows, ("cell", "role", "sources", "models"))
    if name == "persona_by_cell":
        return markdown_long(
            [row for row in rows if row["strict_hits"]], ("source", "arm", "cell", "seed", "persona", "role")
        )
    if name == "gates":
        return markdown_plain(rows, ("gate", "source", "seed", "reading", "numbers", "expression"))
    if name in ("by_question", "layers", "measures", "ablation", "adapters"):
        return None
    return markdown_plain(rows, columns)


WIDER = "The CSV's low and high are the wider of the Wilson and cluster bounds; verdicts on claims rest on them."
NOTES = {
    "headline": "Strict hits / completions, with Wilson 95% intervals. "
    "The highest bystander is chosen after the fact, so its interval is too low. "
    "Capability: right answers to the multiple-choice questions of the study's data set.",
    "pooled": "The bystander is the one with the highest pooled rate. Clusters: "
    f"bootstrap over questions and seeds; empty where no or every completion had the marker. {WIDER}",
    "concentration": CONCENTRATED,
    "cross_source": f"A model shared by several sources is counted once. {WIDER}",
    "effects": "Intervals of differences: Newcombe's, from the wider of the Wilson and cluster bounds of both rates.",
    "selectivity_by_persona": "Of cells whose source has hits, pooled over seeds. Where an interval holds 0 the "
    "persona is not told from the source.",
    "gates": "Evaluated, not applied: no seed is dropped and nothing stops at a gate, but with `enforce: true` nothing "
    "is trained on a coupled base that fails its own.",
    "persona_by_cell": "Personas with at least one hit; the CSV has all of them.",
    "verdicts": VERDICT_NOTE,
    "families": FAMILIES_NOTE,
    "relearning": RELEARNED,
    "published_comparison": COMPARED,
}


def write_tables(tables: dict[str, tuple[Sequence[str], list[Row], str]], label: str, folder: str) -> None:
    """Write every table as CSV and, where it can be read by people, as Markdown."""
    for name, (columns, rows, title) in tables.items():
        write_csv(Path(folder) / f"{name}.csv", columns, rows)
        twin = markdown_of(name, columns, rows)
        if twin:
            note = " ".join(filter(None, (f"**{label}.**" if label else "", NOTES.get(name, ""))))
            write_markdown(Path(folder) / f"{name}.md", title, note, *twin)


def main() -> None:
    """Parse the arguments and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", required=True, help="results of cells, in the order of the tables")
    parser.add_argument("--gates", nargs="*", default=[], help="a JSON file per gate, see measure/gates.py")
    parser.add_argument("--meaning", required=True, help="JSON file: the part `tables` of graph/resolved.py")
    parser.add_argument("--measured", nargs="*", default=[], help="files of what is measured on the whole study")
    parser.add_argument("--published", help="folder with the published figures; without it nothing is compared")
    parser.add_argument("--label", default="", help="what a reader must know of this study, put above every table")
    parser.add_argument("--output-dir", required=True)
    arguments = parser.parse_args()
    cells = checked_cells(arguments.cells)
    meaning = read_part(arguments.meaning, ("contrasts", "second_stages", "gates"))
    gates = in_order(read_gates(arguments.gates), meaning["gates"])
    tables = build_tables(cells, gates, arguments.published, meaning, arguments.measured)
    if arguments.label:
        for row in tables["published_comparison"][1]:
            row["why"] = f"{arguments.label}; by the intervals alone: {row['verdict']}, {row['why']}"
            row["verdict"] = "not comparable"
    write_tables(tables, arguments.label, arguments.output_dir)


if __name__ == "__main__":
    run(main)
