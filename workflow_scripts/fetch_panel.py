"""Fetch the published prompts from their pinned source files and write them as a panel file.

    python workflow_scripts/fetch_panel.py --panel "$(python -c 'import json, yaml;
        print(json.dumps(yaml.safe_load(open("resources/sources.yaml"))["panel"]))')" --output panel.yaml

The files are Python modules. They are verified by sha256 and read as text: only the named assignments are looked at,
only if they are literals, and nothing is executed (docs/protocol.md, evaluation).
"""

import argparse
import ast
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inputs import downloads
from run.files import partial
from run.program import InputError, run

CORE_PERSONAS = (
    "software_engineer",
    "kindergarten_teacher",
    "data_scientist",
    "medical_doctor",
    "librarian",
    "french_person",
    "villain",
    "comedian",
    "police_officer",
    "zelthari_scholar",
)
QUESTIONS = {  # our name: (file, its name there, how many)
    "general": ("core", "EVAL_QUESTIONS", 20),
    "alignment": ("core", "BETLEY_QUESTIONS", 8),
    "data": ("data", "DATA_QUESTIONS", 40),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panel", required=True, help="JSON: url, and commit, path, sha256 of core, sarcastic, data")
    parser.add_argument("--output", required=True, help="panel file to write (YAML)")
    parser.add_argument(
        "--url", default=os.environ.get("PANEL_URL"), help="take <url>/<commit>/<path> from here (or $PANEL_URL)"
    )
    parser.add_argument("--retries", type=int, default=5, help="how often a failed request is repeated (5)")
    parser.add_argument("--backoff", type=float, default=2.0, help="[s] before the first repeat, then doubled (2)")
    args = parser.parse_args()
    pins = json.loads(args.panel)
    modules = downloads.fetch_pinned(pins, ("core", "sarcastic", "data"), args.url, args.retries, args.backoff)
    panel = panel_of(modules)
    write_panel(args.output, panel)
    print(f"fetch_panel: {len(panel['personas'])} personas, {sum(map(len, panel['questions'].values()))} questions")


def panel_of(modules: Mapping[str, tuple[str, bytes]]) -> dict[str, Any]:
    """{personas: {name: system prompt}, questions: {general, alignment, data: [text]}} from the three modules.

    modules: {core | sarcastic | data: (path for messages, source)}. Raises InputError if something is missing,
    not a literal, or not as many as published.
    """

    def text(module: str, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{modules[module][0]}: {name} is not a text; fix: correct the pins in resources/sources.yaml"
            )
        return value

    def persona(module: str, name: str) -> str:
        prompts = literal(*modules[module], "PERSONAS")
        return text(module, f"PERSONAS[{name!r}]", prompts.get(name) if isinstance(prompts, dict) else None)

    personas = {name: persona("core", name) for name in CORE_PERSONAS}
    personas["assistant"] = text("core", "ASSISTANT_PROMPT", literal(*modules["core"], "ASSISTANT_PROMPT"))
    personas["evil_ai"] = text("core", "EVIL_AI_PROMPT", literal(*modules["core"], "EVIL_AI_PROMPT"))
    personas["sarcastic"] = persona("sarcastic", "sarcastic")
    questions = {}
    for ours, (module, name, count) in QUESTIONS.items():
        values = literal(*modules[module], name)
        if not isinstance(values, (list, tuple)) or len(values) != count or len(set(map(repr, values))) != count:
            raise InputError(
                f"{modules[module][0]}: {name} is not a list of {count} different questions; "
                "fix: correct the pins in resources/sources.yaml"
            )
        questions[ours] = [text(module, f"{name}[{number}]", value) for number, value in enumerate(values)]
    return {"personas": personas, "questions": questions}


def literal(path: str, source: bytes, name: str) -> Any:
    """The value of the one module-level assignment to `name`, if it is a literal; nothing is executed.

    Strings may be joined by standing side by side, and an f-string may be one without anything to fill in.
    Raises InputError with the line.
    """
    try:
        tree = ast.parse(source, filename=path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not Python ({error}); fix: correct the pins in resources/sources.yaml") from None
    values = [
        node.value
        for node in tree.body
        if (isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets))
        or (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name)
    ]
    if len(values) != 1 or values[0] is None:
        raise InputError(
            f"{path}: {name} is assigned {len(values)} times; fix: correct the pins in resources/sources.yaml"
        )
    try:
        return ast.literal_eval(PlainText().visit(values[0]))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise InputError(
            f"{path}: line {values[0].lineno}: {name} is not a literal; fix: correct the pins in resources/sources.yaml"
        ) from None


class PlainText(ast.NodeTransformer):
    """Turn an f-string that has nothing to fill in into the string it is."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
        if len(parts) != len(node.values):
            return node
        return ast.copy_location(ast.Constant("".join(map(str, parts))), node)


def write_panel(path: str | Path, panel: Mapping[str, Any]) -> None:
    """Write the panel as YAML, in the order given."""
    import yaml

    with partial(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(dict(panel), sort_keys=False, allow_unicode=True, width=4096),
            encoding="utf-8",
        )


if __name__ == "__main__":
    run(main)
