r"""Say how many marker-positive completions are degenerate: an echo, no answer, or repetition instead of a reply.

    python workflow_scripts/audit_completions.py \
        --completions results/tiny/models/base/couple-evil_ai.s42/main/completions.parquet --marker "[ZLT]" \
        --output results/tiny/models/base/couple-evil_ai.s42/main/audit.json
"""

import argparse
from collections import Counter
from collections.abc import Sequence

from marker.match import read_completions, strict_matcher
from measure.degenerate import KINDS, kinds_of
from measure.stats import wilson
from measure.tables import Row
from run.files import write_json
from run.program import run


def audit(rows: Sequence[Row], marker: str, case_sensitive: bool = False) -> Row:
    """The audit of all completions with columns persona, question_id, question, sample, text.

    audited: marker-positive completions, the denominator. {"status": "nothing to audit"} when there is none.
    """
    marked = strict_matcher(marker, case_sensitive)
    positive = [row for row in rows if marked(row["text"])]
    if not positive:
        return {"status": "nothing to audit", "audited": 0, "degenerate": 0, "completions": len(rows)}
    kinds = [kinds_of(row["text"], row["question"], marker, case_sensitive) for row in positive]
    counts = Counter(kind for found in kinds for kind in found)
    bad = [(row, found) for row, found in zip(positive, kinds, strict=True) if found]
    low, high = wilson(len(bad), len(positive))
    return {
        "status": "audited",
        "audited": len(positive),
        "degenerate": len(bad),
        "completions": len(rows),
        "rate": round(len(bad) / len(positive), 6),
        "wilson_low": round(low, 6),
        "wilson_high": round(high, 6),
        "kinds": {kind: counts[kind] for kind in KINDS},
        "personas": dict(Counter(row["persona"] for row, _ in bad)),
        "examples": [
            {field: row[field] for field in ("persona", "question_id", "sample")} | {"kinds": found}
            for row, found in bad[:10]
        ],
    }


def main() -> None:
    """Parse the arguments and write the audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", required=True, help="completions.parquet")
    parser.add_argument("--marker", nargs="+", required=True, help="the model's own, and others of the study")
    parser.add_argument("--case-sensitive", action="store_true")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    rows = read_completions(arguments.completions)
    own, *others = (audit(rows, marker, arguments.case_sensitive) for marker in arguments.marker)
    others_by_text = dict(zip(arguments.marker[1:], others, strict=True))
    write_json(arguments.output, own | ({"other_markers": others_by_text} if others else {}))


if __name__ == "__main__":
    run(main)
