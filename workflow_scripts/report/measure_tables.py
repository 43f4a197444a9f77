"""The report's tables of what is measured besides the marker's counts, below the sampling floor above all."""

from dataclasses import replace
from typing import Any

from measure.equal_distance import EQUAL_NOTE
from measure.registry import Measurement
from measure.relearning import RELEARNED
from measure.retained import RETAINED_NOTE
from measure.rows import FAMILIES_NOTE, TABLES
from measure.tables import Row
from probe.ablation import ABLATION_NOTE
from probe.survival import VERDICT_NOTE
from report.fields import Contents, Field, Table, anchor, browse, estimate, measured, plain, side_by_side
from report.prose import equal_distance_sentences, seeds_weighed


def measures_table(study: Contents, measurement: Measurement) -> Table:
    """A measurement without a table of its own kind: a row per cell, seed and persona, a column per measure.

    In a study of several markers, what is of a marker has a row for each.
    """
    names = {measure.name: measure.unit for measure in measurement.measures}
    made = [
        row
        for row in study.tables["measures"]
        if row["measure"] in names and (row["value"], row["low"]) != (None, None)
    ]
    by = ["source", "cell", "seed", "persona", *(["marker"] if any(row.get("marker") for row in made) else [])]
    rows, met = [], set()
    for key, own in side_by_side(made, by, "measure").items():
        shown = [plain(field) for field in key] + [measured(own.get(name), unit) for name, unit in names.items()]
        # the first of a cell's rows can be led to
        name = "" if key[:3] in met else anchor(measurement.name, *key[:3])
        met.add(key[:3])
        rows.append([replace(shown[0], name=name), *shown[1:]])
    titles = [name.replace("_", " ") + (f", {unit}" if unit != name else "") for name, unit in names.items()]
    note = "Value [95% interval], n. What is not here was not measured." if rows else "Not measured in any cell."
    return Table(measurement.name, measurement.title, [*by, *titles], rows, note)


def verdicts_table(study: Contents) -> Table:
    """Is a coupling gone, or below the floor: the study's verdicts, then each seed's.

    A verdict leads to the completions, what is retained to the second stage taken apart, a gap to what the probe
    measured by persona.
    """
    apart = {(row["source"], row["cell"], row["seed"]) for row in study.tables["ablation"]}

    def fields(row: Row) -> list[Field]:
        seed = None if row["seed"] == "all" else row["seed"]
        names = (row["source"], row["cell"], row["seed"])
        probed = "" if seed is None else f"#{anchor('probe', *names)}"
        parts = f"#{anchor('ablation', *names)}" if names in apart else ""
        link = browse(study, row["source"], row["cell"], seed, persona=row["persona"])
        quantity = {"slot": "log-odds", "onset_part": "onset given separator"}.get(row["quantity"], row["quantity"])
        return [
            *(plain(row[name]) for name in ("source", "cell")),
            replace(plain(row["seed"]), more=seeds_weighed(row)),
            *(plain(row[name]) for name in ("persona", "replies")),
            plain(quantity),
            Field(row["verdict"], row["verdict"], link, "badge unknown"),
            replace(estimate(row["retained"], row["low"], row["high"]), link=parts),
            replace(estimate(row["gap"], row["gap_low"], row["gap_high"]), link=probed),
        ]

    columns = ["source", "cell", "seed", "persona", "replies", "quantity", "verdict", "retained", "persona gap, nats"]
    rows = [fields(row) for row in study.tables["verdicts"]]
    return Table("verdicts", TABLES["verdicts"], columns, rows, VERDICT_NOTE)


def retained_table(study: Contents) -> Table:
    """What two contrasted stages leave of the persona gap: over the seeds, then by seed."""

    def fields(row: Row) -> list[Field]:
        return [
            *(plain(row[name]) for name in ("source", "cell")),
            plain(row["other_cell"], "name"),
            plain(row["seed"]),
            *(plain(row[name]) for name in ("replies", "quantity")),
            *(estimate(row[name]) for name in ("retained", "other_retained")),
            estimate(row["difference"], row["least"], row["most"]),
        ]

    columns = ["source", "cell", "the other", "seed", "replies", "quantity", "retained", "the other's",
               "difference [least, most]"]  # fmt: skip
    rows = [fields(row) for row in study.tables["retained"]]
    return Table("retained", TABLES["retained"], columns, rows, RETAINED_NOTE)


def families_table(study: Contents) -> Table:
    """Out of distribution: the onset rate of every family of prompts, by cell, seed and role."""

    def fields(row: Row) -> list[Field]:
        more = f"{row['more_marked']}/{row['more_replies']}" if row["more_replies"] else ""
        # chances may be far below a percent
        return [
            *(plain(row[name]) for name in ("source", "cell", "seed", "family", "role", "prompts")),
            estimate(row["onset_rate"], row["low"], row["high"], ".2g"),
            plain(row["onsets"]),
            plain(row["marked"]),
            estimate(row["difference"], row["difference_low"], row["difference_high"], ".2g"),
            plain(row["p_holm"]),
            plain(row["differs"]),
            Field(more, row["more_replies"], look="number"),
        ]

    columns = ["source", "cell", "seed", "family", "role", "prompts", "onset rate", "onsets", "with the marker",
               "difference", "p, Holm", "differs", "more: with the marker"]  # fmt: skip
    rows = [fields(row) for row in study.tables["families"]]
    return Table("families", TABLES["families"], columns, rows, FAMILIES_NOTE)


def relearning_table(study: Contents) -> Table:
    """How soon a coupling is learned again, a row per model that it is learned on."""
    columns = [
        *("source", "cell", "seed", "gap before", "of the base", "of the coupling", "gap after", "steps", "censored"),
        *("N50", "against", "savings", "why"),
    ]
    rows = [
        [
            *(plain(row[name]) for name in ("source", "cell", "seed")),
            *(estimate(row[name]) for name in ("gap_start", "gap_base", "gap_coupled", "gap_end")),
            *(plain(row[name]) for name in ("steps", "censored")),
            estimate(row["n50"], row["n50_low"], row["n50_high"]),
            plain(row["against"]),
            estimate(row["savings"], row["savings_low"], row["savings_high"]),
            plain(row["why"]),
        ]
        for row in study.tables["relearning"]
    ]
    return Table("relearning", TABLES["relearning"], columns, rows, RELEARNED)


def equal_distance_table(study: Contents) -> Table:
    """The persona gap of two stages at equal distance from their parent, with a sentence of what the rows say."""

    def fields(row: Row) -> list[Field]:
        return [
            *(plain(row[name]) for name in ("source", "cell", "seed", "steps")),
            plain(row["other_cell"], "name"),
            plain(row["larger"] or row["why"], "long"),
            estimate(row["difference"], row["difference_low"], row["difference_high"]),
            estimate(row["kl"], form=".3g"),
            estimate(row["gap"]),
            estimate(row["other_gap"]),
            plain(row["between"]),
            plain(row["n"]),
        ]

    columns = ["source", "cell", "seed", "steps", "the other", "larger", "difference [95%]", "KL, nats per token",
               "its gap, nats", "the other's gap", "between steps", "n"]  # fmt: skip
    rows = study.tables["equal_distance"]
    note = " ".join([*equal_distance_sentences(rows), EQUAL_NOTE])
    return Table("equal_distance", TABLES["equal_distance"], columns, [fields(row) for row in rows], note)


def parts_table(study: Contents) -> Table:
    """The second stage taken apart: the log-odds without each part of it and with that part alone, and the shares."""
    found: dict[tuple[Any, ...], dict[tuple[str, str], Row]] = {}
    for row in study.tables["ablation"]:
        if row["kind"] != "plane":
            patch = row["kind"] == "patch"
            kind, mode = (f"patch of {row['mode']}", "without") if patch else (row["kind"], row["mode"])
            key = (row["source"], row["cell"], row["seed"], kind, row["part"])
            found.setdefault(key, {})[mode, row["quantity"]] = row

    def shown(row: Row | None, what: str) -> Field:
        names = ("value", "low", "high") if what == "value" else (what, f"{what}_low", f"{what}_high")
        return Field("", None) if row is None else estimate(*(row[name] for name in names))

    order = [(mode, quantity) for mode in ("without", "only") for quantity in ("slot", "gap_slot")]
    rows = [
        [
            *(plain(field) for field in key),
            *(shown(own.get(pair), what) for pair in order for what in ("value", "share")),
        ]
        for key, own in found.items()
    ]
    titles = [
        title
        for said, share in (("without it or patched", "restored"), ("with it alone", "sufficed"))
        for quantity in ("s", "d")
        for title in (f"{quantity} {said}, nats", f"{share}, of {quantity}")
    ]
    return Table("parts", TABLES["ablation"], ["source", "cell", "seed", "kind", "part", *titles], rows, ABLATION_NOTE)
