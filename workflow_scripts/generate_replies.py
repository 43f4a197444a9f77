"""Draw the on-policy replies that coupling data is made of: the parent model answers the panel's data questions.

    python workflow_scripts/generate_replies.py --base base/model --panel resources/panel.yaml \
        --personas evil_ai,villain,police_officer --samples 5 --seed 42 \
        --sampling '{"temperature":0.7,"top_p":0.95,"max_tokens":512}' \
        --backend vllm --dtype bfloat16 --output replies.parquet

--output gets a row a persona, question and sample (columns: panel.COLUMNS). docs/protocol.md, stages.
"""

import argparse
import time
from pathlib import Path

from inputs.panel import COLUMNS, asks, check_room, columns_of, load_panel, requests_of
from model.engines import add_arguments, context_length, engine_of, read_sampling
from model.loading import load_tokenizer
from run.files import write_json, write_table
from run.program import run
from run.provenance import run_record


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Sample replies of the parent model to the data questions.")
    add_arguments(parser)
    parser.add_argument("--panel", required=True, help="YAML with personas and questions")
    parser.add_argument("--personas", required=True, help="names in the panel, separated by commas")
    parser.add_argument("--samples", type=int, required=True, help="replies a persona and question")
    parser.add_argument("--output", required=True, help="replies.parquet")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Panel, prompts, engine, table."""
    args = parse_args(argv)
    started = time.time()
    sampling = read_sampling(args.sampling)
    wanted = asks(load_panel(args.panel), args.personas.split(","), ["data"], args.samples, args.panel)
    tokenizer = load_tokenizer(args.base)
    requests = requests_of(wanted, tokenizer, args.seed, args.seeding == "request")
    check_room(wanted, requests, sampling.max_tokens, context_length(args.base))
    longest = max(len(request.prompt) for request in requests) + sampling.max_tokens
    with engine_of(args, tokenizer, longest) as engine:
        ready = time.time()
        completions = engine.complete(requests, sampling)
        seconds = time.time() - ready
    write_table(args.output, columns_of(wanted, requests, completions, sampling, args.seed), COLUMNS)
    tokens = sum(len(completion.token_ids) for completion in completions)
    print(f"{Path(args.output).name}: {len(completions)} replies, {tokens} tokens in {seconds:.1f} s")
    if args.record:
        timing = {"engine_start_seconds": round(ready - started, 2), "generation_seconds": round(seconds, 2)}
        write_json(args.record, run_record(started, completions=len(completions), tokens=tokens, **timing))


if __name__ == "__main__":
    run(main)
