"""Do two runs of a study give the same rates, within sampling error? A table, and exit status 1 if they do not.

    python benchmarks/compare_counts.py results/tiny results/tiny_vllm              # the cells that both have
    python benchmarks/compare_counts.py results/tiny results/tiny_vllm --personas   # every persona by itself

Rates are the marker's (strict hits of all completions) for the source, the assistant and the bystanders together, and
the share of right answers to the choice questions. Each is compared by Fisher's exact test, two-sided, with Holm's
correction for their number. The test knows of the sampling of completions alone: not of another training.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from run.program import InputError, run  # noqa: E402
from run.readers import read_json  # noqa: E402

Rates = dict[str, tuple[int, int]]


def rates(cell: dict[str, Any], each: bool) -> Rates:
    """Role (or persona, if `each`) -> hits and completions; `choices` -> right answers and questions, if asked."""
    hits: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for row in cell["personas"]:
        name = row["persona"]
        role = "source" if name == cell["source"] else name if each or name == "assistant" else "bystanders"
        hits[role] += row["strict_hits"]
        asked[role] += row["completions"]
    found = {role: (hits[role], asked[role]) for role in asked}
    capability = cell.get("capability") or {}
    if capability.get("questions"):
        found["choices"] = (capability["correct"], capability["questions"])
    return found


def cells(study: Path, each: bool) -> dict[str, Rates]:
    """The rates of every cell of a study's folder. Raises InputError if it has none."""
    files = sorted(study.glob("cells/*/*.json"))
    if not files:
        raise InputError(f"{study}: no cells/<source>/<cell>.json; fix: name the results folder of a study that ran")
    return {f"{file.parent.name}/{file.stem}": rates(read_json(file, dict), each) for file in files}


def main() -> None:
    from scipy.stats import fisher_exact
    from statsmodels.stats.multitest import multipletests

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs=2, type=Path, help="results folders")
    parser.add_argument("--personas", action="store_true", help="compare every persona by itself")
    parser.add_argument("--level", type=float, default=0.05, help="of all comparisons together (0.05)")
    arguments = parser.parse_args()
    one, other = (cells(study, arguments.personas) for study in arguments.studies)
    compared = [(cell, role) for cell in one if cell in other for role in one[cell] if role in other[cell]]
    if not compared:
        raise InputError(f"{arguments.studies[1]}: no cell of {arguments.studies[0]}; fix: name two runs of a study")
    pairs = [(one[cell][role], other[cell][role]) for cell, role in compared]
    values = [float(fisher_exact([[hits, n - hits] for hits, n in pair]).pvalue) for pair in pairs]
    holm = multipletests(values, method="holm")[1]
    differ = 0
    print("| cell | | first | second | p | p (Holm) | |\n|---|---|---|---|---|---|---|")
    for (cell, role), pair, value, corrected in zip(compared, pairs, values, holm, strict=True):
        first, second = (f"{hits}/{n}" for hits, n in pair)
        differ += corrected < arguments.level
        verdict = "differs" if corrected < arguments.level else ""
        print(f"| {cell} | {role} | {first} | {second} | {value:.3g} | {corrected:.3g} | {verdict} |")
    print(f"\n{len(compared)} rates of {len({cell for cell, _ in compared})} cells, {differ} differ")
    if differ:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
