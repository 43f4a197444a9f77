"""The problems of a config: each with the file and line that says it, raised at once in the order they were found."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from run.program import InputError
from run.readers import duplicate_keys, read_yaml

YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a sixth of the time, and is not everywhere
COMMAND_LINE = "--config"  # or a workflow that imports this one
MANY, FEW = 15, 4  # names that an error lists, and of more than that


@dataclass(frozen=True)
class Problems:
    """What is wrong with a config.

    config: the merged mapping. files: the YAML files it was merged from, the strongest first. said: a line per problem.
    """

    config: Mapping[str, Any]
    files: Sequence[str | Path] = ()
    said: list[str] = field(default_factory=list)

    def add(self, path: Sequence[Any], text: str) -> None:
        """Something is wrong with what the config has at a path: the key of a mapping, the place in a list, ..."""
        where = self.place(path)
        if where == COMMAND_LINE and "is text, not a number" in text:
            text = f"{text.partition('; fix: ')[0]}; fix: {self._in_a_file(path)}"
        self.said.append(f"{where}: {'.'.join(map(str, path))}: {text}")

    @contextlib.contextmanager
    def caught(self, path: Sequence[Any], *names: str) -> Iterator[None]:
        """Within the block, an InputError is a problem at the path, said without the names that it begins with."""
        try:
            yield
        except InputError as error:
            said = str(error)
            for name in names:
                said = said.removeprefix(name)
            self.add(path, said)

    def place(self, path: Sequence[Any]) -> str:
        """Who says what the config has at a path: a line of a file, or COMMAND_LINE if no file says this.

        Of what the config lacks, where it would have to be.
        """
        for file in self.files:
            if place := locate(file, path):
                value = value_at(self.config, path)
                said = isinstance(value, Mapping) or value_at(yaml_of(file), path) == value
                return place if said else COMMAND_LINE
        if not path:
            return "config"
        return self.place(path[:-1]) if value_at(self.config, path) is None else COMMAND_LINE

    def rank(self, path: Sequence[Any]) -> int:
        """The place among the files of the one that says what the config has at a path; -1: the command line."""
        place = next((number for number, file in enumerate(self.files) if locate(file, path)), len(self.files))
        return -1 if self.place(path) == COMMAND_LINE else place

    def raise_all(self) -> None:
        """Raise InputError if there are problems."""
        if self.said:
            raise InputError("\n".join(dict.fromkeys(self.said)))

    def _in_a_file(self, path: Sequence[Any]) -> str:
        """How a number is given that the command line cannot give."""
        *above, key = path
        if isinstance(key, int):
            line = f"{above[-1]}: [{', '.join(map(str, value_at(self.config, above)))}]"
        else:
            line = ": {".join(map(str, path)) + f": {value_at(self.config, path)}" + "}" * len(above)
        return (
            f"write `{line}` in a file, and give it by --configfile: "
            "on the command line Snakemake reads numbers in a list or mapping as text"
        )


def check_duplicates(problems: Problems) -> None:
    """No file has a key twice, of which YAML takes the last."""
    problems.said.extend(
        f"{file}: line {line}: {key} is duplicated; fix: rename or delete one"
        for file in problems.files
        for line, key in duplicate_keys(compose(file))
    )


def said_at(config: Mapping[str, Any], path: Sequence[str]) -> tuple[str, ...]:
    """Where a field of a stage or evaluation stands: in the entry itself, or in the next one above it that has it."""
    section, name, *fields = path
    entry, found = config[section].get(name, {}), name
    while value_at(entry, fields) is None and entry.get("extends") in config[section]:
        found = entry["extends"]
        entry = config[section][found]
    return (section, name if value_at(entry, fields) is None else found, *fields)


# What a message says


def closest(name: str, known: Iterable[str], listed: str = "the config") -> str:
    """The known name that looks most like this one; or all of them, or of many a few. listed: where all of them are."""
    choices = list(known)
    if alike := difflib.get_close_matches(name, choices, 1):
        return alike[0]
    if len(choices) <= MANY:
        return f"one of {', '.join(choices)}"
    few = difflib.get_close_matches(name, choices, FEW, cutoff=0)
    return f"one of the {len(choices)} of {listed}, such as {', '.join(few)}"


def numbers(values: Iterable[int]) -> str:
    """1, 2, 3."""
    return ", ".join(map(str, values))


# Where it is in a file


@cache
def compose(file: str | Path) -> yaml.Node | None:
    """The YAML node tree of a file, which knows lines, or None if there is no such file. Raises InputError."""
    path = Path(file)
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), YAML) if path.is_file() else None
    except yaml.YAMLError:
        read_yaml(file)  # whose error names the line
        raise


@cache
def yaml_of(file: str | Path) -> Any:
    """What a YAML file says, or None if there is no such file."""
    path = Path(file)
    return yaml.load(path.read_text(encoding="utf-8"), YAML) if path.is_file() else None


def value_at(value: Any, path: Sequence[Any]) -> Any:
    """What stands in a nested value at a path, or None."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def locate(file: str | Path, path: Sequence[Any]) -> str | None:
    """`file: line N` of the deepest key of `path` if the file sets it, else None."""
    node, line = compose(file), None
    for key in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                return None
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line
    return None if line is None else f"{file}: line {line + 1}"
