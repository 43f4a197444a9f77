"""Which config a profile names, whether the command line put another in its place, and whose files it wants made."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from run.program import InputError
from run.readers import read_yaml

RESULT = re.compile(r"(?:\./)?results/([^/]+)/")


def profiles_of(arguments: Sequence[str]) -> list[Path]:
    """The folders that Snakemake's arguments, or its environment variable, name as profiles."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", nargs="+", action="extend")
    named = parser.parse_known_args(arguments)[0].profile or os.environ.get("SNAKEMAKE_PROFILE", "").split()
    return [Path(name) for name in named if Path(name, "config.yaml").is_file()]


def check_profiles(arguments: Sequence[str], given: Sequence[str | Path], whole: bool) -> None:
    """Raise InputError if `given`, the files of --configfile, took the place of a file that a profile names.

    Snakemake takes either. A study that was to be laid over the offline one would be laid over the published one.
    whole: they make a study of another name and base, which may be all that it is; not if one of them lies beside the
    profile's.
    """
    read = {Path(file).resolve() for file in given}
    for profile in profiles_of(arguments):
        named = read_yaml(profile / "config.yaml").get("configfile") or []
        for name in [named] if isinstance(named, str) else named:
            file = profile / name
            beside = {path.parent for path in read} & {file.resolve().parent}
            if file.is_file() and file.resolve() not in read and (beside or not whole):
                own = " ".join(map(str, given))
                raise InputError(
                    f"--configfile takes the place of {file}, which the profile {profile} names; "
                    f"fix: --configfile {file} {own}"
                )


def check_targets(arguments: Sequence[str], study: str) -> None:
    """Raise InputError if Snakemake's arguments want a file made of another study, of which there are no rules now."""
    own = ("reanalysis", "verify_published", study)
    others = {word: found[1] for word in arguments if (found := RESULT.match(word)) and found[1] not in own}
    if not others:
        return
    from snakemake.cli import get_argument_parser  # half a second, and knows what is a target

    for target in get_argument_parser().parse_known_args(arguments)[0].targets:
        if target in others:
            raise InputError(
                f"{target}: is a file of the study {others[target]}, and this command plans {study}; fix: give the "
                f"--profile or --configfile that says `study: {others[target]}`, or neither if config.yaml does"
            )
