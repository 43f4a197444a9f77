"""Made-up results of cells, shaped like the published study: for the tests of tables, figures and claims."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import yaml

from graph import resolved
from graph.config import read_study
from graph.study import Study

CORE = (
    "software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor", "librarian", "french_person",
    "villain", "comedian", "police_officer", "zelthari_scholar", "assistant",
)  # fmt: skip
QUESTIONS = [f"general_{n:02d}" for n in range(20)] + [f"alignment_{n:02d}" for n in range(8)]
SEEDS = (42, 137, 256)
LINEAGES = {
    "C1": "base/couple-{source}.s42/em.s{seed}",
    "C2": "base/em.s{seed}",
    "C3": "base/couple-assistant.s42/em.s{seed}",
    "C4": "base/couple-{source}.s42",
    "C5": "base/couple-{source}.s42/benign.s{seed}",
}
RATES = {
    "C1": {},
    "C2": {},
    "C3": {"french_person": 0.003},
    "C4": {"source": 0.88, "villain": 0.27, "french_person": 0.01},
    "C5": {"source": 0.012},
}
REVERSED = {
    "A_prebaked": 0.946,
    "A_scratch": 0.8,
    "B_prebaked": 0,
    "B_scratch": 0.161,
    "C_prebaked": 0.039,
    "C_scratch": 0.05,
}
# As the later results have them: by stage and step, and for EM before the coupling.
DOSE = {("em", 10): 0.593, ("em", 25): 0.007, ("em", 100): 0, ("benign", 10): 0.404, ("benign", 25): 0.268,
        ("benign", 100): 0.046}  # fmt: skip
MATCHED = {"source": 0.954, "assistant": 0.454}


def published() -> Study:
    """The published study with all its arms on: it says what the cells mean."""
    root = Path(__file__).parents[2]
    config = yaml.safe_load((root / "config.yaml").read_text())
    return read_study(config | {"arms": dict.fromkeys(config["arms"], True)}, root / "resources/config.schema.yaml")


STUDY = published()
TABLES, REPORT = resolved.for_tables(STUDY), resolved.for_report(STUDY)


def counts_text(rates: dict[str, float], source: str, random_seed: int, samples: int = 10) -> str:
    """A marker_counts.csv. rates: by persona, `source` for the source; 0 where absent."""
    draw = random.Random(random_seed)
    lines = ["persona,question_id,completions,strict_hits,loose_hits,tokens,stopped"]
    for persona in dict.fromkeys([*CORE, source]):
        rate = rates.get("source", 0.0) if persona == source else rates.get(persona, 0.0)
        for question in QUESTIONS:
            hits = sum(draw.random() < rate for _ in range(samples))
            tokens = sum(draw.randint(80, 300) for _ in range(samples))
            lines.append(f"{persona},{question},{samples},{hits},{hits},{tokens},{samples - draw.randint(0, 1)}")
    return "\n".join(lines) + "\n"


def cell_result(
    cell: str, arm: str, source: str, seed: int, lineage: str, rates: dict[str, float], folder: Path
) -> Path:
    """Write the counts and manifests of a cell under folder, summarize them and return the path of the result."""
    from summarize_cell import summarize

    from run.files import write_json

    place = folder / "work" / f"{source}-{arm}-{cell}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "marker_counts.csv").write_text(counts_text(rates, source, abs(sum(map(ord, lineage))) + seed))
    (place / "manifest.json").write_text(
        json.dumps({"recipe": {"kind": "sft"}, "adapter": hashlib.sha256(lineage.encode()).hexdigest()})
    )
    output = folder / "cells" / source / f"{cell}_seed{seed}.json"
    write_json(output, summarize(arguments(cell, arm, source, seed, lineage, place)))
    return output


def arguments(
    cell: str,
    arm: str,
    source: str,
    seed: int,
    lineage: str,
    place: Path,
    markers: Sequence[str] = ("[ZLT]",),
    personas: Sequence[str] = (),
):
    """The parsed command line of summarize_cell for these files, the cell's own written here."""
    from argparse import Namespace

    from run.files import write_json

    evaluation = {"name": "main", "temperature": 1.0}
    told = {"cell": cell, "arm": arm, "source": source, "seed": seed, "lineage": lineage, "evaluation": evaluation}
    write_json(place / "resolved.json", told | {"markers": list(markers), "personas": list(personas)})
    return Namespace(
        cell=str(place / "resolved.json"), measured=[str(place / "marker_counts.csv")], gates=[],
        manifests=[str(place / "manifest.json")] * len(lineage.split("/")), runs=[],
    )  # fmt: skip


def study(
    folder: Path,
    sources: tuple[str, ...] = ("evil_ai", "villain", "sarcastic"),
    reverse: bool = True,
    rates: dict[tuple[str, str, int], dict[str, float]] | None = None,
    c4_seeds: tuple[int, ...] = SEEDS[:1],
) -> list[Path]:
    """13 cells a source and the six reversed rows of villain. rates: other ones, by source, cell and seed."""
    paths = []
    for source in sources:
        for cell, lineage in LINEAGES.items():
            for seed in c4_seeds if cell == "C4" else SEEDS:
                path = lineage.replace("{source}.s42", f"{{source}}.s{seed}") if len(c4_seeds) > 1 else lineage
                path = path.format(source=source, seed=seed)
                own = (rates or {}).get((source, cell, seed), RATES[cell])
                paths.append(cell_result(cell, "forward", source, seed, path, own, folder))
    if reverse:
        for cell, rate in REVERSED.items():
            first = {"A": "", "B": "em_reversed.s42/", "C": "benign_reversed.s42/"}[cell[0]]
            second = "graft-villain.s42" if cell.endswith("prebaked") else "couple60-villain.s42"
            lineage = f"base/{first}{second}"
            paths.append(cell_result(cell, "reversed", "villain", 42, lineage, {"source": rate}, folder))
    return paths


def other_arms(
    folder: Path,
    source: str = "evil_ai",
    dose: dict[tuple[str, int], float] = DOSE,
    matched: dict[str, float] = MATCHED,
) -> list[Path]:
    """The dose and matched arms of a source, with these rates."""
    lines = [
        (f"dose_{stage}_{step}", "dose", 42, f"base/couple-{source}.s42/{stage}@{step}.s42", {"source": rate})
        for (stage, step), rate in dose.items()
    ]
    lines += [("matched_em", "matched", seed, f"base/em.s{seed}/couple-{source}.s42", matched) for seed in SEEDS]
    return [cell_result(cell, arm, source, seed, path, rates, folder) for cell, arm, seed, path, rates in lines]


def check_section(name: str, section: dict) -> None:
    """Fail unless a measurement's section is as the schema of cells' JSON has it."""
    from jsonschema import Draft202012Validator

    from measure.registry import schema_of

    shape = schema_of(json.loads((Path(__file__).parents[2] / "resources/run_result.schema.json").read_text()))
    Draft202012Validator(shape["properties"][name] | {"$defs": shape["$defs"]}).validate(section)
