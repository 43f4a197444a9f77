"""What the programs that probe a model are asked alike: its folders, whose replies under which personas, and how."""

import argparse
from typing import Any

from inputs.panel import load_panel
from model.engines import DTYPES
from probe.scoring import BUDGET
from run.program import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all of them have."""
    add = parser.add_argument
    add("--base", required=True, help="folder of the base chat model")
    add("--panel", required=True, help="YAML with personas and questions")
    add("--shared", required=True, help="the base's completions.parquet")
    add("--personas", required=True, help="names in the panel, separated by commas")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--device", help="default: cuda if there is one")
    add("--budget", type=int, help="at most so many tokens per forward pass: memory, not results (but for rounding)")
    add("--output", required=True, help="the file to write")
    add("--record", help="run.json to write: host, seconds, versions")


def budget_of(args: argparse.Namespace, model: Any) -> int:
    """Tokens per forward pass: as many as are fast on the model's device, or fewer where --budget says so."""
    fast = BUDGET[model.device.type]
    return min(args.budget or fast, fast)


def personas_of(args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """--personas, and the system prompts of the panel. Raises InputError for a persona that it does not have."""
    personas, prompts = args.personas.split(","), load_panel(args.panel).personas
    if unknown := [persona for persona in personas if persona not in prompts]:
        raise InputError(f"{args.panel}: no persona {', '.join(unknown)}; fix: one of {', '.join(prompts)}")
    return personas, prompts
