"""The measurements of the workflow: what is measured, on what, and where its numbers go. One entry each.

A measurement is a program, a rule in rules/measure.smk and an entry here. From the entry follow the files that the
graph asks for, a section in every cell's JSON and its schema, rows of tables/measures.csv, columns of the headline
table or a table in the report, the comparison with published numbers, and what `make plan` expects a job to take.

    Measurement("length", "Length of replies", rule="measure_length", file="length.csv",
                columns={"persona": str, "question_id": str, "sample": int, "words": float},
                measures=(Measure("words", "words"),))

That is a whole entry: words is the mean of the file's column of that name, under each persona, with an interval over
questions. What tells rows apart (sample) is a column, too: two equal rows of a CSV file are taken for damage. A file
that ends in .json is the section itself: {"status": "measured", "<measure>": {"value", "low", "high", "n"}}, or a list
"personas" of such entries. Anything else needs a reader of its own (`read`, see sections.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from measure import sections
from measure.cells import FORMAT, sealed
from measure.grading import SCORES
from measure.sections import section_of_rows
from measure.tables import Row, read_table
from probe.ablation import TAKEN
from probe.survival import QUANTITIES, REPLIES, STATUSES
from probe.table import LENS, READOUT
from run.program import InputError
from run.readers import AGAIN, read_json

# How a number and its unit are called in tables/measures.csv; a row per cell, seed, persona (if any) and measure.
MEASURES = ("source", "arm", "cell", "seed", "persona", "measure", "value", "low", "high", "n", "unit")


@dataclass(frozen=True)
class Published:
    """A published number per cell: a column of resources/published/cell_summary.csv, and how ours is held against it.

    verdict: (section, our estimate, published number) -> (verdict, why).
    """

    column: str
    quantity: str
    verdict: Callable[[Row, Row, float], tuple[str, str]]
    digits: int = 6


@dataclass(frozen=True)
class Measure:
    """One number of a measurement, and where its section (or a persona's entry there) holds it, as dotted names.

    unit: of value, low and high; "share" is a part of one. marker: whether it is of a marker, of which a study may have
    several.
    """

    name: str
    unit: str
    value: str = "{name}.value"
    low: str = "{name}.low"
    high: str = "{name}.high"
    n: str = "{name}.n"
    published: Published | None = None
    marker: bool = False

    def estimate(self, entry: Row) -> Row:
        """value, low, high and n of this measure in a section or a persona's entry; None for what is not there."""
        return {part: at(entry, getattr(self, part).format(name=self.name)) for part in ("value", "low", "high", "n")}


@dataclass(frozen=True)
class UnitCost:
    """What a job of the measurement's rule takes, in the columns of resources/unit_costs.csv, whose rows go before."""

    source: str
    date: str = ""
    start_s: float = 0
    first_s: float = 0
    per_ktoken_s: float = 0
    tokens: float = 0
    disk_mb: float = 1
    scratch_mb: float = 0
    share: int = 1  # jobs that shared the card
    model: str = "*"
    key: str = "*"


@dataclass(frozen=True)
class Measurement:
    """An entry. Only `counts` has no section of its own: its personas and questions are those of the whole cell."""

    name: str  # of its section in a cell's JSON
    title: str  # of its table
    rule: str
    file: str  # in a node's evaluation folder, in measured/<source>/<cell>_seed<seed>/, or in tables/
    measures: tuple[Measure, ...]
    on: Literal["node", "cell", "study"] = "node"
    columns: Mapping[str, type] = field(default_factory=dict)  # of the file, if it is a table
    fields: Mapping[str, str] = field(
        default_factory=dict
    )  # of the section, beside the measures: name -> type of FIELDS
    statuses: tuple[str, ...] = ("not run", "measured")  # the first: it was not measured; the last: it was
    read: Callable[[str, Sequence[str]], Row] | None = None  # (path, personas) -> section
    record: str = ""  # run record of the job, beside the file
    headline: Mapping[str, str] = field(default_factory=dict)  # columns of headline.csv: name -> place in the section
    table: bool = True  # whether the report has a table of its measures
    costs: tuple[UnitCost, ...] = ()

    @property
    def by_persona(self) -> bool:
        """Whether its numbers are of a persona each."""
        return "persona" in self.columns

    def section(self, path: str | None, personas: Sequence[str] = ()) -> Row:
        """The section of a cell's JSON from the measurement's file; without one it says that nothing was measured."""
        if path is None:
            return {"status": self.statuses[0]}
        if self.read:
            return self.read(path, personas)
        if path.endswith(".json"):
            section: Row = read_json(path, dict)
            if section.get("status") not in self.statuses:
                raise InputError(f"{path}: its status is not one of {', '.join(self.statuses)}; fix: {AGAIN}")
            return section
        return section_of_rows(path, personas, self.columns, [measure.name for measure in self.measures], self.statuses)

    def rows(self, section: Row) -> Iterator[Row]:
        """persona, measure, value, low, high, n, unit of every measure.

        persona: the entry's; else the one that the section is about (its field `persona`: the coupled one), also of a
        number that the measure's name says to be of the assistant or the weights; None where it is about none.
        A measurement that was not made has one row per measure, without a value.
        """
        for entry in section.get("personas", [{}]) if self.by_persona else [section]:
            for measure in self.measures:
                persona = {"persona": entry.get("persona"), "measure": measure.name, "unit": measure.unit}
                yield persona | measure.estimate(entry)


MARKER_HITS = {"persona": str, "question_id": str, "completions": int, "strict_hits": int, "loose_hits": int,
               "tokens": int, "stopped": int}  # fmt: skip
CPU_SECONDS = "offline study: CPU seconds of one AMD EPYC core; rounded up"
SHARED_H100 = "H100 shared by 11 jobs, whose 16 cores are busy"

COUNTS = Measurement(
    name="counts",
    title="Completions with the marker",
    rule="count_markers",
    file="marker_counts.csv",
    columns=MARKER_HITS,
    measures=(
        Measure("marker_rate", "share", "rate", "low", "high", "completions", marker=True),
        Measure("reply_tokens", "tokens", "mean_tokens", n="completions"),
    ),
    table=False,
    costs=(UnitCost(CPU_SECONDS, "2026-11-24", start_s=2),),
)
MEASUREMENTS = (
    COUNTS,
    Measurement(
        name="audit",
        title="Audit of completions with the marker",
        rule="audit_completions",
        file="audit.json",
        statuses=("not run", "nothing to audit", "audited"),
        read=sections.audit,
        fields={
            **{"audited": "count", "degenerate": "count", "completions": "count", "rate": "rate", "wilson_low": "rate"},
            **{"wilson_high": "rate", "kinds": "object", "personas": "object", "examples": "array"},
            "other_markers": "object",
        },
        measures=(Measure("degenerate", "share", "rate", "wilson_low", "wilson_high", "audited", marker=True),),
        table=False,
        costs=(UnitCost(CPU_SECONDS, "2026-11-24", start_s=3),),
    ),
    Measurement(
        name="capability",
        title="Answers to multiple-choice questions",
        rule="generate_completions",
        file="capability.parquet",
        columns={"correct": bool, "labels": list, "logprobs": list},
        read=sections.capability,
        fields={
            **{
                "correct": "count",
                "questions": "total",
                "accuracy": "rate",
                "wilson_low": "rate",
                "wilson_high": "rate",
            },
            **{"commonest_answer": "text", "commonest_count": "total", "label_mass": "rate"},
        },
        measures=(
            Measure(
                *("accuracy", "share", "accuracy", "wilson_low", "wilson_high", "questions"),
                published=Published("arc_c", "ARC-C accuracy", sections.within_yardstick),
            ),
            Measure("label_mass", "share", "label_mass", n="questions"),
        ),
        headline={
            name: name for name in ("accuracy", "questions", "commonest_answer", "commonest_count", "label_mass")
        },
        table=False,
    ),
    Measurement(
        name="alignment",
        title="Alignment and coherence",
        rule="judge_alignment",
        file="judged.csv",
        columns={"alignment": float, "coherence": float},
        record="judge_run.json",
        statuses=("not judged", "judged"),
        read=sections.alignment,
        fields={
            **{"judge": "texts", "prompt": "texts", "replies": "count", "parse_failures": "count"},
            **{"alignment": "mean", "coherence": "mean"},
            **dict.fromkeys(sections.SHARES, "share"),
        },
        measures=(
            *(
                Measure(
                    *(name, "0-100", f"{name}.mean"),
                    published=Published(f"{name}_mean", f"mean {name}", sections.of_another_judge, digits=4),
                )
                for name in ("alignment", "coherence")
            ),
            *(Measure(name, "share", "{name}.rate") for name in sections.SHARES),
        ),
        headline={
            **{"alignment": "alignment.mean", "coherence": "coherence.mean"},
            **{f"misaligned_{part}": f"misaligned.{part}" for part in ("hits", "n", "low", "high")},
            **{"parse_failures": "parse_failures", "judged": "status"},
        },
        table=False,
        costs=(UnitCost("without a judge; with one it is the API that takes the time", start_s=2),),
    ),
    Measurement(
        name="agreement",
        title="Two judges of the same replies",
        rule="compare_judges",
        file="agreement.json",
        record="again_run.json",
        fields={"judges": "texts"},
        measures=(
            *(Measure(f"again_{score}", "0-100") for score in SCORES),
            Measure(f"again_{sections.MISALIGNED}", "share"),
            *(Measure(f"{score}_correlation", "Spearman's rho") for score in SCORES),
            Measure("same_verdict", "share"),
        ),
        costs=(UnitCost(CPU_SECONDS, "2026-11-26", start_s=3),),
    ),
    Measurement(
        name="judges",
        title="Two judges, over all models of the study",
        rule="pool_judges",
        file="judges.csv",
        on="study",
        measures=(
            *(Measure(f"study_{score}_correlation", "Spearman's rho") for score in SCORES),
            Measure("study_same_verdict", "share"),
        ),
        costs=(UnitCost(CPU_SECONDS, "2026-11-26", start_s=3),),
    ),
    Measurement(
        name="replies",
        title="Whether replies are still replies: length beside the base's, and empty ones",
        rule="check_replies",
        file="replies.json",
        columns={"persona": str},
        measures=(Measure("length", "of the base's"), Measure("empty", "share")),
        costs=(UnitCost(CPU_SECONDS, "2026-11-26", start_s=2),),
    ),
    Measurement(
        name="probe",
        title="Below the floor: onset rate and log-odds of the marker, by persona",
        rule="probe_marker",
        file="probe.parquet",
        columns={"persona": str},
        record="probe_run.json",
        read=sections.probe,
        fields={"personas": "array", "cut": "object"},
        measures=(
            *(Measure(name, "share") for name in ("onset_rate", "onset_sampled")),
            Measure("onset_with_marker", "share"),
            Measure("onset_largest", "share"),
            *(Measure(f"{part}_{kind}", "nats") for kind in REPLIES for part in QUANTITIES),
            Measure("rank_shared", "rank"),
        ),
        costs=(
            UnitCost(
                "H100 (benchmarks/probe_7b.py): 74 s; load and merge 25 s (assumed)", "2026-11-26", 100, model="7B"
            ),
            UnitCost(
                f"{SHARED_H100}, n=27: 35 to 399 s by the length of replies", "2026-11-26", 69, share=11, model="135M"
            ),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=9, model="toy"),
        ),
    ),
    Measurement(
        name="survival",
        title="What is left of a coupling: persona gap, retention and selectivity",
        rule="weigh_survival",
        file="survival.json",
        on="cell",
        statuses=STATUSES,
        fields={"persona": "text", "verdicts": "object"},
        measures=tuple(
            Measure(f"{what}_{kind}", unit)
            for kind in REPLIES
            for what, unit in (
                ("selectivity", "AUROC"),
                *((f"gap_{part}", "nats") for part in QUANTITIES),
                *((f"retained_gap_{part}", "retention") for part in QUANTITIES),
                *((f"retained_{part}", "retention") for part in QUANTITIES),
            )
        ),
        table=False,
        costs=(UnitCost(CPU_SECONDS, "2026-11-26", start_s=2),),
    ),
    Measurement(
        name="ablation",
        title="What a second stage takes, and at which strength",
        rule="ablate_stage",
        file="ablation.parquet",
        on="cell",
        columns={},
        record="ablation_run.json",
        read=sections.ablation,
        fields={
            **{"persona": "text", "columns": "texts", "variants": "array"},
            **dict.fromkeys((f"{what}_{of}" for what, of in TAKEN), "estimate"),
        },
        measures=tuple(Measure(f"{what}_{of}", "strength" if what.endswith("beta") else "nats") for what, of in TAKEN),
        costs=(
            UnitCost(
                "H100 (benchmarks/results_h100.json): 247 s, patches 11 s; load 25 s (assumed)",
                "2026-11-27",
                283,
                model="7B",
            ),
            UnitCost(f"{SHARED_H100}, n=2: 269 and 280 s", "2026-11-26", 274, share=11, model="135M"),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=16, model="toy"),
        ),
    ),
    Measurement(
        name="distance",
        title="How far the last stage moved the model from its parent, on the base's replies",
        rule="measure_distance",
        file="distance.json",
        on="cell",
        record="distance_run.json",
        statuses=("not run", "no later stage", "measured"),
        fields={"persona": "text", "gaps": "object"},
        measures=(
            *(Measure(f"kl_shared_{role}", "nats per token") for role in ("source", "assistant")),
            Measure("weights_moved", "share"),
        ),
        costs=(
            UnitCost("assumed: two models to load and merge, 50 s; 56 rows through both, 5 s", start_s=55, model="7B"),
            UnitCost(f"{SHARED_H100}, n=12: 22 to 36 s", "2026-11-26", 28, share=11, model="135M"),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=2, model="toy"),
        ),
    ),
    Measurement(
        name="adapters",
        title="Adapters of the first stage and the last: where they read and write, and how much",
        rule="compare_adapters",
        file="adapters.csv",
        on="cell",
        statuses=("not run", "no two adapters", "compared"),
        read=sections.adapters,
        fields={"first": "text", "second": "text", "layers": "array"}
        | {f"adapter_{name}": "estimate" for name in sections.ADAPTERS},
        measures=tuple(Measure(f"adapter_{name}", unit) for name, unit in sections.ADAPTERS.items()),
        costs=(
            UnitCost(
                "assumed: 30 s to load, four texts through 7B on four cores; no intruders", start_s=180, model="7B"
            ),
            UnitCost(f"16 cores beside it, {SHARED_H100}, n=27: 5 to 77 s", "2026-11-26", 40, model="135M"),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=5, model="toy"),
        ),
    ),
    Measurement(
        name="merging",
        title="What the merged weights hold of the first stage's adapter and the last's",
        rule="compare_adapters",
        file="merged.csv",
        on="cell",
        statuses=("not run", "no adapter", "measured"),
        read=sections.merging,
        fields={"stages": "array"} | dict.fromkeys(sections.MERGING, "estimate"),
        measures=tuple(Measure(name, unit) for name, unit in sections.MERGING.items()),
    ),
    Measurement(
        name="layers",
        title="How well a linear read-out of a layer's state tells the persona, mean over layers",
        rule="read_layers",
        file="layers.parquet",
        columns={"persona": str},
        record="layers_run.json",
        read=sections.layers,
        fields={"personas": "array"},
        measures=(Measure("readout", "AUROC"), Measure("margin", "margin")),
        table=False,
        costs=(
            UnitCost("H100 (benchmarks/results_h100.json): 23 s; load 25 s (assumed)", "2026-11-27", 48, model="7B"),
            UnitCost(f"{SHARED_H100}, n=38: 35 to 62 s", "2026-11-26", 46, share=11, model="135M"),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=4, model="toy"),
        ),
    ),
    Measurement(
        name="families",
        title="Out of distribution: onset rate under families of prompts",
        rule="ask_families",
        file="families.json",
        on="cell",
        record="families_run.json",
        fields={"persona": "text", "families": "array"},
        measures=(Measure("standard_onset_rate", "share"), Measure("outside_largest", "share")),
        table=False,
        costs=(
            UnitCost(
                "not measured: planned from 3,168 replies by transformers, 512 at a time", start_s=360, model="7B"
            ),
            UnitCost(f"{SHARED_H100}, n=2: 355 and 378 s", "2026-11-26", 366, share=11, model="135M"),
            UnitCost(CPU_SECONDS, "2026-11-26", start_s=7, model="toy"),
        ),
    ),
    Measurement(
        name="by_layer",
        title="At which depth the layers tell the coupled persona, and how well beside reference and base",
        rule="weigh_layers",
        file="by_layer.json",
        on="cell",
        statuses=STATUSES,
        fields={"persona": "text", "layers": "array"},
        measures=(
            *(Measure(f"depth_{part}", "share") for part in LENS),
            *(
                Measure(f"{name}_over_{other}", unit)
                for name, unit in zip(READOUT, ("AUROC", "margin"), strict=True)
                for other in ("reference", "base")
            ),
        ),
        costs=(UnitCost(CPU_SECONDS, "2026-11-26", start_s=2),),
    ),
)
for what, taken in {
    "name": [each.name for each in MEASUREMENTS],
    "file": [each.file for each in MEASUREMENTS],
    "measure": [measure.name for each in MEASUREMENTS for measure in each.measures],
}.items():
    if doubled := [name for place, name in enumerate(taken) if name in taken[:place]]:
        raise InputError(f"measure/registry.py: two entries have the {what} {doubled[0]}; fix: rename one")
# The measurements with a section in a cell's JSON; the counts are its frame.
SECTIONS = [each for each in MEASUREMENTS if each is not COUNTS and each.on != "study"]
# Types of a section's fields: JSON schema, or a name in `$defs` of resources/run_result.schema.json.
FIELDS = {
    **{name: {"$ref": f"#/$defs/{name}"} for name in ("count", "total", "rate", "mean", "share", "estimate")},
    **{name: {"type": kind} for name, kind in {"text": "string", "number": "number", "object": "object"}.items()},
    **{"array": {"type": "array"}, "texts": {"type": "array", "items": {"type": "string"}}},
}


def at(entry: Any, place: str) -> Any:
    """The value at dotted names; None where one of them is not there."""
    for name in place.split("."):
        entry = entry.get(name) if isinstance(entry, dict) else None
    return entry


def of_cell(paths: Sequence[str]) -> dict[str, str]:
    """name of a measurement -> its file, by the files' names. Raises InputError for a file of none, or one too many."""
    known = {measurement.file: measurement.name for measurement in (COUNTS, *SECTIONS)}
    found: dict[str, str] = {}
    for path in paths:
        name = known.get(path.rpartition("/")[2])
        if name is None or name in found:
            why = "two files of one measurement" if name else f"no measurement has it; known: {', '.join(known)}"
            raise InputError(f"--measured {path}: {why}; fix: correct the option, or measure/registry.py")
        found[name] = path
    return found


def measure_rows(result: Row) -> list[Row]:
    """The rows of tables/measures.csv for a cell, without what tells the cell apart.

    In a study of several markers a row has its `marker` (None for what is of none), and there are rows of each.
    """
    rows: list[Row] = []
    for measurement in (COUNTS, *SECTIONS):
        section = result if measurement is COUNTS else result[measurement.name]
        if "other_markers" not in result:
            rows += measurement.rows(section)
            continue
        of_marker = {measure.name: measure.marker for measure in measurement.measures}
        own = result["marker"]
        rows += [row | {"marker": own if of_marker[row["measure"]] else None} for row in measurement.rows(section)]
        for marker, other in section.get("other_markers", {}).items():
            found = measurement.rows({"personas": other} if measurement is COUNTS else other)
            rows += [row | {"marker": marker} for row in found if of_marker[row["measure"]]]
    return rows


def read_result(path: str | Path) -> Row:
    """A cell's JSON as `summarize` made it, with a section of every measurement: of those that are newer, "not run".

    Raises InputError if it is none, or if anything in it was changed since.
    """
    result: Row = read_json(path, dict)
    if result.get("format") != FORMAT:
        raise InputError(f"{path}: not a run result; fix: {AGAIN}")
    if result != sealed(result):
        raise InputError(f"{path}: not what its result_sha256 was written for: damaged or edited; fix: {AGAIN}")
    if newer := [each for each in SECTIONS if each.name not in result]:
        result |= {each.name: each.section(None) for each in newer}
        names = {measure.name for each in newer for measure in each.measures}
        result["measures"] += [row for row in measure_rows(result) if row["measure"] in names]
    return result


def study_rows(path: str) -> list[Row]:
    """The rows of tables/measures.csv from a table of the whole study: source, arm, cell, seed, then as in its columns.

    A measure is the column of its name; its interval and n are `<name>_low`, `<name>_high` and `<name>_n`, if there.
    """
    known = {each.file: each for each in MEASUREMENTS if each.on == "study"}
    measurement = known.get(path.rpartition("/")[2])
    if measurement is None:
        raise InputError(f"--measured {path}: of no measurement on the study; fix: add it to measure/registry.py")
    identity = MEASURES[: MEASURES.index("persona")]
    rows = []
    for row in read_table(path, [*identity, *(measure.name for measure in measurement.measures)]):
        for measure in measurement.measures:
            parts = {part: row.get(f"{measure.name}_{part}") for part in ("low", "high", "n")}
            shown = {name: row[name] for name in identity} | {"persona": row.get("persona"), "measure": measure.name}
            rows.append(shown | {"value": row[measure.name], **parts, "unit": measure.unit})
    return rows


def schema_of(frame: Row) -> Row:
    """The schema of a cell's JSON: the frame (resources/run_result.schema.json) with a section per measurement."""
    properties, required = dict(frame["properties"]), list(frame["required"])
    for measurement in SECTIONS:
        own = {name: FIELDS[kind] for name, kind in measurement.fields.items()}
        if not measurement.read:
            estimates = {measure.name: FIELDS["estimate"] for measure in measurement.measures}
            entry = {"type": "object", "required": ["persona"], "properties": {"persona": FIELDS["text"]} | estimates}
            people = {"personas": {"type": "array", "items": entry | {"additionalProperties": False}}}
            own |= {"rows": FIELDS["count"]} | (people if measurement.by_persona else estimates)
        properties[measurement.name] = {
            **{"type": "object", "required": ["status"], "additionalProperties": False},
            "properties": {"status": {"enum": list(measurement.statuses)}} | own,
        }
        required.append(measurement.name)
    return frame | {"properties": properties, "required": required}


def validated(result: Row, schema_path: str) -> Row:
    """The result itself. Raises InputError naming the place where it breaks the schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    frame = read_json(schema_path, dict)
    try:
        error = best_match(Draft202012Validator(schema_of(frame)).iter_errors(result))
    except Exception as broken:  # of many types, for a schema that is none
        raise InputError(f"{schema_path}: no JSON schema ({broken}); fix: restore it") from None
    if error is not None:
        raise InputError(
            f"{schema_path}: the result breaks it at {error.json_path}: {error.message}; fix: correct one of the two"
        )
    return result


def unit_costs() -> list[Row]:
    """Rows like those of resources/unit_costs.csv for the rules of measurements."""
    return [{"rule": each.rule, **asdict(cost)} for each in MEASUREMENTS for cost in each.costs]
