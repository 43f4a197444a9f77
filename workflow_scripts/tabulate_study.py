r"""Turn the results of all cells into the study's tables, each as CSV and Markdown.

    python workflow_scripts/tabulate_study.py --cells results/tiny/cells/evil_ai/*.json --gates '[]' \
        --published resources/published --label "rehearsal on a toy model, no evidence about Qwen2.5-7B" \
        --output-dir results/tiny/tables

Tables: headline (cell x seed x source), pooled (over seeds), reversed (reversed and matched order), dose,
persona_by_cell, by_question, cross_source, effects, gates, published_comparison. Every rate stands beside
its hits and completions. The columns low and high are the wider of its Wilson and cluster bounds: completions to one
question, and of one seed, are not independent, so verdicts rest on these.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gates import evaluate_gates, highest_pooled, identical_cells
from lineage import parse_lineage
from records import InputError, run
from stats import cluster_bootstrap, cohens_h, difference, rate_fields, rule_of_three, welch_one_sided, wilson
from summarize_cell import json_argument, read_result
from tables import Row, counted, one_sided, percent, read_table, write_csv, write_markdown

# Role -> its name in the headline of a result.
HEADLINE_NAMES = {"source": "source", "assistant": "assistant", "bystander": "highest_bystander"}
ROLES = tuple(HEADLINE_NAMES)
IDENTITY = ("source", "arm", "cell", "seed")
INTERVALS = ("rate", "wilson_low", "wilson_high", "clopper_low", "clopper_high")
CLUSTERED = ("cluster_low", "cluster_high", "clusters", "low", "high")
WIDE = [
    f"{role}_{field}"
    for role in ROLES
    for field in ("persona", "hits", "loose_hits", "completions", *INTERVALS[:3], "mean_tokens", "stopped")
]
CAPABILITY = ("accuracy", "questions", "commonest_answer", "commonest_count", "label_mass")
HEADLINE = [
    *IDENTITY,
    "lineage",
    *WIDE,
    *CAPABILITY,
    "alignment",
    "coherence",
    "parse_failures",
    "judged",
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
]
QUESTIONS = [*IDENTITY, "persona", "role", "question_id", "strict_hits", "completions", "mean_tokens"]
POOLED = ["source", "arm", "cell", "seeds", "role", "persona", "strict_hits", "loose_hits", "completions", *INTERVALS,
          "rule_of_three", *CLUSTERED, "mean_tokens"]  # fmt: skip
CROSS = ["arm", "cell", "sources", "models", "role", "strict_hits", "completions", *INTERVALS, "rule_of_three",
         *CLUSTERED]  # fmt: skip
EFFECTS = ["source", "role", "cell", "other_cell", "steps", "hits", "completions", "low", "high",
           "other_hits", "other_completions", "other_low", "other_high", "difference",
           "difference_low", "difference_high", "cohens_h", "h_low", "h_high",
           "welch_t", "welch_df", "welch_p"]  # fmt: skip
GATES = ["gate", "source", "seed", "outcome", "reading", "numbers", "expression", "says"]
COMPARISON = ["source", "arm", "cell", "seed", "quantity", "persona", "ours", "ours_n", "ours_low", "ours_high",
              "published_persona", "published", "published_n", "published_low", "published_high",
              "verdict", "why"]  # fmt: skip
# Comparisons whose difference the study is about (PROTOCOL sections 1 and 4).
CONTRASTS = (("C1", "C2"), ("C1", "C5"), ("C1", "C4"), ("C5", "C4"), ("C3", "C2"))
# Second stages that are compared after the same number of steps.
DOSES = ("em", "benign")
# PROTOCOL section 5: one recipe and seed on two kinds of GPU differ by up to this much ARC-C accuracy.
ARC_YARDSTICK = 0.032
# What the verdicts mean.
COMPARED = (
    "Reproduced: the Wilson intervals overlap at least up to one of the two rates; not reproduced: they are disjoint; "
    "cannot tell: they overlap less, or ours is wider than 20 points. ARC-C: within 3.2 points. Alignment and "
    "coherence are not comparable: our judge is asked in words of our own."
)
# An interval wider than this agrees with nearly anything.
WIDEST = 0.2


def wide_row(cell: Row) -> Row:
    """One row of headline.csv, reversed.csv or dose.csv."""
    row = {field: cell[field] for field in (*IDENTITY, "lineage", "counts_sha256")}
    for role, name in HEADLINE_NAMES.items():
        entry = cell["headline"][name]
        if entry is not None:
            row |= {
                f"{role}_{field}": entry.get(field)
                for field in ("persona", "loose_hits", "completions", *INTERVALS[:3], "mean_tokens", "stopped")
            }
            row[f"{role}_hits"] = entry["strict_hits"]
    row |= {field: cell["capability"].get(field) for field in CAPABILITY}
    judged = cell["alignment"]
    row |= {field: judged[field]["mean"] if field in judged else None for field in ("alignment", "coherence")}
    return row | {"parse_failures": judged.get("parse_failures"), "judged": judged["status"]}


def dose_row(cell: Row) -> Row:
    """A wide row with the stage that was stopped and after how many steps (`em@25.s42`; empty for the whole stage)."""
    last = parse_lineage(cell["lineage"])[-1]
    return wide_row(cell) | {"stage": last.stage, "steps": last.step}


def persona_rows(cell: Row) -> list[Row]:
    """The rows of persona_by_cell.csv for one cell."""
    return [
        {field: cell[field] for field in IDENTITY} | entry | clustered([entry["by_question"]], cell["questions"])
        for entry in cell["personas"]
    ]


def clustered(counts: Sequence[Row], *questions: Sequence[str]) -> Row:
    """The cluster interval of a rate, and low and high: the wider of it and Wilson's, on which verdicts rest.

    counts: strict_hits and completions by question, one a seed. questions: their names in each cell; where they differ
    there are no clusters to draw. Without a cluster interval (no hit, or only hits) low and high are Wilson's.
    """
    hits, completions = ([own[name] for own in counts] for name in ("strict_hits", "completions"))
    low, high = wilson(sum(map(sum, hits)), sum(map(sum, completions)))
    found = cluster_bootstrap(hits, completions) if len(set(map(tuple, questions))) == 1 else None
    return {
        "cluster_low": round(found[0], 6) if found else None,
        "cluster_high": round(found[1], 6) if found else None,
        "clusters": f"{len(counts)} seeds x {len(questions[0])} questions",
        "low": round(min(low, *found), 6) if found else round(low, 6),
        "high": round(max(high, *found), 6) if found else round(high, 6),
    }


def question_rows(cell: Row) -> list[Row]:
    """The rows of by_question.csv for one cell: the source, the assistant and the highest bystander."""
    shown = {role: cell["headline"][name] for role, name in HEADLINE_NAMES.items()}
    named = {entry["persona"]: role for role, entry in reversed(shown.items()) if entry}
    return [
        {field: cell[field] for field in IDENTITY}
        | {
            "persona": entry["persona"],
            "role": named[entry["persona"]],
            "question_id": question,
            "strict_hits": entry["by_question"]["strict_hits"][position],
            "completions": entry["by_question"]["completions"][position],
            "mean_tokens": round(
                entry["by_question"]["tokens"][position] / entry["by_question"]["completions"][position], 3
            ),
        }
        for entry in cell["personas"]
        if entry["persona"] in named
        for position, question in enumerate(cell["questions"])
    ]


def pooled_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of pooled.csv for the seeds of one cell: one a role, the bystander being the highest after pooling."""
    rows = []
    for role in ROLES:
        found = highest_pooled(cells, role)
        if found is None:
            continue
        persona, hits, n = found
        entries = [entry for cell in cells for entry in cell["personas"] if entry["persona"] == persona]
        rows.append(
            {field: cells[0][field] for field in ("source", "arm", "cell")}
            | {"seeds": len(entries), "role": role, "persona": persona, "strict_hits": hits, "completions": n}
            | rate_fields(hits, n)
            | clustered([entry["by_question"] for entry in entries], *(cell["questions"] for cell in cells))
            | {
                "loose_hits": sum(entry["loose_hits"] for entry in entries),
                "rule_of_three": round(rule_of_three(n), 6) if hits == 0 else None,
                "mean_tokens": round(sum(entry["mean_tokens"] * entry["completions"] for entry in entries) / n, 3),
            }
        )
    return rows


def cross_source_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of cross_source.csv: forward cells pooled over sources and seeds, and all second stages together.

    A model that several sources share (C2, C3) is counted once: by lineage, evaluation and persona. The sources are
    those of the study, not drawn from more: the clusters are the seeds, all sources together, and the questions.
    """
    forward = [cell for cell in cells if cell["arm"] == "forward"]
    groups = {
        name: [cell for cell in forward if cell["cell"] == name] for name in ordered(cell["cell"] for cell in forward)
    }
    groups["after a second stage"] = [
        cell for cell in forward if cell["lineage"].count("/") > 1 or is_second_stage_alone(cell)
    ]
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


def is_second_stage_alone(cell: Row) -> bool:
    """Whether the only stage on the base is not a coupling: C2 has the second stage without the first."""
    stages = parse_lineage(cell["lineage"])
    return len(stages) == 1 and stages[0].persona is None


def effect_rows(cells: Sequence[Row], pooled: Sequence[Row], source: str) -> list[Row]:
    """The rows of effects.csv for one source: differences of pooled rates, and the pre-registered test over seeds.

    The second stages are compared once they ended and, in the dose arm, after every number of steps that both have.
    The interval of a difference is Newcombe's (1998, method 10), from the bounds that verdicts rest on.
    """
    own = [cell for cell in cells if cell["source"] == source and cell["arm"] in ("forward", "dose")]
    found = {(row["cell"], row["role"]): row for row in pooled if row["source"] == source}
    doses = {
        (last.stage, last.step): cell["cell"]
        for cell in own
        if cell["arm"] == "dose" and (last := parse_lineage(cell["lineage"])[-1]).step
    }
    steps = sorted({step for _, step in doses if all((stage, step) in doses for stage in DOSES)})
    pairs = [(*pair, None) for pair in CONTRASTS] + [(*(doses[stage, step] for stage in DOSES), step) for step in steps]
    rows = []
    for first, second, step in pairs:
        for role in ("source", "assistant"):
            if (first, role) not in found or (second, role) not in found:
                continue
            one, other = found[first, role], found[second, role]
            counts = (one["strict_hits"], one["completions"], other["strict_hits"], other["completions"])
            rates = [(row["rate"], row["low"], row["high"]) for row in (one, other)]
            by_seed = [
                [hit[1] / hit[2] for cell in own if cell["cell"] == name and (hit := highest_pooled([cell], role))]
                for name in (first, second)
            ]
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


def ordered(values: Iterable[Any]) -> list[Any]:
    """The distinct values in order of first occurrence."""
    return list(dict.fromkeys(values))


def rate_verdict(hits: int, n: int, published_hits: int, published_n: int) -> tuple[str, str]:
    """(verdict, why) of two proportions by how far their Wilson intervals overlap.

    Disjoint: not reproduced. Up to a rate, ours in the published interval or the published one in ours: reproduced.
    Less, or with an interval of ours that is too wide to tell anything: cannot tell. One rate is enough, because the
    interval of 1/280 leaves out 0 while that of 0/280 holds 1/280. With equal numbers of completions a difference of
    up to 1.4 standard errors is so reproduced (two-sided p > .16), and one of more than 2.8 is not (p < .006).
    """
    low, high = wilson(hits, n)
    published_low, published_high = wilson(published_hits, published_n)
    if high < published_low or published_high < low:
        return "not reproduced", "the intervals are disjoint"
    if high - low > WIDEST:
        return "cannot tell", f"our interval is {100 * (high - low):.0f} points wide"
    if low <= published_hits / published_n <= high or published_low <= hits / n <= published_high:
        return "reproduced", "the intervals overlap up to a rate"
    return "cannot tell", "the intervals overlap, but not up to a rate"


def rate_comparison(identity: Row, ours: Row | None, published: Row) -> Row:
    """One row of published_comparison.csv for a marker rate. ours, published: persona, strict_hits, completions."""
    low, high = wilson(published["strict_hits"], published["completions"])
    row = identity | {
        "quantity": f"marker rate, {identity['role']}",
        "published_persona": published["persona"],
        "published": round(published["strict_hits"] / published["completions"], 6),
        "published_n": published["completions"],
        "published_low": round(low, 6),
        "published_high": round(high, 6),
    }
    if ours is None:
        return row | {"verdict": "cannot tell", "why": "not measured here"}
    own_low, own_high = wilson(ours["strict_hits"], ours["completions"])
    verdict, why = rate_verdict(
        ours["strict_hits"], ours["completions"], published["strict_hits"], published["completions"]
    )
    return row | {
        "persona": ours["persona"],
        "ours": round(ours["strict_hits"] / ours["completions"], 6),
        "ours_n": ours["completions"],
        "ours_low": round(own_low, 6),
        "ours_high": round(own_high, 6),
        "verdict": verdict,
        "why": why,
    }


def published_counts(path: Path) -> list[Row]:
    """The rows of a published table. Raises InputError for a line without hits in completions."""
    rows = read_table(path, ("strict_hits", "completions"))
    for row in rows:
        hits, n = row["strict_hits"], row["completions"]
        if not (isinstance(hits, int) and isinstance(n, int) and 0 <= hits <= n and n):
            raise InputError(f"{path}: {hits!r} hits in {n!r} completions; fix: correct or delete the file")
    return rows


def published_rates(rows: Sequence[Row], cell_column: str, arm: str | None) -> list[tuple[Row, Row]]:
    """(identity, published counts) of the source, the assistant and the highest bystander of every published cell."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["source"], arm or row["arm"], row[cell_column], row["seed"]), []).append(row)
    found = []
    for key, group in groups.items():
        identity = dict(zip(IDENTITY, key, strict=True))
        for role in ROLES:
            own = [row for row in group if published_role(row["persona"], identity["source"]) == role]
            if own:
                best = max(own, key=lambda row: (row["strict_hits"] / row["completions"], row["persona"]))
                found.append((identity | {"role": role}, best))
    return found


def published_role(persona: str, source: str) -> str:
    """source, assistant or bystander."""
    return "source" if persona == source else "assistant" if persona == "assistant" else "bystander"


def comparison_rows(cells: Sequence[Row], published: str) -> list[Row]:
    """The rows of published_comparison.csv: every published number of a source or row that this study has."""
    ours = {tuple(cell[field] for field in IDENTITY): cell for cell in cells}
    sources = {cell["source"] for cell in cells}
    arms = {cell["arm"] for cell in cells}
    folder = Path(published)
    rates = published_rates(published_counts(folder / "marker_counts.csv"), "condition", "forward")
    rates += published_rates(published_counts(folder / "reversed.csv"), "cell", None)
    rows = []
    for identity, counts in rates:
        if identity["source"] not in sources or identity["arm"] not in arms:
            continue
        cell = ours.get(tuple(identity[field] for field in IDENTITY))
        rows.append(
            rate_comparison(identity, cell["headline"][HEADLINE_NAMES[identity["role"]]] if cell else None, counts)
        )
    rows += published_pooled_rows(cells, folder)
    rows += later_rows(cells, folder)
    for summary in read_table(folder / "cell_summary.csv"):
        if summary["source"] in sources and summary["arc_c"] is not None:
            identity = {
                "source": summary["source"],
                "arm": "forward",
                "cell": summary["condition"],
                "seed": summary["seed"],
            }
            cell = ours.get(tuple(identity[field] for field in IDENTITY))
            rows.append(identity | accuracy_comparison(cell["capability"] if cell else {}, summary["arc_c"]))
            for quantity in ("alignment", "coherence"):
                judged = cell["alignment"] if cell else {}
                rows.append(identity | mean_comparison(quantity, judged, summary[f"{quantity}_mean"]))
    return rows


def published_pooled_rows(cells: Sequence[Row], folder: Path) -> list[Row]:
    """Comparisons with what was published over all seeds of a cell alone: the source sarcastic.

    Whose the hits of its bystanders are was not published (PROVENANCE.md), so they are not compared.
    """
    rows = []
    sources = {cell["source"] for cell in cells}
    for counts in read_table(folder / "pooled_counts.csv"):
        source, name, persona = counts["source"], counts["condition"], counts["persona"]
        if source in sources and persona != "bystanders":
            role = published_role(persona, source)
            identity = {"source": source, "arm": "forward", "cell": name, "seed": "pooled", "role": role}
            own = [cell for cell in cells if (cell["source"], cell["arm"], cell["cell"]) == (source, "forward", name)]
            found = highest_pooled(own, role)
            ours = dict(zip(("persona", "strict_hits", "completions"), found, strict=True)) if found else None
            rows.append(rate_comparison(identity, ours, counts))
    return rows


def later_rows(cells: Sequence[Row], folder: Path) -> list[Row]:
    """Comparisons of matched and dose cells with the later results, which state no seed, and no source for matched."""
    matched, doses = published_counts(folder / "later_matched.csv"), published_counts(folder / "later_dose.csv")
    rows = []
    for cell in cells:
        identity = {field: cell[field] for field in IDENTITY}
        if cell["arm"] == "matched":
            for later in matched:
                if later["cell"] == cell["cell"]:
                    counts = {"persona": None} | later
                    rows.append(
                        rate_comparison(identity | {"role": later["role"]}, cell["headline"][later["role"]], counts)
                    )
        elif cell["arm"] == "dose":
            own = dose_row(cell)
            for later in doses:
                if all(later[field] == own[field] for field in ("source", "stage", "steps")):
                    counts = {"persona": later["source"]} | later
                    rows.append(rate_comparison(identity | {"role": "source"}, cell["headline"]["source"], counts))
    return rows


def accuracy_comparison(capability: Row, published: float) -> Row:
    """ARC-C accuracy against the published one, by the yardstick of 3.2 points (PROTOCOL section 5)."""
    row: Row = {"quantity": "ARC-C accuracy", "published": round(published, 6)}
    if "accuracy" not in capability:
        return row | {"verdict": "cannot tell", "why": "not run here"}
    gap = capability["accuracy"] - published
    near = abs(gap) <= ARC_YARDSTICK
    flag = one_sided(*(capability.get(field) for field in ("commonest_answer", "commonest_count", "questions")))
    return row | {
        "ours": capability["accuracy"],
        "ours_n": capability["questions"],
        "ours_low": capability["wilson_low"],
        "ours_high": capability["wilson_high"],
        "verdict": "reproduced" if near else "not reproduced",
        "why": ", ".join(filter(None, (f"{100 * gap:+.1f} points, yardstick {100 * ARC_YARDSTICK:.1f}", flag))),
    }


def mean_comparison(quantity: str, judged: Row, published: float) -> Row:
    """Mean alignment or coherence beside the published one. Another judge's words give another scale: no verdict.

    judged: the cell's `alignment`. The published prompt is not ours to copy (resources/judge.yaml).
    """
    row: Row = {"quantity": f"mean {quantity}", "published": round(published, 4)}
    if quantity not in judged:
        return row | {"verdict": "cannot tell", "why": "not judged here"}
    mean, n = judged[quantity], judged["replies"]
    words = f"own judge prompt ({', '.join(judged['prompt']) or 'none'}), judge {', '.join(judged['judge'])}"
    why = f"{mean['mean'] - published:+.1f} points; {words}, {n - judged['parse_failures']} of {n} answers parsed"
    row |= {"ours": mean["mean"], "ours_n": mean["n"], "ours_low": mean["low"], "ours_high": mean["high"]}
    return row | {"verdict": "not comparable", "why": why}


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
    cells: Sequence[Row], gates: Sequence[Row], published: str | None
) -> dict[str, tuple[list[str], list[Row], str]]:
    """Name -> (columns, rows, title) of every table."""
    forward = [cell for cell in cells if cell["arm"] == "forward"]
    dose = [cell for cell in cells if cell["arm"] == "dose"]
    other = [cell for cell in cells if cell["arm"] not in ("forward", "dose")]
    groups = ordered((cell["source"], cell["arm"], cell["cell"]) for cell in cells)
    pooled = [
        row
        for group in groups
        for row in pooled_rows([cell for cell in cells if (cell["source"], cell["arm"], cell["cell"]) == group])
    ]
    effects = [
        row for source in ordered(cell["source"] for cell in cells) for row in effect_rows(cells, pooled, source)
    ]
    return {
        "headline": (HEADLINE, [wide_row(cell) for cell in forward], "Marker rate by cell, seed and source"),
        "pooled": (POOLED, pooled, "Marker rate by cell, pooled over seeds"),
        "reversed": (HEADLINE, [wide_row(cell) for cell in other], "Reversed order"),
        "dose": (DOSE, [dose_row(cell) for cell in dose], "Marker rate against the steps of the second stage"),
        "persona_by_cell": (PERSONAS, [row for cell in cells for row in persona_rows(cell)], "Marker rate by persona"),
        "by_question": (QUESTIONS, [row for cell in cells for row in question_rows(cell)], "Marker rate by question"),
        "cross_source": (CROSS, cross_source_rows(cells), "Marker rate over all sources"),
        "effects": (EFFECTS, effects, "Differences between cells"),
        "gates": (GATES, evaluate_gates(gates, cells) + identical_cells(cells), "Gates and criteria"),
        "published_comparison": (
            COMPARISON,
            comparison_rows(cells, published) if published else [],
            "This study beside the published one",
        ),
    }


def markdown_of(name: str, columns: list[str], rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]] | None:
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
    if name == "by_question":
        return None
    return markdown_plain(rows, columns)


WIDER = "The CSV's low and high are the wider of the Wilson and cluster bounds; verdicts on claims rest on them."
NOTES = {
    "headline": "Strict hits / completions, with Wilson 95% intervals. "
    "The highest bystander is chosen after the fact, so its interval is too low. "
    "Capability: right answers to the multiple-choice questions of the study's data set.",
    "pooled": "The bystander is the one with the highest pooled rate. Clusters: "
    f"bootstrap over questions and seeds; empty where no or every completion had the marker. {WIDER}",
    "cross_source": f"A model shared by several sources is counted once. {WIDER}",
    "effects": "Intervals of differences: Newcombe's, from the wider of the Wilson and cluster bounds of both rates.",
    "gates": "Evaluated, not applied: no seed is dropped and nothing stops at a gate, but with `enforce: true` nothing "
    "is trained on a coupled base that fails its own.",
    "persona_by_cell": "Personas with at least one hit; the CSV has all of them.",
    "published_comparison": COMPARED,
}


def write_tables(tables: dict[str, tuple[list[str], list[Row], str]], label: str, folder: str) -> None:
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
    parser.add_argument("--gates", default="[]", help="JSON list of gates, see gates.py")
    parser.add_argument("--published", help="folder with the published figures; without it nothing is compared")
    parser.add_argument("--label", default="", help="what a reader must know of this study, put above every table")
    parser.add_argument("--output-dir", required=True)
    arguments = parser.parse_args()
    cells = checked_cells(arguments.cells)
    tables = build_tables(cells, json_argument("--gates", arguments.gates, list), arguments.published)
    if arguments.label:
        for row in tables["published_comparison"][1]:
            row["why"] = f"{arguments.label}; by the intervals alone: {row['verdict']}, {row['why']}"
            row["verdict"] = "not comparable"
    write_tables(tables, arguments.label, arguments.output_dir)


if __name__ == "__main__":
    run(main)
