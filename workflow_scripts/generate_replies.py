"""Draw the on-policy replies that coupling data is made of: a model answers the panel's data questions.

    python workflow_scripts/generate_replies.py --base base/model --model base/manifest.json --drawn-by "$CODE,$LOCK" \
        --panel resources/panel.yaml --personas evil_ai,police_officer,villain --samples 5 --seed 42 \
        --sampling '{"temperature":0.7,"top_p":0.95,"max_tokens":512}' \
        --together evil_ai,police_officer,villain,sarcastic --store results/study/replies \
        --backend vllm --dtype bfloat16 --output replies.parquet

--output gets a row per persona, question and sample (columns: panel.COLUMNS). docs/protocol.md, stages.
A persona's replies are the model's and the persona's, whatever is made of them: --store keeps them, a file each under a
hash of all that they follow from. What is there is taken; else one engine start draws all of --together that is not.
"""

import argparse
import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inputs.panel import COLUMNS, CONTROL, Panel, check_room, columns_of, load_panel, prompts_of, requests_of
from model.engines import Sampling, add_arguments, engine_of, read_sampling
from model.loading import context_length, load_tokenizer
from model.template import spelled_control
from run.files import canonical, sha256_of, write_json, write_table
from run.program import run
from run.provenance import run_record


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Sample replies of the parent model to the data questions.")
    add_arguments(parser)
    parser.add_argument("--panel", required=True, help="YAML with personas and questions")
    parser.add_argument("--personas", required=True, help="names in the panel, separated by commas")
    parser.add_argument("--samples", type=int, required=True, help="replies per persona and question")
    parser.add_argument("--model", required=True, help="manifest.json of the model that is asked")
    parser.add_argument("--drawn-by", default="", help="code and environment: what others drew is not taken")
    parser.add_argument("--together", default="", help="personas to draw as well where an engine has to start at all")
    parser.add_argument(
        "--store", type=Path, required=True, help="a folder of drawn replies, shared by the study's jobs"
    )
    parser.add_argument("--output", required=True, help="replies.parquet")
    return parser.parse_args(argv)


def key_of(args: argparse.Namespace, asked: Panel, persona: str) -> str:
    """The hash of all that a persona's replies follow from; whoever else is asked is not part of it."""
    options = {name: getattr(args, name) for name in ("drawn_by", "backend", "dtype", "seeding", "seed", "samples")}
    said = {"prompt": asked.personas.get(persona), "questions": asked.questions["data"], "sampling": args.sampling}
    model = {"model": sha256_of(args.model), "adapters": [sha256_of(adapter) for adapter in args.adapter]}
    return hashlib.sha256(canonical(options | said | model).encode()).hexdigest()


def stored(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a file of the store; None if it is not there, or damaged: then they are drawn again."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            rows: list[dict[str, Any]] = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError):
        return None
    return rows


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Jobs that start together and ask for the same wait here for the first, which may draw for them all.

    Where the file system has no locks, each draws for itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def draw(
    args: argparse.Namespace, asked: Panel, personas: Sequence[str], sampling: Sampling
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows of these personas, by one engine start; and the seconds of start and drawing."""
    began = time.time()
    wanted = prompts_of(asked, personas, ["data"], args.samples, args.panel)
    tokenizer = load_tokenizer(args.base)
    requests = requests_of(wanted, tokenizer, args.seed, args.seeding == "request")
    check_room(wanted, requests, sampling.max_tokens, context_length(args.base))
    longest = max(len(request.prompt) for request in requests) + sampling.max_tokens
    with engine_of(args, tokenizer, longest) as engine:
        ready = time.time()
        completions = engine.complete(requests, sampling)
        seconds = time.time() - ready
    columns = columns_of(wanted, requests, completions, sampling, args.seed)
    # trained on, such a text would be other tokens than were sampled: make_coupling_data leaves it out
    columns["finish_reason"] = [
        CONTROL if spelled_control(tokenizer, text) else reason
        for text, reason in zip(columns["text"], columns["finish_reason"], strict=True)
    ]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows, {"engine_start_seconds": round(ready - began, 2), "generation_seconds": round(seconds, 2)}


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table with COLUMNS."""
    write_table(path, {name: [row[name] for row in rows] for name in COLUMNS}, COLUMNS)


def main(argv: list[str] | None = None) -> None:
    """Panel, store, engine, table."""
    args = parse_args(argv)
    started = time.time()
    sampling = read_sampling(args.sampling)
    asked, personas = load_panel(args.panel), args.personas.split(",")
    prompts_of(asked, personas, ["data"], args.samples, args.panel)  # their names, before anything is loaded
    together = dict.fromkeys([*personas, *filter(None, args.together.split(","))])
    files = {persona: args.store / f"{key_of(args, asked, persona)}.parquet" for persona in together}
    drawn: list[dict[str, Any]] = []
    timing: dict[str, float] = {}
    same = key_of(args, asked, "")  # of nobody: what all personas' replies share
    with one_at_a_time(args.store / f".{same}.lock"):
        found = {persona: stored(file) for persona, file in files.items()}
        if any(found[persona] is None for persona in personas):
            missing = [persona for persona in together if found[persona] is None]
            drawn, timing = draw(args, asked, missing, sampling)
            for persona in missing:
                found[persona] = [row for row in drawn if row["persona"] == persona]
                write_rows(files[persona], found[persona] or [])
    rows = [row for persona in personas for row in found[persona] or []]
    write_rows(args.output, rows)
    tokens = sum(row["tokens"] for row in drawn)
    print(f"{Path(args.output).name}: {len(rows)} replies; {len(drawn)} drawn now, {tokens} tokens")
    if args.record:
        write_json(args.record, run_record(started, completions=len(drawn), tokens=tokens, **timing))


if __name__ == "__main__":
    run(main)
