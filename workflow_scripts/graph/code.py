"""Which modules a program uses, read from its import statements: the code that its outputs depend on."""

import ast
from functools import cache
from pathlib import Path


def closure(folder: Path, script: str) -> list[str]:
    """Sorted paths in `folder` of `script` and of every module of it that it imports, directly or through others.

    script: a path in `folder`, such as count_markers.py. Imports inside functions count. Raises FileNotFoundError for
    a script that is not there.
    """
    found: set[str] = set()
    todo = [script]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        todo += imported(folder, name)
    return sorted(found)


@cache  # programs share most of their modules
def imported(folder: Path, name: str) -> list[str]:
    """The modules of `folder` that the file itself imports, those of a room (`from run import alive`) among them."""
    modules: list[str] = []
    for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = [f"{module.replace('.', '/')}.py" for module in dict.fromkeys(modules)]
    return [path for path in paths if (folder / path).is_file()]
