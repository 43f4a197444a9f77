"""Rows of the study's tables, made from a cell's JSON."""

from collections import Counter
from collections.abc import Sequence

from graph.lineage import parse_lineage
from measure.cells import WHOLE
from measure.registry import SECTIONS, at
from measure.sections import ADAPTERS
from measure.stats import LEVEL
from measure.tables import Row
from probe.ablation import RESULT
from probe.survival import of_all

# The study's tables in reading order: name -> title.
TABLES = {
    "headline": "Marker rate by cell, seed and source",
    "pooled": "Marker rate by cell, pooled over seeds",
    "reversed": "Reversed order, and other arms",
    "dose": "Marker rate against the steps of the second stage",
    "persona_by_cell": "Marker rate by persona",
    "by_question": "Marker rate by question",
    "concentration": "Do hits gather on few questions",
    "cross_source": "Marker rate over all sources",
    "effects": "Differences between cells",
    "selectivity_by_persona": "The source's rate minus every other persona's",
    "gates": "Gates and criteria",
    "verdicts": "Is the coupling gone, or below the floor",
    "retained": "What two contrasted stages leave of the persona gap",
    "relearning": "How soon the coupling is learned again",
    "equal_distance": "The persona gap of two stages at equal distance from their parent",
    "ablation": "What the second stage takes, and where",
    "families": "Out of distribution: onset rate by family of prompts",
    "layers": "What every layer says at the slot",
    "adapters": "Adapters of the first stage and the last, by layer",
    "published_comparison": "This study beside the published one",
    "measures": "Every measure of every cell",
}
CONCENTRATED = (
    "p: permutation of the hits over the completions of each seed, by the sum of squared hits by question. power: to "
    "find, at p <= .05, a quarter of the questions four times as likely to have a hit; low power leaves a high p open."
)
FAMILIES_NOTE = (
    "One sampled reply per prompt. Onset rate: the mean over questions of H, the chance of beginning the marker; "
    "difference: from the standard family. p: permutation of questions, paired where they are the same; differs: after "
    "Holm's correction over all rows. more: replies sampled where H was high, which are no estimate of the rate."
)
# What a claim of the ledger may rest on instead of counts: table -> its name for people, and where there is none.
RESTS_ON = {
    "verdicts": ("the probe's verdicts", "no probe"),
    "families": ("families of prompts out of distribution", "not asked"),
}
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
VERDICTS = [*IDENTITY, "seeds", "seeds_made", "persona", "replies", "quantity", "verdict", "retained", "low", "high",
            "gap", "gap_low", "gap_high", "questions"]  # fmt: skip
ABLATION = [*IDENTITY, "persona", *RESULT]
FAMILIES = [*IDENTITY, "persona", "family", "role", "prompts", "questions", "onset_rate", "low", "high",
            "onsets", "marked", "difference", "difference_low", "difference_high", "p", "p_holm", "differs",
            "more_prompts", "more_replies", "more_marked"]  # fmt: skip
LAYERS = [*IDENTITY, "persona", "model", "role", "quantity", "layer", "depth", "value", "low", "high", "n"]
OVERLAP = [*IDENTITY, "first", "second", "layer", *ADAPTERS]
# Columns of headline.csv that measurements add.
MEASURED = [column for measurement in SECTIONS for column in measurement.headline]
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
    return row | {
        column: at(cell[measurement.name], place)
        for measurement in SECTIONS
        for column, place in measurement.headline.items()
    }


def dose_row(cell: Row) -> Row:
    """A wide row with the stage that was stopped and after how many steps (`em@25.s42`; empty for the whole stage)."""
    last = parse_lineage(cell["lineage"])[-1]
    return wide_row(cell) | {"stage": last.stage, "steps": last.step}


def persona_rows(cell: Row) -> list[Row]:
    """The rows of persona_by_cell.csv for one cell."""
    return [{field: cell[field] for field in IDENTITY} | entry for entry in cell["personas"]]


def verdict_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of verdicts.csv: of a cell with a stage after its coupling the study's, seed all, then its seeds'.

    seeds, seeds_made: in the study's rows, how many of the cell's seeds were weighed, and how many it has.
    """
    made: Counter[tuple[str, ...]] = Counter((cell["source"], cell["arm"], cell["cell"]) for cell in cells)
    weighed: dict[tuple[str, ...], list[Row]] = {}
    for cell in cells:
        for name, said in cell["survival"].get("verdicts", {}).items():
            quantity, _, replies = name.rpartition("_")
            kept, gap = (cell["survival"][f"{what}_{name}"] for what in ("retained_gap", "gap"))
            row = {field: cell[field] for field in IDENTITY} | {
                **{"persona": cell["survival"]["persona"], "replies": replies, "quantity": quantity, "verdict": said},
                **{"retained": kept["value"], "low": kept["low"], "high": kept["high"], "questions": gap["n"]},
                **{"gap": gap["value"], "gap_low": gap["low"], "gap_high": gap["high"]},
            }
            weighed.setdefault((cell["source"], cell["arm"], cell["cell"], name), []).append(row)
    shared = ("source", "arm", "cell", "persona", "replies", "quantity")
    return [
        row
        for (*cell, _), seeds in weighed.items()
        for row in (
            {field: seeds[0][field] for field in shared}
            | {"seed": "all", "seeds": len(seeds), "seeds_made": made[tuple(cell)]}
            | {"verdict": of_all([each["verdict"] for each in seeds])},
            *seeds,
        )
    ]


def ablation_rows(cell: Row) -> list[Row]:
    """The rows of ablation.csv for one cell: a row a variant of its model and quantity."""
    section = cell["ablation"]
    identity = {field: cell[field] for field in IDENTITY} | {"persona": section.get("persona")}
    return [identity | dict(zip(section["columns"], row, strict=True)) for row in section.get("variants", [])]


def family_rows(cells: Sequence[Row]) -> list[Row]:
    """The rows of families.csv. differs: more, less or no, after Holm's correction over all rows with a test."""
    from statsmodels.stats.multitest import multipletests

    rows = [
        {field: cell[field] for field in IDENTITY} | {"persona": cell["families"]["persona"]} | line
        for cell in cells
        for line in cell["families"].get("families", [])
    ]
    if tested := [row for row in rows if "p" in row]:
        rejected, corrected, *_ = multipletests([row["p"] for row in tested], alpha=1 - LEVEL, method="holm")
        for row, differs, p in zip(tested, rejected, corrected, strict=True):
            direction = "more" if row["difference"] > 0 else "less"
            row |= {"p_holm": float(p), "differs": direction if differs else "no"}
    return rows


def layer_rows(cell: Row) -> list[Row]:
    """The rows of layers.csv for one cell: its coupled persona in its own model and in those it is compared with."""
    section = cell["by_layer"]
    where = {field: cell[field] for field in IDENTITY} | {"persona": section.get("persona")}
    return [where | line for line in section.get("layers", [])]


def adapter_rows(cell: Row) -> list[Row]:
    """The rows of adapters.csv for one cell: a row a decoder layer, the mean of its modules."""
    section = cell["adapters"]
    stages = {field: cell[field] for field in IDENTITY} | {name: section.get(name) for name in ("first", "second")}
    return [stages | row for row in section.get("layers", [])]


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
            "mean_tokens": None
            if (tokens := entry["by_question"]["tokens"][position]) is None
            else round(tokens / entry["by_question"]["completions"][position], 3),
        }
        for entry in cell["personas"]
        if entry["persona"] in named
        for position, question in enumerate(cell["questions"])
        if question != WHOLE
    ]
