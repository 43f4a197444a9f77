"""A cell's model beside those that it is held against: their files on a command line, and that they were read alike."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from run.program import InputError
from run.readers import AGAIN

# The cell's own, the same stages without the coupling, those up to the coupling, and none.
MODELS = ("cell", "reference", "before", "base")
Row = Mapping[str, Any]


def add_models(parser: argparse.ArgumentParser) -> None:
    """The options of what weighs a cell: a file of each model, or of the cell's alone."""
    parser.add_argument("--source", required=True, help="the persona that was coupled")
    for name in MODELS:
        parser.add_argument(f"--{name}", required=name == "cell", nargs=None if name == "cell" else "?")
    parser.add_argument("--output", required=True, help="the section of the cell's JSON to write")


def check_together(parser: argparse.ArgumentParser, args: argparse.Namespace, *more: str) -> None:
    """End with the parser's error unless all other models are given, and all of `more` options, or none of them."""
    names = [*MODELS[1:], *more]
    if len({bool(getattr(args, name.replace("-", "_"))) for name in names}) > 1:
        options = [f"--{name}" for name in names]
        parser.error(f"{', '.join(options[:-1])} and {options[-1]} go together")


def read_models(args: argparse.Namespace, read: Callable[[str], Sequence[Row]]) -> dict[str, tuple[str, Sequence[Row]]]:
    """name -> (path, rows) of the models that are given."""
    return {name: (path, read(path)) for name in MODELS if (path := getattr(args, name))}


def check_alike(models: Mapping[str, tuple[str, Sequence[Row]]], key: Sequence[str], read: str) -> None:
    """Raise InputError unless the models' rows under the cell's personas are of the same things.

    models: name -> (path, rows); a model that several sources share knows theirs, too. key: the columns that say of
    what a row is. read: for the error, in words.
    """
    personas = {row["persona"] for row in models["cell"][1]}
    keys = {
        path: {tuple(row[name] for name in key) for row in rows if row["persona"] in personas}
        for path, rows in models.values()
    }
    first, *others = keys
    for path in others:
        if keys[path] != keys[first]:
            raise InputError(f"{path}: {read} than {first}; fix: {AGAIN}")
