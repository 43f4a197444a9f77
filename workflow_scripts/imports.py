"""Which modules a program uses, read from its import statements: the code that its outputs depend on."""

import ast
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
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            todo += [f"{module}.py" for module in modules if (folder / f"{module}.py").is_file()]
    return sorted(found)
