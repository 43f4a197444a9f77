"""What profiles say beside the config: its files, in whose place the command line may put others, and the executor."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run.program import InputError
from run.readers import read_yaml


def option_of(arguments: Sequence[str], *names: str, **how: Any) -> Any:
    """What Snakemake's arguments give to an option of these names. how: as argparse's add_argument takes it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*names, dest="value", **how)
    return parser.parse_known_args(arguments)[0].value


def profiles_of(arguments: Sequence[str]) -> list[Path]:
    """The folders that Snakemake's arguments, or its environment variable, name as profiles."""
    named = option_of(arguments, "--profile", nargs="+", action="extend")
    named = named or os.environ.get("SNAKEMAKE_PROFILE", "").split()
    return [Path(name) for name in named if Path(name, "config.yaml").is_file()]


def configfiles_of(profile: Path) -> list[Path]:
    """The files in a profile's folder that it names as configs. Raises InputError with the line if it is no YAML."""
    named = read_yaml(profile / "config.yaml").get("configfile") or []
    files = [profile / name for name in ([named] if isinstance(named, str) else named)]
    return [file for file in files if file.is_file()]


def executor_of(arguments: Sequence[str]) -> str:
    """The executor that Snakemake's arguments or their profiles name. Until it runs jobs, Snakemake does not tell.

    The workflow's own profile, profiles/default if no other is named, counts last.
    """
    own = Path(option_of(arguments, "--workflow-profile", default="profiles/default"))
    files = [profile / "config.yaml" for profile in (*reversed(profiles_of(arguments)), own)]
    said = (read_yaml(file).get("executor") for file in files if file.is_file())
    return option_of(arguments, "--executor", "-e") or next((name for name in said if name), "local")


def check_profiles(arguments: Sequence[str], given: Sequence[str | Path], whole: bool) -> None:
    """Raise InputError if `given`, the files of --configfile, took the place of a file that a profile names.

    Snakemake takes either. A study that was to be laid over the offline one would be laid over the published one.
    whole: they make a study of another name and base, which may be all that it is; not if one of them lies beside the
    profile's.
    """
    read = {Path(file).resolve() for file in given}
    for profile in profiles_of(arguments):
        for file in configfiles_of(profile):
            beside = {path.parent for path in read} & {file.resolve().parent}
            if file.resolve() not in read and (beside or not whole):
                own = " ".join(map(str, given))
                raise InputError(
                    f"--configfile takes the place of {file}, which the profile {profile} names; "
                    f"fix: --configfile {file} {own}"
                )
