"""Checks of how models are asked and measured: evaluations, the probe and what rests on it, judges, shared cards."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from graph.lineage import BASE, ancestry
from graph.problems import Problems, closest, faulty_of, numbers, said_at, value_at
from graph.study import Cell, Study
from marker.marker import Marker
from measure.cells import role_of
from measure.judge import read_model_args
from probe.families import Family
from run.files import canonical


def check_evaluations(study: Study, problems: Problems) -> None:
    """Evaluations are whole and used."""
    rows, sections = study.config["cells"], study.config["evaluations"]
    used = {study.first_evaluation, *(row.get("evaluation") for row in rows.values())}
    used |= {entry.get("extends") for entry in sections.values()}
    for name, entry in study.evaluations.items():
        path = ("evaluations", name)
        if name not in used and not faulty_of(rows):
            fix = f"add `evaluation: {name}` to one, or delete it"
            problems.add(path, f"no row of `cells` is evaluated so; fix: {fix}")
        if missing := {"samples", "temperature", "top_p", "max_tokens", "case_sensitive"} - entry.keys():
            problems.add(path, f"lacks {', '.join(sorted(missing))}; fix: add them, or `extends: main`")


def check_temperatures(study: Study, problems: Problems) -> None:
    """Replies differ, and have probabilities that the probe can measure."""
    first, arms = study.first_evaluation, study.config["arms"]
    built = {row.get("evaluation", first) for row in study.config["cells"].values() if arms.get(row["arm"])}
    for name, entry in study.evaluations.items():
        if entry.get("temperature") != 0:
            continue
        several, path = entry.get("samples", 1) > 1, said_at(study.config, ("evaluations", name, "temperature"))
        if problems.said["probe"] is not None and name in {first, *built}:
            fix = f"1.0, or `probe: null`{' and samples: 1' if several else ''}"
            problems.add(path, f"0 has no probabilities to probe; fix: {fix}", ("probe",))
        elif several:
            said = "0 draws the same reply every time, which would count as several; fix: samples: 1"
            problems.add(path, said)


def check_probe(study: Study, problems: Problems) -> None:
    """The probe measures no more replies than there are."""
    probe = study.config["probe"]
    if probe is None:
        return
    first = study.first_evaluation
    drawn, personas = study.evaluations[first]["samples"], len(study.personas_of(BASE))
    own = max(study.evaluations[cell.evaluation]["samples"] for cell in study.cells)
    replies = f"the base's replies per persona and question (evaluations.{first})"
    samples = said_at(study.config, ("evaluations", first, "samples"))
    crossed = f"`shared` times {personas} personas"
    at_most(("probe", "shared"), drawn, replies, problems, samples)
    at_most(("probe", "crossed"), probe["shared"] * personas, crossed, problems, ("probe", "shared"), ("personas",))
    at_most(("probe", "distance"), drawn, replies, problems, samples)
    at_most(("probe", "subset"), own, "the replies per persona and question", problems, samples)


def check_own_probe(problems: Problems) -> None:
    """What the probe says of itself fits together."""
    if (probe := problems.config["probe"]) is None:
        return
    at_most(("probe", "layers"), probe["crossed"], "`crossed`, of which they are", problems, ("probe", "crossed"))
    if probe["verdict"]["gone"] >= probe["verdict"]["intact"]:
        problems.add(("probe", "verdict"), "gone is not below intact; fix: {minimum: 1.0, gone: 0.1, intact: 0.5}")


def check_probed_marker(problems: Problems) -> None:
    """The probe measures the study's marker, at the end of replies."""
    if (probe := problems.config["probe"]) is None:
        return
    marker = Marker.of(problems.config["marker"])
    if not marker.text.startswith(probe["prefix"]):
        fix = f'fix: write `probe: {{prefix: "{marker.text[:2]}"}}`'
        said = f"{probe['prefix']!r} does not begin the marker {marker.text}; {fix}"
        problems.add(("probe", "prefix"), said, ("marker",))
    if marker.placement != "end":
        problems.add(("probe",), "measures a marker at the end of replies; fix: `probe: null`", ("marker",))


def check_unprobed(problems: Problems) -> None:
    """Without the probe, none of the cells is measured that a section names: not where they are named after it."""
    if problems.config["probe"] is not None:
        return
    shipped = [Path(file).resolve() for file in problems.files[-1:]]  # config.yaml, which names cells of `ablate`
    own = sum(Path(file).resolve() not in shipped for file in problems.files)
    for section in ("ablate", "families"):
        cells, path = value_at(problems.config, (section, "cells")), (section, "cells")
        rank = problems.rank(path)
        if cells and (rank < own or section == "families") and rank <= problems.rank(("probe",)):
            none = "ablate: null" if section == "ablate" else "families: {cells: []}"
            said = f"{', '.join(map(str, cells))} cannot be measured without the probe, which is null"
            problems.add(path, f"{said}; fix: {none}, or a probe")


def check_ablate(study: Study, problems: Problems) -> None:
    """A second stage is taken apart where it is a LoRA after a coupling of the study's marker."""
    chosen = study.config["ablate"]
    if chosen is None:
        return
    for place, name in enumerate(chosen["cells"]):
        own = [cell for cell in study.cells if cell.name == name]
        if study.config["probe"] and not all(has_second_stage(study, cell) for cell in own):
            said = "is no coupling of the study's marker and one stage after it, both of them LoRAs"
            problems.add(("ablate", "cells", place), f"{name} {said}; fix: delete it here")
    if study.panel:
        groups = study.panel.questions
        asked = len(groups["general"]) + len(groups["alignment"])
        at_most(("ablate", "questions"), asked, "the panel's that are evaluated", problems, ("panel",))
    taken = [len(bystanders_of(study, cell)) for cell in study.cells if study.ablated(cell)]
    if taken:
        others = "the panel's, without the source and the assistant"
        at_most(("ablate", "bystanders"), min(taken), others, problems, ("personas",))
    if not {0, 1} <= set(chosen["grid"]):
        problems.add(("ablate", "grid"), "needs 0 and 1: an adapter left out, and whole; fix: add them")


def has_second_stage(study: Study, cell: Cell) -> bool:
    """Whether a cell is a coupling of the study's marker and one stage after it, both of them LoRAs."""
    lineages = ancestry(cell.lineage)
    loras = not any(map(study.is_full, lineages))
    return bool(study.compared(cell)) and study.coupling_of(cell.lineage) == 0 and len(lineages) == 2 and loras


def check_families(study: Study, problems: Problems) -> None:
    """What is asked out of distribution is of cells that are there, and has a family to be compared with."""
    if study.panel:
        most = max(map(len, study.panel.questions.values()))
        at_most(("families", "questions"), most, "of the panel's largest group", problems, ("panel",))
    asked = [len(bystanders_of(study, cell)) for cell in study.cells if study.asked_families(cell)]
    if asked:
        others = "the panel's, without the source and the assistant"
        at_most(("families", "bystanders"), max(asked), others, problems, ("personas",))
    families: dict[str, str] = {}
    for name, fields in study.config["families"]["of"].items():
        other = families.setdefault(canonical(asdict(Family(**fields))), name)
        if other != name:
            problems.add(("families", "of", name), f"differs in nothing from {other}; fix: change or delete it")
    if study.config["families"]["of"]["standard"]:
        problems.add(("families", "of", "standard"), "is what the others are compared with; fix: `standard: {}`")


def check_chosen(study: Study, section: str, problems: Problems) -> None:
    """The cells and seeds that a section of the config is for are there."""
    config, names = study.config, study.row_names
    if (chosen := config[section]) is None:
        return
    known = {seed for name in chosen["cells"] if name in names for seed in study.seeds_of(names[name])}
    for place, name in enumerate(chosen["cells"]):
        path = (section, "cells", place)
        if name not in names:
            problems.add(path, f"no cell {name}; fix: {closest(name, names, '`cells`')}")
            continue
        row = names[name]
        arm, seeds = config["cells"][row]["arm"], study.seeds_of(row)
        taken = chosen["seeds"] or seeds
        if not config["arms"].get(arm):
            # whoever switches an arm off later does not mean the cells of it that are named below
            if problems.rank(path) <= min(problems.rank(("arms", arm)), problems.rank(("cells", row, "arm"))):
                fix = f"arms: {{{arm}: true}}, or delete {name} here"
                problems.add(path, f"{name} is of the arm {arm}, which is off; fix: {fix}")
        elif not set(taken) & set(seeds) and set(taken) & known:
            fix = f"{section}: {{seeds: {[*taken, seeds[0]]}}}, or delete it here"
            said = f"{name} has the seeds {numbers(seeds)}, not {numbers(taken)}; fix: {fix}"
            own = ("cells", row, "seeds") if "seeds" in config["cells"][row] else ("seeds",)
            problems.add(path, said, (section, "seeds"), own)
    for place, seed in enumerate(chosen["seeds"] or []):
        if chosen["cells"] and seed not in known:
            problems.add((section, "seeds", place), f"no seed {seed}; fix: one of {numbers(sorted(known))}")


def at_most(path: tuple[str, ...], most: int, what: str, problems: Problems, *causes: Sequence[str]) -> None:
    """A number of the config is not of more than there are. causes: the paths of what says how many there are."""
    given = value_at(problems.config, path)
    if given > most:
        fix = f"write `{': {'.join(path)}: {most}{'}' * (len(path) - 1)}`" if most else "more `personas`"
        problems.add(path, f"{given} of at most {most}, {what}; fix: {fix}", *causes)


def bystanders_of(study: Study, cell: Cell) -> list[str]:
    """The personas that a cell's model is asked as, but the coupled one and the assistant."""
    source = study.coupled_of(cell)
    return [name for name in study.personas_of(cell.lineage) if role_of(name, source) == "bystander"]


def check_judges(problems: Problems) -> None:
    """A judge that is read by log-probabilities is a model whose provider gives them; two judges are two."""
    both = {name: judge for name in ("judge", "second_judge") if (judge := problems.config[name]) is not None}
    for name, judge in both.items():
        with problems.caught((name, "model_args"), "--model-args: "):
            read_model_args(canonical(judge.get("model_args", {})))
        if judge["model"] == "hf/local" and "model_path" not in judge.get("model_args", {}):
            fix = "model_args: {model_path: /models/judge}"
            problems.add((name, "model"), f"hf/local is a model in a folder, which is not named; fix: {fix}")
        if judge.get("scores") != "logprobs":
            continue
        if judge["model"] in ("none", "toy") or judge["model"].startswith("anthropic/"):
            problems.add((name, "scores"), f"{judge['model']} gives no log-probabilities; fix: `scores: answer`")
    if len(both) == 2 and both["judge"]["model"] == "none":
        said = "has nobody to agree with, as the judge is none; fix: a judge, or null"
        problems.add(("second_judge",), said, ("judge", "model"))
    whole = [{"scores": "answer", "model_args": {}} | judge for judge in both.values()]
    if len(whole) == 2 and all(whole[0][key] == whole[1][key] for key in ("model", "scores", "model_args")):
        problems.add(("second_judge",), "is the judge itself; fix: another model or other scores, or null")


def check_shared_cards(problems: Problems) -> None:
    """vLLM has to know what it may take of a shared card: it fails if memory comes free while it measures."""
    hardware = problems.config["hardware"]
    jobs, part = hardware["jobs_per_gpu"], hardware["gpu_memory_utilization"]
    if jobs == 1 or hardware["backend"] != "vllm":
        return
    if jobs * part > 1:
        fits = math.floor(90 / jobs) / 100
        said = f"{part} of a card each, for {jobs} jobs; fix: write `gpu_memory_utilization: {fits}`"
        problems.add(("hardware", "gpu_memory_utilization"), said, ("hardware", "jobs_per_gpu"))
    if hardware["kv_cache_gib"] is None:
        said = "vLLM cannot measure what is free on a card that jobs share; fix: a number, such as `kv_cache_gib: 8`"
        problems.add(("hardware", "kv_cache_gib"), said, ("hardware", "jobs_per_gpu"))
