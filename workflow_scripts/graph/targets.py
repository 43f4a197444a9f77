"""What Snakemake is asked for: a name or a file that no rule makes is refused, with what was meant by it."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from graph.study import Study
from run.program import InputError

RESULT = re.compile(r"results/([^/]+)(?=/)")
# Options that name rules or files; of some of them Snakemake passes over a name that is none
NAMING = ("forcerun", "until", "omit_from", "prioritize", "allowed_rules", "set_threads", "set_resources")
UNCHECKED = ("reanalysis", "verify_published")  # folders of results that are of no study


def asked_for(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets among Snakemake's arguments; and the rules or files that options name."""
    from snakemake.cli import get_argument_parser

    end = arguments.index("--") if "--" in arguments else len(arguments)
    known = get_argument_parser().parse_known_args(arguments[:end])[0]
    others = {name for option in NAMING for name in getattr(known, option) or ()}
    return list(dict.fromkeys([*(known.targets or ()), *arguments[end + 1 :]])), sorted(others)


def check_targets(
    asked: Iterable[str],
    is_made: Callable[[str], bool],
    study: Study,
    rules: Sequence[str],
    files: Callable[[], Iterable[str]],
) -> None:
    """Raise InputError if a name or a file is asked for that no rule makes.

    is_made: whether one does, or is it. rules: those that may be named. files: of the study, as paths from
    the working folder, the first of which are what a person wants.
    """
    if unknown := [name for name in asked if not is_made(name)]:
        made = list(files())
        raise InputError("\n".join(f"{name}: {meant(name, study, rules, made)}" for name in unknown))


def meant(name: str, study: Study, rules: Sequence[str], files: Sequence[str]) -> str:
    """What is wrong with a target, and what to ask for instead."""
    own, path = study.config["study"], os.path.relpath(name)
    if (other := RESULT.match(path)) and other[1] not in (own, *UNCHECKED):
        return (
            f"is a file of the study {other[1]}, and this command plans {own}; fix: give the "
            f"--profile or --configfile that says `study: {other[1]}`, or neither if config.yaml does"
        )
    said = "no rule makes it; "
    if found := known_as(path, study, files):
        return said + found
    if other:
        return f"{said}fix: {nearest(path, files)}"
    names = [*rules, *study.config["arms"], *study.row_names, *study.config["figures"]]
    names += [Path(file).stem for file in files if "/tables/" in file]
    for close in difflib.get_close_matches(name, names, 1):
        return said + (f"fix: {close}" if close in rules else known_as(close, study, files))
    return f"{said}fix: one of {', '.join(rules)}, or a file, such as {files[0]}"


def known_as(name: str, study: Study, files: Sequence[str]) -> str:
    """What a name, or the end of a path, stands for that is no target: an arm, cells, figures, ...; "" for nothing."""
    arms, row = study.config["arms"], study.row_names.get(name)
    arm = study.config["cells"][row]["arm"] if row else name
    if not arms.get(arm, True):
        what = "an arm" if arm == name else f"a cell of the arm {arm}"
        fix = f"write `arms: {{{arm}: true}}` in a file, and give it by --configfile, without {name}"
        return f"{name} is {what}, which is off; fix: {fix}"
    if name in arms:
        cells = [cell.key for cell in study.cells if cell.arm == name]
        return f"{name} is an arm; fix: {named(cells, files)}, or no target for all"
    return f"fix: {found}" if (found := named([name], files)) else ""


def named(names: Iterable[str], files: Iterable[str]) -> str:
    """The first file of those that have one of the names in their path, and how many these are; "" for none."""
    either = "|".join(map(re.escape, names))
    found = list(filter(re.compile(rf"(?:^|/)(?:{either})(?=[._/]|$)").search, files))
    more = f", or another of the {len(found)} files with it in their paths" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else ""


def nearest(path: str, files: Iterable[str]) -> str:
    """The file whose path is most like this one, folder by folder."""
    found = [file.split("/") for file in files]
    for depth, part in enumerate(path.split("/")):
        deeper = [each for each in found if len(each) > depth]
        names = dict.fromkeys(each[depth] for each in deeper)
        close = [part] if part in names else difflib.get_close_matches(part, names, 1)
        if not close:
            break
        found = [each for each in deeper if each[depth] == close[0]]
    return "/".join(found[0])
