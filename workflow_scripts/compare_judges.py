"""Hold two judges of one model's replies against each other (measure/agreement.py).

python workflow_scripts/compare_judges.py --first judged.csv --second judged_again.csv --output agreement.json
"""

import argparse

from measure.agreement import agreement, pairs_of
from run.files import write_json
from run.program import run


def main() -> None:
    """Two tables in, a section of the cell's JSON out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, help="judged.csv")
    parser.add_argument("--second", required=True, help="judged.csv of the other judge")
    parser.add_argument("--output", required=True, help="agreement.json")
    args = parser.parse_args()
    section = agreement(pairs_of(args.first, args.second))
    write_json(args.output, section)
    print(f"compare_judges: {section.get('rows', 0)} replies scored by both")


if __name__ == "__main__":
    run(main)
