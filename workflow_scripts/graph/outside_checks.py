"""Checks of what lies outside the config and is named by it: the user's files, a lock, the base that was fetched."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graph import places
from graph.lineage import NAME
from graph.problems import Problems, attempt, said_at, value_at
from graph.stage_checks import check_base_fits
from graph.study import Study
from inputs.layouts import check_file
from inputs.outside import CONFIG, check_there, keep, known_of, memory_of, model_files, parts_of
from inputs.questions import load_questions
from offline.pretraining import parts_of as parts_of_toy
from probe.families import Family, check_others, load_others
from run.program import InputError

# Fields of a stage that name another lineage, whose rows or adapter it takes
LINEAGES = (("adapter",), ("data", "of"), ("replay", "of"))
NAMED = "named"  # in the memory of what an input was made of: the file, as the config says it
NOWHERE = os.devnull  # the place in a study whose name cannot be
TAKEN = ("reanalysis", "verify_published")  # folders under results/


def check_outside(checkout: Path, pins: Mapping[str, Any], study: Study, problems: Problems) -> None:
    """What the config names is there and fits it. Looked at also where a part of the config is faulty.

    checkout: the folder of the workflow. pins: those of resources/sources.yaml for bases, by repository.
    """
    attempt(check_base, problems)
    attempt(check_panel, problems)
    attempt(check_rows, problems)
    attempt(check_questions, problems)
    attempt(check_lock, checkout, problems)
    attempt(check_wordings, checkout, study, problems)
    attempt(check_study, problems)
    attempt(check_pins, pins, problems)
    attempt(check_parts, study, problems)


def check_own(named: str, place: Callable[..., str], *arguments: Any, within: str = "") -> None:
    """Raise InputError if the user's own file is not there, and nothing was made of it while it was, at its place.

    named: as the config says it. within: the file of a folder.
    """
    file, made = Path(named, within), attempt(place, *arguments) or NOWHERE
    if file.is_file():
        return
    if not os.path.lexists(made) and not Path(f"{made}.manifest.json").is_file():
        if named.startswith("~"):
            raise InputError(f"{file}: ~ is no folder here; fix: write {Path(named).expanduser()}")
        made = NOWHERE
    elif (before := known_of(made).get(NAMED, named)) != named:
        raise InputError(f"{file}: no such file, and {made} was made of {before}; fix: correct its path in the config")
    check_there(file, made)


def remember_name(named: str, made: str | Path) -> None:
    """Keep what the config says of the user's own file that `made` is made of, as long as it is there."""
    if Path(named).exists():
        known = known_of(made)
        keep(memory_of(made), known | {NAMED: named}, known)


def check_base(problems: Problems) -> None:
    """The user's own model."""
    base = problems.config["base"]
    if base["from"] == "path":
        with problems.caught(("base", "path")):
            if Path(base["path"], CONFIG).is_file():
                model_files(Path(base["path"]))
            check_own(base["path"], places.base_folder, problems.config, within=CONFIG)


def check_panel(problems: Problems) -> None:
    """The user's own panel; what is wrong within it is found where it is read."""
    panel = problems.config["panel"]
    if panel["from"] == "path":
        with problems.caught(("panel", "path")):
            check_own(panel["path"], places.panel_file, problems.config)


def check_rows(problems: Problems) -> None:
    """The user's own rows, of the data sets that cells need: a file that begins as JSON lines do; a job reads them."""
    sets = problems.config["datasets"]
    for name in sets_named(problems.said):
        if sets.get(name, {}).get("from") == "path":
            with problems.caught(("datasets", name, "path")):
                check_file(Path(sets[name]["path"]))
                check_own(sets[name]["path"], places.dataset_file, problems.config, name)


def sets_named(said: Mapping[str, Any]) -> list[str]:
    """The data sets that stages are trained on and models are asked, and those that these are answers to.

    said: a config of which anything may be wrong.
    """
    fields = (("stages", stage, "data", "from") for stage in stages_named(said))
    named = [value_at(said, ("capability",)), *(value_at(said, said_at(said, path)) for path in fields)]
    answered = [value_at(said, ("datasets", name, "of")) for name in named]
    return list(dict.fromkeys(name for name in (*named, *answered) if isinstance(name, str)))


def stages_named(said: Mapping[str, Any]) -> list[str]:
    """The stages of the rows whose arm is on, and of lineages that these stages name in turn."""
    rows, stages = (value_at(said, (section,)) for section in ("cells", "stages"))
    if not isinstance(rows, Mapping) or not isinstance(stages, Mapping):
        return []
    on = [row for row in rows.values() if value_at(said, ("arms", value_at(row, ("arm",)))) is True]
    lineages = [value_at(row, ("lineage",)) for row in on]
    found: dict[str, None] = {}
    while lineages:
        lineage = lineages.pop()
        new = [name for name in re.findall(rf"(?:^|(?<=/)){NAME}", str(lineage)) if name not in found]
        found |= dict.fromkeys(new)
        lineages += [value_at(said, said_at(said, ("stages", name, *field))) for name in new for field in LINEAGES]
    return list(found)


def check_questions(problems: Problems) -> None:
    """The user's own questions to judge: nothing is paid for before they are read."""
    if path := problems.config["alignment_questions"]:
        with problems.caught(("alignment_questions",)):
            check_own(path, places.questions_file, problems.config)
            if Path(path).is_file():
                load_questions(path)


def check_lock(checkout: Path, problems: Problems) -> None:
    """The environment of model jobs."""
    lock = problems.config["hardware"]["lock"]
    if not (checkout / lock).is_file():
        problems.add(("hardware", "lock"), f"{lock}: no such file in {checkout}; fix: correct the path")


def check_wordings(checkout: Path, study: Study, problems: Problems) -> None:
    """Paraphrases of the personas that are asked out of distribution."""
    path = checkout / "resources/families.yaml"
    for cell in filter(study.asked_families, study.cells):
        with problems.caught(("families",)):
            families = {name: Family(**fields) for name, fields in study.config["families"]["of"].items()}
            check_others(load_others(path), families, study.personas_asked_families(cell), path)


def check_study(problems: Problems) -> None:
    """A folder of its own."""
    if (name := problems.config["study"]) in TAKEN:
        problems.add(("study",), f"{name} is a folder of other results; fix: another name")


def check_pins(pins: Mapping[str, Any], problems: Problems) -> None:
    """A repository is not given with the commit that is pinned for another."""
    base = problems.config["base"]
    for repo, pinned in pins.items():
        if base["from"] == "hub" and repo != base["repo"] and pinned["revision"] == base["revision"]:
            place = problems.strongest(("base", "revision"), ("base", "repo"))
            said = f"{base['revision']} is a commit of {repo}, not of {base['repo']}"
            problems.add(place, f"{said}; fix: revision: <a commit of {base['repo']}>")


def check_parts(study: Study, problems: Problems) -> None:
    """Stages name what the base has, as far as that is known: of the toy, and of a base that was fetched."""
    base = problems.config["base"]
    if base["from"] == "toy":
        known: Mapping[str, Any] | None = parts_of_toy(base["toy"]["recipe"])
    else:
        own = base["path"] if base["from"] == "path" else None
        known = parts_of(places.base_folder(problems.config), f"{base['repo']}@{base['revision']}", own)
    if known:
        check_base_fits(study, known, problems)
