"""From a config to a study: its shape, its recipes, its cells, and every check, in the order of what they say."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph import cell_checks, input_checks, measure_checks, stage_checks
from graph.lineage import BASE, NAME, Word
from graph.problems import Faultless, Faulty, Problems, attempt, check_duplicates, closest, names_of, said_at, value_at
from graph.recipe import merged
from graph.schema import check_schema, check_values
from graph.study import Cell, Study, filled, named
from run.program import InputError

if TYPE_CHECKING:
    from inputs.panel import Panel

# The sections of a config that cells come from
RESTED_ON = {"arms", "base", "cells", "datasets", "evaluations", "marker", "personas", "seeds", "sources", "stages"}


def read_study(
    config: Mapping[str, Any],
    schema: str | Path,
    files: Sequence[str | Path] = (),
    claims: Mapping[str, str] | None = None,
    pinned_rows: Mapping[str, int] | None = None,
    panel: Callable[[Mapping[str, Any]], "Panel | None"] = lambda config: None,
    outside: Callable[[Study, Problems], None] = lambda study, problems: None,
) -> Study:
    """The study that a config describes. Raises InputError listing every problem with the line to write instead.

    config: the merged mapping. files: the YAML files it was merged from, the strongest first, to name lines.
    schema: path of the JSON schema (YAML). claims: the ids that cells may name, and what they rest on
    beside counts; None: any. pinned_rows: how many rows
    the Hub's data sets have. panel: who speaks and what is asked, or None where that is not known yet. outside: checks
    of the files that the config names.
    """
    problems = Problems(config, files)
    check_duplicates(problems)
    check_values(problems)
    check_schema(schema, problems)

    problems = problems.of_the_rest()
    known = None
    with problems.caught(("panel", "path")):
        known = attempt(panel, problems.config)
    stages, evaluations = (attempt(recipes, section, problems) for section in ("stages", "evaluations"))
    attempt(stage_checks.check_loras, problems)
    attempt(stage_checks.check_places, problems)
    attempt(stage_checks.check_markers, problems)
    attempt(input_checks.check_personas, "personas", known, problems)

    problems = problems.of_the_rest()
    study = Study(problems.config, stages or {}, {} if evaluations is None else evaluations, known, pinned_rows or {})
    if stages and names_of(study.evaluations):
        study = replace(study, cells=attempt(list, cells_of(study, problems)) or [])
        attempt(stage_checks.check_taught, study, problems)
    attempt(cell_checks.check_gates, study, problems)
    attempt(cell_checks.check_names, problems)
    attempt(cell_checks.check_arms, problems)
    attempt(cell_checks.check_meanings, claims, problems)
    attempt(cell_checks.check_contrasts, problems)
    attempt(cell_checks.check_figures, problems)
    attempt(input_checks.check_paths, problems)
    attempt(input_checks.check_toy, problems)
    attempt(input_checks.check_template, problems)
    attempt(input_checks.check_datasets, study, problems)
    attempt(input_checks.check_capability, study, problems)
    attempt(input_checks.check_personas, "sources", known, problems)
    attempt(measure_checks.check_evaluations, study, problems)
    attempt(measure_checks.check_temperatures, study, problems)
    attempt(measure_checks.check_own_probe, problems)
    attempt(measure_checks.check_probed_marker, problems)
    attempt(measure_checks.check_judges, problems)
    attempt(measure_checks.check_shared_cards, problems)

    whole = bool(study.cells) and not problems.sections & RESTED_ON
    problems = problems.of_the_rest()
    study = replace(study, config=problems.config)
    attempt(outside, study, problems)
    attempt(measure_checks.check_unprobed, problems)
    attempt(measure_checks.check_chosen, study, "ablate", problems)
    attempt(measure_checks.check_chosen, study, "families", problems)
    if whole:
        attempt(measure_checks.check_probe, study, problems)
        attempt(measure_checks.check_ablate, study, problems)
        attempt(measure_checks.check_families, study, problems)
        attempt(cell_checks.check_enforced, study, problems)
    problems.raise_all()
    return study


def recipes(section: str, problems: Problems) -> Faultless:
    """The recipes of a section of the config with `extends` followed."""
    known = problems.config[section]
    made = {name: attempt(recipe_of, section, name, problems) for name in names_of(known)}
    return Faultless(made, [name for name, recipe in made.items() if recipe is None])


def recipe_of(section: str, name: str, problems: Problems, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The recipe with `extends` followed; mappings are merged field by field, but `data` is taken whole.

    Raises Faulty where that cannot be followed.
    """
    known = problems.config[section]
    entry, seen = dict(known[name]), (*seen, name)
    parent = entry.pop("extends", None)
    if parent is None:
        return without_tail(section, name, entry, problems)
    if parent in seen:
        add_circle(section, seen[seen.index(parent) :], problems)
        raise Faulty
    if parent not in known:
        problems.add((section, name, "extends"), f"{parent!r} is not there; fix: {closest(parent, known)}")
        raise Faulty
    above = recipe_of(section, parent, problems, seen)
    above.pop("hub", None)  # whose adapters are ready-made is no part of a recipe
    return without_tail(section, name, merged(above, entry), problems)


def without_tail(section: str, name: str, recipe: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """The recipe of a stage without the length of a tail, if a loss that has none was put over the loss that had it: in
    the stage itself over those it extends, or in a file over those below. No file can take a key away.
    """
    mask, own = recipe.get("mask", {}), value_at(problems.config, (section, name, "mask")) or {}
    if "tail" not in mask or mask.get("loss", "tail") == "tail" or "loss" not in own:
        return recipe
    loss, tail = (problems.rank((section, name, "mask", field)) for field in ("loss", "tail"))
    if "tail" in own and loss >= tail:
        return recipe
    return recipe | {"mask": {field: value for field, value in mask.items() if field != "tail"}}


def add_circle(section: str, circle: tuple[str, ...], problems: Problems) -> None:
    """Say that recipes extend each other: once, from wherever the circle was entered, at the strongest file's line."""
    start = min(circle, key=lambda name: (problems.rank((section, name, "extends")), name))
    place = circle.index(start)
    said = " -> ".join([*circle[place:], *circle[:place], start])
    path = (section, start, "extends")
    problems.add(path, f"{said} is a circle; fix: let one of them extend nothing, or another")


def cells_of(study: Study, problems: Problems) -> Iterator[Cell]:
    """The cells of all rows whose arm is on, those of a row up to its first problem."""
    arms, check = study.config["arms"], cache(partial(stage_checks.check_word, study))
    for name, row in study.config["cells"].items():
        if row["arm"] not in arms:
            problems.add(("cells", name, "arm"), f"unknown arm; fix: {arms_known(row['arm'], arms)}")
        if arms.get(row["arm"]):
            with suppress(Faulty):
                cell_checks.check_open(study, name, row, problems)
                yield from cells_of_row(study, name, check, problems)


def arms_known(name: str, arms: Mapping[str, bool]) -> str:
    """How a row is put into an arm that is there, or its own is made."""
    return f"one of {', '.join(arms)}, or add it, `arms: {{{name}: true}}`"


def cells_of_row(study: Study, name: str, check_word: Callable[[Word], None], problems: Problems) -> Iterator[Cell]:
    """The cells of a row of the config."""
    row = study.config["cells"][name]
    evaluation = row.get("evaluation", study.first_evaluation)
    if evaluation not in study.evaluations:
        problems.add(("cells", name, "evaluation"), f"unknown; fix: one of {', '.join(names_of(study.evaluations))}")
    meaning = {key: row[key] for key in ("note", "caption", "second_stage", "claim") if key in row}
    for source, seed, step in study.combinations(row):
        try:
            lineage = filled(row["lineage"], source, seed, step)
            stage_checks.check_lineage(study, lineage, check_word)
        except stage_checks.Several as several:
            for each in several.errors:
                add_lineage_problem(study, name, step, each, problems)
            return
        except (InputError, KeyError, IndexError, ValueError) as error:
            add_lineage_problem(study, name, step, error, problems)
            return
        yield Cell(named(name, step), row["arm"], source, seed, lineage, evaluation, **meaning)


def add_lineage_problem(study: Study, name: str, step: int | None, error: Exception, problems: Problems) -> None:
    """Say what is wrong with the lineage of a row, or with a stage that it names."""
    row = study.config["cells"][name]
    if match := re.fullmatch(r"(stages(?:\.\w+)+): (.*)", str(error), re.DOTALL):
        problems.add(said_at(study.config, match[1].split(".")), match[2], *whose(match[2]))
        return
    said = str(error).removeprefix("lineage: ")
    if isinstance(error, stage_checks.Impersonal):
        place = said_at(study.config, ("stages", error.stage, error.field))
        if problems.rank(place) < problems.rank(("cells", name, "lineage")):
            makes, instead = "makes it a coupling, of a persona", "rows of a data set"
            if error.field == "replay":
                makes, instead = "takes rows of a persona", "a lineage without {persona}"
            fix = f"{instead}, or {place[1]}-{{source}} in `cells`"
            problems.add(place, f"{makes} that `cells` do not name; fix: {fix}")
            return
    if isinstance(error, KeyError):
        fix = closest(f"{{{error.args[0]}}}", ("{source}", "{seed}", "{step}"))
        said = f"unknown placeholder {error}; fix: {fix}"
    elif not isinstance(error, InputError):
        said = f"{error}; fix: write {{source}}, {{seed}} or {{step}} in a pair of braces"
    meant = meant_by(row["lineage"], study.stage_words)
    line = f', or write `lineage: "{meant}"`' if meant != row["lineage"] else ""
    if step and isinstance(error, stage_checks.LateStep):
        length = [said_at(study.config, ("stages", error.stage, key)) for key in ("max_steps", "epochs", "batch")]
        length.append(("datasets", value_at(study.stages, (error.stage, "data", "from")), "path"))
        problems.add(("cells", name, "steps", row["steps"].index(step)), f"{said}{line}", *length)
        return
    problems.add(("cells", name, "lineage"), f"{said}{line}", *whose(said))


def whose(said: str) -> list[tuple[str, ...]]:
    """What else may be the cause of what is said of a lineage or a stage: a persona that is lacking, the marker."""
    return [(key,) for key, word in (("personas", "persona"), ("marker", "marker")) if word in said]


def meant_by(lineage: str, known: Sequence[str]) -> str:
    """A row's lineage without `base/`, every stage that is not there replaced by the one it looks most like."""

    def alike(name: re.Match[str]) -> str:
        return next(iter(difflib.get_close_matches(name[0], known, 1)), name[0])

    return re.sub(rf"(?:^|(?<=/)){NAME}", alike, lineage.removeprefix(f"{BASE}/"))
