"""The problems of a config: each with the file and line that says it, raised together in the order of these lines."""

import contextlib
import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from run.program import InputError
from run.readers import duplicate_keys, read_yaml

YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a sixth of the time, and is not everywhere
COMMAND_LINE = "--config"  # or a workflow that imports this one
ENTRIES = ("cells", "datasets", "evaluations", "stages")  # sections whose entries are many, and checked each by itself
MANY, FEW = 15, 4  # names that an error lists, and of more than that


class Faulty(Exception):
    """A check came to a part of the config of which something is wrong already."""


class Faultless(dict[str, Any]):
    """A mapping without its faulty entries. These are `in` it, but to want one, or one that it lacks, raises Faulty."""

    def __init__(self, entries: Mapping[str, Any], faulty: Collection[str]) -> None:
        super().__init__({name: value for name, value in entries.items() if name not in faulty})
        self.faulty, self.names = faulty, list(entries)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.faulty

    def __missing__(self, name: str) -> Any:
        raise Faulty(name)


def faulty_of(entries: Iterable[str]) -> Collection[str]:
    """The names of the faulty entries of a mapping."""
    return entries.faulty if isinstance(entries, Faultless) else ()


def names_of(entries: Iterable[str]) -> list[str]:
    """All names of a mapping or list, those of faulty entries too: they are there."""
    return entries.names if isinstance(entries, Faultless) else list(entries)


def entire(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries, for who has to know them all. Raises Faulty if one of them is."""
    if faulty_of(entries):
        raise Faulty
    return entries


def attempt(check: Callable[..., Any], *arguments: Any) -> Any:
    """What a check returns; None if it came to a section of the config of which something is wrong already."""
    with contextlib.suppress(Faulty):
        return check(*arguments)
    return None


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    rank, line: who says it (Problems.rank). path: of it in the config. text: what a person reads.
    """

    rank: int
    line: int
    path: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class Problems:
    """What is wrong with a config.

    config: the merged mapping. files: the YAML files it was merged from, the strongest first. found: so far. whole: the
    mapping, where config is but the rest of it (of_the_rest).
    """

    config: Mapping[str, Any]
    files: Sequence[str | Path] = ()
    found: list[Problem] = field(default_factory=list)
    whole: Mapping[str, Any] | None = None

    def add(self, path: Sequence[Any], text: str, *causes: Sequence[Any]) -> None:
        """Something is wrong with what the config has at a path: the key of a mapping, the place in a list, ...

        causes: paths of what it does not fit, of which the one is blamed that a stronger file says.
        """
        blamed = self.strongest(path, *causes)
        if blamed is not path:
            return self.add(blamed, f"does not fit {'.'.join(map(str, path))}: {text}")
        where = self.place(path)
        if where == COMMAND_LINE and "is text, not a number" in text:
            text = f"{text.partition('; fix: ')[0]}; fix: {self._in_a_file(path)}"
        said = [".".join(map(str, path))] if path else []
        self.found.append(Problem(*self._place(path), tuple(path), ": ".join([where, *said, text])))

    @property
    def sections(self) -> set[str]:
        """The sections of the config with problems."""
        return {each.path[0] for each in self.found if each.path}

    def of_the_rest(self) -> "Problems":
        """The same of a config without what has problems, for checks that take for granted what was checked before.

        They raise Faulty where they come to it: to a section; of ENTRIES, to an entry.
        """
        if not self.found:
            return self
        paths = [each.path for each in self.found]
        entries = {section: {path[1] for path in paths if path[:1] == (section,) and path[1:]} for section in ENTRIES}
        rest = Faultless(self.said, {path[0] for path in paths if path and not (path[0] in ENTRIES and path[1:])})
        rest |= {
            section: Faultless(rest[section], faulty)
            for section, faulty in entries.items()
            if faulty and section not in rest.faulty
        }
        return replace(self, config=rest, whole=self.said)

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
        rank, line = self._place(path)
        if rank == len(self.files):
            return "config"
        return COMMAND_LINE if rank < 0 else f"{self.files[rank]}: line {line}"

    def rank(self, path: Sequence[Any]) -> int:
        """The place among the files of the one that says what the config has at a path; -1: the command line."""
        return self._place(path)[0]

    def strongest(self, *paths: Sequence[Any]) -> Sequence[Any]:
        """Of paths that are wrong together, the one that the strongest file says; the first, if several do."""
        return min(paths, key=self.rank)

    @property
    def said(self) -> Mapping[str, Any]:
        """The config, faulty or not."""
        return self.config if self.whole is None else self.whole

    def _place(self, path: Sequence[Any]) -> tuple[int, int]:
        """The same with the line. (-1, 0): the command line; (number of the files, 0): nothing is said there."""
        for rank, file in enumerate(self.files):
            if line := locate(file, path):
                value = value_at(self.said, path)
                said = isinstance(value, Mapping) or value_at(yaml_of(file), path) == value
                return (rank, line) if said else (-1, 0)
        if not path:
            return len(self.files), 0
        return self._place(path[:-1]) if value_at(self.said, path) is None else (-1, 0)

    def raise_all(self) -> None:
        """Raise InputError if there are problems: the command line's, then those of each file by line."""
        if self.found:
            ordered = sorted(self.found, key=lambda each: (each.rank, each.line))
            raise InputError("\n".join(dict.fromkeys(each.text for each in ordered)))

    def _in_a_file(self, path: Sequence[Any]) -> str:
        """How a number is given that the command line cannot give."""
        *above, key = path
        if isinstance(key, int):
            line = f"{above[-1]}: [{', '.join(map(str, value_at(self.said, above)))}]"
        else:
            line = ": {".join(map(str, path)) + f": {value_at(self.said, path)}" + "}" * len(above)
        return (
            f"write `{line}` in a file, and give it by --configfile: "
            "on the command line Snakemake reads numbers in a list or mapping as text"
        )


def check_duplicates(problems: Problems) -> None:
    """No file has a key twice, of which YAML takes the last."""
    problems.found.extend(
        Problem(rank, line, (), f"{file}: line {line}: {key} is duplicated; fix: rename or delete one")
        for rank, file in enumerate(problems.files)
        for line, key in duplicate_keys(compose(file))
    )


def said_at(config: Mapping[str, Any], path: Sequence[str]) -> tuple[str, ...]:
    """Where a field of a stage or evaluation stands: in the entry itself, or in the next one above it that has it."""
    section, name, *fields = path
    entry, found, met = config[section].get(name, {}), name, {name}
    while value_at(entry, fields) is None:
        above = value_at(entry, ("extends",))
        if not isinstance(above, str) or above in met or above not in config[section]:
            break
        found = above
        entry = config[section][found]
        met.add(found)
    return (section, name if value_at(entry, fields) is None else found, *fields)


# What a message says


def closest(name: str, known: Iterable[str], listed: str = "the config") -> str:
    """The known name that looks most like this one; or all of them, or of many a few. listed: where all of them are."""
    choices = names_of(known)
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
    except (yaml.YAMLError, UnicodeDecodeError):
        read_yaml(file)  # whose error names the line
        raise


def check_layer(file: str | Path) -> None:
    """Raise InputError if a file that is to be laid over others is no mapping, of which Snakemake says no name."""
    if Path(file).exists() and not isinstance(compose(file), yaml.MappingNode):
        fix = "write `key: value` lines, such as `study: mine`, or delete it"
        raise InputError(f"{file}: has no keys at its top level; fix: {fix}")


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


def locate(file: str | Path, path: Sequence[Any]) -> int | None:
    """The line of the deepest key of `path` if the file sets it, else None."""
    node, line = compose(file), None
    for key in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                return None
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
        else:
            continue
        line = mark.line + 1
    return line
