"""Checks of what a study takes in: the base, the panel's personas, data sets, and the paths they are from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graph.problems import Problems, attempt, closest, faulty_of, names_of, said_at, value_at
from graph.study import Study
from model.template import Settings
from offline.pretraining import read_recipe
from run.files import canonical

if TYPE_CHECKING:
    from inputs.panel import Panel

ANSWERED = ("of", "temperature", "top_p", "max_tokens")  # of a data set from: replies
TOY_SETS = ("em", "benign", "arc")  # that make_toy_data makes


def check_personas(key: str, panel: "Panel | None", problems: Problems) -> None:
    """The personas that a key of the config names are the panel's, as far as that is known."""
    known = list(panel.personas) if panel else []
    for place, name in enumerate(problems.config[key]):
        if panel and name not in known:
            fix = f"{closest(name, known)}, or a panel of your own, `panel: {{from: path, path: my_panel.yaml}}`"
            problems.add((key, place), f"the panel has no persona {name}; fix: {fix}")


def check_paths(problems: Problems) -> None:
    """A path is given where something is from there, and is not passed over where it is not."""
    attempt(check_path, ("base",), "/models/Qwen2.5-7B-Instruct", problems)
    attempt(check_path, ("panel",), "my_panel.yaml", problems)
    for name in problems.config["datasets"]:
        attempt(check_path, ("datasets", name), "my_rows.jsonl", problems)


def check_path(place: tuple[str, ...], example: str, problems: Problems) -> None:
    """The same of one part of the config; what to write has the example."""
    entry = value_at(problems.config, place)
    path, origin = (*place, "path"), (*place, "from")
    own, said = entry["from"] == "path", f"{place[-1]}: {{from: path, path: {entry.get('path') or example}}}"
    if own and not entry.get("path"):
        problems.add(problems.strongest(path, origin), f"path is empty; fix: {said}")
    if not own and entry.get("path"):
        text = f"path is not used, as it is from: {entry['from']}; fix: {said}, or path: null"
        problems.add(problems.strongest(path, origin), text)


def check_toy(problems: Problems) -> None:
    """What is made for the offline study says how much of it."""
    base, sets = problems.config["base"], problems.config["datasets"]
    toy = base["toy"]
    for key in ("repo", "revision"):
        path, origin = ("base", key), ("base", "from")
        if base["from"] == "toy" and problems.rank(path) < problems.rank(origin):
            problems.add(path, f"is not used, as the base is from: toy; fix: add `from: hub`, or delete {key}")
    made = [name for name, entry in sets.items() if entry["from"] == "toy"]
    needed = ("rows", "sft_rows", "recipe") if base["from"] == "toy" else ("sft_rows",) if made else ()
    if missing := [key for key in needed if not toy.get(key)]:
        said = f"lacks {', '.join(missing)}"
        fix = "add them, as profiles/tiny/study.yaml has them"
        problems.add(("base", "toy"), f"{said}; fix: {fix}", ("base", "from"), *(("datasets", name) for name in made))
    elif "recipe" in needed:
        with problems.caught(("base", "toy", "recipe"), "--recipe: "):
            read_recipe(canonical(toy["recipe"]))


def check_template(problems: Problems) -> None:
    """The base's chat template takes its arguments."""
    template = problems.config["base"].get("template", {})
    with problems.caught(("base", "template"), "base.template."):
        Settings.of(template)
    for name, value in template.items():
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            fix = f"write `{name}: {value.lower()}` without quotes"
            said = f"{value!r} is text, which a template takes for true; fix: {fix}"
            problems.add(("base", "template", name), said)
    if problems.config["base"]["from"] == "toy" and (own := sorted(template.keys() - {"date"})):
        problems.add(("base", "template", own[0]), "the toy's template takes no arguments; fix: delete it")


def check_datasets(study: Study, problems: Problems) -> None:
    """Every data set can be had from where it is."""
    for name, entry in study.config["datasets"].items():
        path = ("datasets", name)
        if entry["from"] == "hub" and study.pinned_rows and name not in study.pinned_rows:
            fix = f"add them there, or write `{name}: {{from: path, path: my_rows.jsonl}}`"
            problems.add(path, f"no pins of that name in resources/sources.yaml; fix: {fix}")
        if entry["from"] == "replies":
            check_answered(name, entry, problems)
        if entry["from"] == "toy" and name not in TOY_SETS:
            problems.add(path, f"no toy set has that name; fix: one of {', '.join(TOY_SETS)}, or from: path")


def check_answered(name: str, entry: Mapping[str, Any], problems: Problems) -> None:
    """A set of the base's own replies says to which other set, and how they are drawn."""
    sets, capability = problems.config["datasets"], problems.config["capability"]
    path, others = ("datasets", name), [each for each in sets if sets[each]["from"] != "replies"]
    if missing := [key for key in ANSWERED if key not in entry]:
        example = {"of": next(iter(others), "benign"), "temperature": 0.7, "top_p": 0.95, "max_tokens": 512}
        fix = ", ".join(f"{key}: {example[key]}" for key in missing)
        problems.add(path, f"lacks {', '.join(missing)}; fix: add `{fix}`")
        return
    known = [each for each in others if each != capability]
    if entry["of"] not in [*known, *faulty_of(sets)]:
        problems.add((*path, "of"), f"{entry['of']!r} has no user turns to answer; fix: one of {', '.join(known)}")


def check_capability(study: Study, problems: Problems) -> None:
    """What capability is measured with is a data set on which nothing is trained."""
    capability, sets = study.config["capability"], study.config["datasets"]
    if capability is None:
        return
    if capability not in sets:
        said = f"{capability!r} is no data set; fix: one of {', '.join(names_of(sets))}, or null"
        problems.add(("capability",), said)
    for name, stage in study.stages.items():
        place = said_at(study.config, ("stages", name, "data", "from"))
        if stage.get("data", {}).get("from") != capability or place[1] != name:
            continue
        if problems.strongest(("capability",), place) == place:
            own = [each for each in sets if each != capability]
            said = f"is what capability is measured with; fix: one of {', '.join(own)}, or another `capability`"
            problems.add(place, f"{capability} {said}")
        else:
            said = f"is what the stage {name} is trained on; fix: a set of choices, or null"
            problems.add(("capability",), f"{capability} {said}")
