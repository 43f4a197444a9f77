"""What results depend on of the workflow's own files: a fingerprint of what they say, however that is written.

Comments, docstrings and layout are in no fingerprint, so an edit of those changes none, and any other edit changes that
of every program that uses the file. Python 3.11 and 3.12 find the same.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

# Where a name stands, how a text was quoted: nothing that code does.
SILENT = ("ctx", "kind", "type_comment")


def code_fingerprint(folder: Path, script: str) -> str:
    """16 hex digits for what `script` and the modules of `folder` that it imports do.

    script: a path in `folder`, such as count_markers.py. Raises FileNotFoundError for a script that is not there, and
    SyntaxError for what is no Python.
    """
    return combined((name, meaning(folder / name)) for name in closure(folder, script))


def file_fingerprint(*files: Path) -> str:
    """16 hex digits for what the files say, whatever folder they lie in. Raises FileNotFoundError."""
    return combined((file.name, meaning(file)) for file in files)


def combined(parts: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name} {own}\n" for name, own in parts).encode()).hexdigest()[:16]


def closure(folder: Path, script: str) -> list[str]:
    """Sorted paths in `folder` of `script` and of every module of it that it imports, directly or through others.

    Imports inside functions count, and the rooms that modules lie in.
    """
    found: set[str] = set()
    todo = [script]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += imported(folder, name)
    return sorted(found)


@cache  # programs share most of their modules
def imported(folder: Path, name: str) -> list[str]:
    """The modules of `folder` that the file itself imports, those of a room (`from run import alive`) among them."""
    modules: list[str] = []
    for node in statements(parsed(folder / name)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = [Path(*module.split(".")) for module in dict.fromkeys(modules)]
    files = [
        file
        for path in paths
        for file in (path.with_suffix(".py"), *(up / "__init__.py" for up in (path, *path.parents)))
    ]
    return [file.as_posix() for file in dict.fromkeys(files) if (folder / file).is_file()]


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, those inside others too: a quarter of the time of ast.walk(), which looks into expressions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            own = getattr(node, name, None)
            if isinstance(own, list):  # a lambda's body is none
                todo += own


@cache
def meaning(file: Path) -> str:
    """sha256 of what a file says, read as what its name's ending promises; of its bytes for other endings."""
    if file.suffix == ".py":
        said = written(parsed(file)).encode()
    elif file.suffix in (".yaml", ".yml"):
        import yaml

        # in its own order, which may be that of a table
        said = json.dumps(
            yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)), default=str
        ).encode()
    elif file.suffix == ".txt":
        lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
        said = "\n".join(filter(None, lines)).encode()
    else:
        said = file.read_bytes()
    return hashlib.sha256(said).hexdigest()


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), file)


def written(tree: ast.AST) -> str:
    """A syntax tree as text, without what is silent or empty: which fields may be empty differs between Pythons."""
    words: list[str] = []
    write(tree, words.append)
    return " ".join(words)


def write(value: object, add: Callable[[str], None]) -> None:
    if isinstance(value, ast.AST):
        add(f"{type(value).__name__}(")
        for name in value._fields:
            own = getattr(value, name, None)
            if isinstance(value, ast.JoinedStr):
                own = [part for part in value.values if getattr(part, "value", None) != ""]
            if own is not None and own != [] and name not in SILENT:
                add(name)
                write(own, add)
        add(")")
    elif isinstance(value, list):
        add("[")
        for own in value:
            if not is_remark(own):
                write(own, add)
        add("]")
    else:
        add(ascii(value))  # repr() of a letter that is new in Unicode differs between Pythons


def is_remark(value: object) -> bool:
    """Whether it is a statement that does nothing, such as a docstring."""
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)
