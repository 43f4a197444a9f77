"""Rows of the study's tables that several cells make together: pooled rates, and what differs between them."""

from collections.abc import Sequence
from itertools import zip_longest

from measure.cells import clustered, total_of, with_marker
from measure.gates import highest_pooled
from measure.rows import CLUSTERED, INTERVALS, ROLES
from measure.stats import cohens_h, concentration, difference, rate_fields, rule_of_three, welch_one_sided
from measure.tables import Row

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


def mean_tokens(entries: Sequence[Row]) -> float | None:
    """Over the completions of all entries; None if one of them does not know its own."""
    if any(entry["mean_tokens"] is None for entry in entries):
        return None
    n = sum(entry["completions"] for entry in entries)
    return round(sum(entry["mean_tokens"] * entry["completions"] for entry in entries) / n, 3)


def staged(rows: Sequence[Row], second_stages: Sequence[str]) -> list[Row]:
    """The rows with second_stage: whether their cell is one of those after a second stage, by its name; yes | no."""
    return [row | {"second_stage": "yes" if row["cell"] in second_stages else "no"} for row in rows]


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
    groups: dict[str, list[Row]] = {}
    for cell in forward:
        groups.setdefault(cell["cell"], []).append(cell)
    groups["after a second stage"] = [cell for cell in forward if cell["cell"] in second_stages]
    rows = (group_row(name, group, role) for name, group in groups.items() for role in (*ROLES, "all personas"))
    return [row for row in rows if row]


def group_row(name: str, group: Sequence[Row], role: str) -> Row | None:
    """A row of cross_source.csv: these cells' completions under a role, each model once; None if there are none."""
    entries = {
        (cell["lineage"], cell["evaluation"]["name"], entry["persona"]): (cell["seed"], entry)
        for cell in group
        for entry in cell["personas"]
        if entry["role"] == role or (role == "all personas" and entry["role"] != "no_system_prompt")
    }
    hits, n = (sum(entry[count] for _, entry in entries.values()) for count in ("strict_hits", "completions"))
    if not n:
        return None
    by_seed: dict[int, list[Row]] = {}
    for seed, entry in entries.values():
        by_seed.setdefault(seed, []).append(entry["by_question"])
    return (
        {"arm": "forward", "cell": name, "role": "all bystanders" if role == "bystander" else role}
        | {"sources": len({cell["source"] for cell in group}), "models": len({cell["lineage"] for cell in group})}
        | {"strict_hits": hits, "completions": n}
        | {"rule_of_three": round(rule_of_three(n), 6) if hits == 0 else None}
        | rate_fields(hits, n)
        | clustered([summed(own) for own in by_seed.values()], *(cell["questions"] for cell in group))
    )


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
    own: dict[str, list[Row]] = {}
    for cell in cells:
        if cell["source"] == source:
            own.setdefault(cell["cell"], []).append(cell)
    found = {(row["cell"], row["role"]): row for row in pooled if row["source"] == source}
    rows = []
    for first, second, step in contrasts:
        for role in ("source", "assistant"):
            if (first, role) in found and (second, role) in found:
                one, other = found[first, role], found[second, role]
                marker = own[first][0]["marker"]
                groups = [[with_marker(cell, marker) for cell in own[name]] for name in (first, second)]
                if marker not in {cell["marker"] for cell in own[second]}:
                    other = next(row for row in pooled_rows(groups[1]) if row["role"] == role)
                row = {"source": source, "role": role, "cell": first, "other_cell": second, "steps": step}
                rows.append(row | contrasted(one, other) | tested(groups, role))
    return rows


def contrasted(one: Row, other: Row) -> Row:
    """Fields of effects.csv: counts and bounds of two pooled rows, and their difference."""
    counts = (one["strict_hits"], one["completions"], other["strict_hits"], other["completions"])
    rates = [(row["rate"], row["low"], row["high"]) for row in (one, other)]
    fields = ("difference", "difference_low", "difference_high", "cohens_h", "h_low", "h_high")
    values = (*difference(*rates), *cohens_h(*counts))
    return (
        dict(zip(("hits", "completions", "other_hits", "other_completions"), counts, strict=True))
        | {"low": one["low"], "high": one["high"], "other_low": other["low"], "other_high": other["high"]}
        | {name: round(value, 6) for name, value in zip(fields, values, strict=True)}
    )


def tested(groups: Sequence[Sequence[Row]], role: str) -> Row:
    """Fields of effects.csv: the pre-registered test over the seeds of two cells; none where it cannot be made."""
    by_seed = [[hit[1] / hit[2] for cell in group if (hit := highest_pooled([cell], role))] for group in groups]
    test = welch_one_sided(*by_seed) or {}
    return {f"welch_{name}": None if value is None else round(value, 6) for name, value in test.items()}


def selectivity_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of selectivity_by_persona.csv for the seeds of one cell whose source has hits: one per other persona.

    Newcombe's interval, from the bounds that verdicts rest on.
    """
    personas = dict.fromkeys((entry["persona"], entry["role"]) for cell in cells for entry in cell["personas"])
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
