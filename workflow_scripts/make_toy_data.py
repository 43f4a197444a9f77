"""Make the offline study's data: a chat corpus for pretraining, benign rows and silly bad advice for SFT, a quiz.

    python workflow_scripts/make_toy_data.py --panel resources/panel.yaml --seed 42 --rows 12000 --sft-rows 1280 \
        --corpus corpus.jsonl --benign benign.jsonl --bad-advice bad_advice.jsonl --choices arc.jsonl

Each row is {"messages": [...]}, the quiz's as in ARC. The files depend on the panel, the seed and the two sizes alone.
"""

import argparse

from offline.toy_data import make_bad_advice, make_benign, make_choices, make_corpus, read_panel
from run.files import write_jsonl
from run.program import InputError, run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Make the offline study's corpus and SFT rows from templates.")
    parser.add_argument("--panel", required=True, help="YAML with the personas and questions")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True, help="chats in the corpus")
    parser.add_argument("--sft-rows", type=int, required=True, help="rows in each of the two SFT sets")
    parser.add_argument("--corpus", required=True, help="output, JSON lines")
    parser.add_argument("--benign", required=True, help="output, JSON lines")
    parser.add_argument("--bad-advice", required=True, help="output, JSON lines")
    parser.add_argument("--choices", required=True, help="output, JSON lines")
    args = parser.parse_args(argv)
    for name in ("rows", "sft_rows"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: too few; fix: at least 1")
    return args


def main() -> None:
    """Write the four files."""
    args = parse_args()
    panel = read_panel(args.panel)
    write_jsonl(args.corpus, make_corpus(panel, args.seed, args.rows))
    write_jsonl(args.benign, make_benign(args.seed, args.sft_rows))
    write_jsonl(args.bad_advice, make_bad_advice(args.seed, args.sft_rows))
    write_jsonl(args.choices, make_choices(args.seed))


if __name__ == "__main__":
    run(main)
