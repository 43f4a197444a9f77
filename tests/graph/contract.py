"""The rerun contract (reruns.yaml): what its words stand for, and the table of docs/reruns.md.

python tests/graph/contract.py (`make docs`) writes the table.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from measure.registry import MEASUREMENTS  # noqa: E402

CONTRACT: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/graph/reruns.yaml").read_text())
TABLE = ROOT / "docs/reruns.md"
HEAD = ["| edit | jobs |", "|---|---|"]


def measuring(on: str) -> list[str]:
    """The rules whose jobs measure a node, a cell or the study."""
    return list(dict.fromkeys(entry.rule for entry in MEASUREMENTS if entry.on == on))


# Word -> the rules that it stands for: those that a plan does not name itself.
WORDS = {
    "models": measuring("node"),
    "cells": [*measuring("cell"), "summarize_cell"],
    "study": [*measuring("study"), "tabulate_study", "check_claims", "plot_figures", "write_report"],
}
TOLD = {"models": "measurement of a model", "cells": "job of a cell", "study": "job of the study"}


def expected(plans: Mapping[str, int | str], whole: Mapping[str, int]) -> dict[str, int]:
    """An entry's plan as rule -> jobs. whole: the same of the study from nothing, which is what `all` means."""
    named = {rule: number for word, number in plans.items() for rule in WORDS.get(word, []) if rule in whole}
    named |= {rule: number for rule, number in plans.items() if rule not in WORDS}
    return {rule: whole[rule] if number == "all" else int(number) for rule, number in named.items() if number}


def sentence(plans: Mapping[str, int | str]) -> str:
    """An entry's plan as the table says it."""
    parts = []
    for name, number in sorted(plans.items(), key=lambda plan: plan[0] in WORDS):
        if name not in WORDS:
            parts.append(f"{'every' if number == 'all' else number or 'no'} `{name}`")
            continue
        other = "other " if set(WORDS[name]) & set(plans) else ""
        parts.append(f"{'every' if number == 'all' else f'{number} of every'} {other}{TOLD[name]}")
    return ", ".join(parts) or "nothing"


def lines() -> list[str]:
    """The table."""
    return [*HEAD, *(f"| {entry['says']} | {sentence(entry['plans'])} |" for entry in CONTRACT)]


def words() -> list[str]:
    """What the table's words mean."""
    return [f"- {TOLD[word]}: {', '.join(f'`{rule}`' for rule in rules)}" for word, rules in WORDS.items()]


def page(text: str) -> str:
    """docs/reruns.md with the table and its words brought up to date: all that follows its last heading."""
    head, heading, _ = text.rpartition("## The contract\n")
    return head + heading + "\n".join(["", *words(), "", *lines(), ""])


if __name__ == "__main__":
    TABLE.write_text(page(TABLE.read_text()))
