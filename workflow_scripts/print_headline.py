"""What a study found and where it lies, for the end of `make tiny`.

python workflow_scripts/print_headline.py --study results/tiny
"""

import argparse
from pathlib import Path

from records import InputError, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, type=Path, help="folder of the study's results")
    folder = parser.parse_args().study
    for name in ("pooled", "reversed", "gates"):
        table = folder / "tables" / f"{name}.md"
        if not table.is_file():
            raise InputError(f"{table}: no such file; fix: run the study first, `make tiny` for the offline one")
        print(table.read_text(encoding="utf-8"))
    print(
        f"cells    {folder}/cells/<source>/<cell>_seed<seed>.json  ({len(list(folder.glob('cells/*/*.json')))} files)"
    )
    print(f"tables   {folder}/tables/  ({len(list(folder.glob('tables/*.csv')))} tables)")
    print(f"report   {folder}/report.html")
    for figure in sorted(folder.glob("figures/*.png")):
        print(f"figure   {figure}")


if __name__ == "__main__":
    run(main)
