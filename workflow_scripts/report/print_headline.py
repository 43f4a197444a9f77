"""What a study found and where it lies, for the end of `make tiny`.

python workflow_scripts/print_headline.py --study results/tiny
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, it finds the other rooms

from measure.tables import Row, counted, read_table
from run.program import InputError, run

ROLES = ("source", "assistant", "bystander")
WIDTH = 110


def headline(pooled: Sequence[Row]) -> Iterator[str]:
    """A line per cell of pooled.csv: hits / completions = rate of source, assistant and highest bystander."""
    yield f"{'':<10}{'cell':<18}{'source':<20}{'assistant':<20}highest bystander"
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in pooled:
        cells.setdefault((row["source"], row["cell"]), {})[row["role"]] = row
    for (source, cell), roles in cells.items():
        pairs = [roles.get(role, {}) for role in ROLES]
        shown = [counted(row.get("strict_hits"), row.get("completions")) for row in pairs]
        who = roles["bystander"]["persona"] if roles.get("bystander", {}).get("strict_hits") else ""
        yield f"{source:<10}{cell:<18}{shown[0]:<20}{shown[1]:<20}{shown[2]} {who}".rstrip()


def readings(gates: Sequence[Row]) -> Iterator[str]:
    """A paragraph a row of gates.csv: its name, its reading and the numbers it used."""
    for row in gates:
        said = f"{row['gate']:<9}{row['source']:<9}{row['seed']:<8}{row['reading']:<15}{row['numbers']}"
        yield textwrap.fill(said, WIDTH, subsequent_indent=" " * 41)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, type=Path, help="folder of the study's results")
    folder = parser.parse_args().study
    tables = {name: folder / "tables" / f"{name}.csv" for name in ("pooled", "gates", "claims")}
    for table in tables.values():
        if not table.is_file():
            raise InputError(f"{table}: no such file; fix: run the study first, `make tiny` for the offline one")
    pooled, gates, claims = (read_table(table) for table in tables.values())
    print(f"\nCompletions with the marker, all seeds of a cell together. {claims[0]['label'] or ''}\n")
    print("\n".join(headline(pooled)), "\n\nGates, evaluated and not applied\n")
    print("\n".join(readings(gates)), "\n")
    print(f"cells    {folder}/cells/<source>/<cell>_seed<seed>.json ({len(list(folder.glob('cells/*/*.json')))} files)")
    print(f"tables   {folder}/tables/ ({len(list(folder.glob('tables/*.csv')))} tables)")
    print(f"figures  {folder}/figures/ ({', '.join(sorted(path.stem for path in folder.glob('figures/*.png')))})")
    print(f"report   {folder}/report.html")


if __name__ == "__main__":
    run(main)
