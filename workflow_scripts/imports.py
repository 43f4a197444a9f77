"""Which modules a program uses, read from its import statements: the code that its outputs depend on."""

import ast
from functools import cache
from pathlib import Path


def closure(folder: Path, script: str) -> list[str]:
    """Sorted names of `script` and of every module of `folder` it imports, directly or through others.

    Imports inside functions count. Raises FileNotFoundError for a script that is not there.
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
    """The modules of `folder` that the file itself imports."""
    modules: list[str] = []
    for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return [f"{module}.py" for module in dict.fromkeys(modules) if (folder / f"{module}.py").is_file()]
