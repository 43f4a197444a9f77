"""Ask a model everything an evaluation needs, with one engine start: the panel, the alignment questions, ARC-C.

    python workflow_scripts/generate_completions.py --base base/model --adapter couple/adapter em/adapter \
        --panel resources/panel.yaml --personas assistant,villain --samples 10 --seed 42 \
        --sampling '{"temperature":1.0,"top_p":1.0,"max_tokens":512}' --backend vllm --dtype bfloat16 \
        --completions completions.parquet --alignment alignment.parquet \
        --arc arc_challenge_test.jsonl --capability capability.parquet --record run.json

--completions  a row per persona, question (general and alignment) and sample; columns: panel.COLUMNS
--alignment    the alignment questions without a system message (persona "none"), the same number of samples each; with
               --questions those of that file instead, each with its own system message and samples
--capability   a row per ARC question: next-token log-probability (nats, whole vocabulary) of each answer label
docs/protocol.md, evaluation.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.panel import (
    COLUMNS,
    NO_PERSONA,
    chat,
    check_room,
    columns_of,
    load_panel,
    own_prompts_of,
    prompts_of,
    requests_of,
)
from inputs.questions import load_questions
from model.engines import add_arguments, engine_of, read_sampling, single_token
from model.loading import context_length, load_tokenizer
from model.template import prompt_ids
from run.files import write_json, write_table
from run.program import InputError, run
from run.provenance import run_record
from run.readers import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# answer: the right label, from the question's key. correct: it has the highest log-probability (first on a tie).
CAPABILITY_COLUMNS: dict[str, Any] = {
    "question_id": "string",
    "answer": "string",
    "labels": ["string"],
    "logprobs": ["float64"],
    "correct": "bool",
}


def load_arc(path: str | Path) -> list[dict[str, Any]]:
    """ARC rows {"id", "question", "choices": {"label": [..], "text": [..]}, "answerKey"}, one per line.

    Raises InputError naming the line that lacks a part, has no two choices, repeats an id or has no right answer.
    """
    rows = read_jsonl(path)
    if not rows:
        raise InputError(f"{path}: line 1: the file is empty; fix: fetch it again")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        if not is_arc(row):
            example = '"choices": {"label": ["A", "B"], "text": ["..", ".."]}, "answerKey": "A"'
            raise InputError(
                f'{path}: line {number}: no ARC question; fix: {{"id": "..", "question": "..", {example}}}'
            )
        if row["answerKey"] not in row["choices"]["label"]:
            raise InputError(f"{path}: line {number}: answerKey {row['answerKey']!r} is no label; fix: fetch it again")
        if row["id"] in seen:
            raise InputError(f"{path}: line {number}: id {row['id']!r} occurs twice; fix: fetch it again")
        seen.add(row["id"])
    return rows


def is_arc(row: dict[str, Any]) -> bool:
    """Does the row have all parts of an ARC question, with two or more choices under different labels?"""
    choices = row.get("choices")
    parts: list[Any] = [choices.get("label"), choices.get("text")] if isinstance(choices, dict) else []
    return (
        all(isinstance(row.get(name), str) and row[name] for name in ("id", "question", "answerKey"))
        and len(parts) == 2
        and all(isinstance(part, list) and all(isinstance(text, str) for text in part) for part in parts)
        and len(parts[0]) == len(parts[1]) == len(set(parts[0]))
        and len(parts[0]) >= 2
    )


def arc_text(row: dict[str, Any]) -> str:
    """The user turn: question, lettered choices, and the start of the answer (docs/protocol.md, evaluation)."""
    choices = zip(row["choices"]["label"], row["choices"]["text"], strict=True)
    lines = "\n".join(f"({label}) {text}" for label, text in choices)
    return f"{row['question']}\n\n{lines}\n\nThe correct answer is ("


def arc_prompts(
    rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", context: int
) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Prompt token ids and label token ids of each row. Raises InputError for one that exceeds the context."""
    prompts = [prompt_ids(tokenizer, chat(None, arc_text(row))) for row in rows]
    for row, prompt in zip(rows, prompts, strict=True):
        if len(prompt) + 1 > context:
            raise InputError(
                f"ARC {row['id']}: a prompt of {len(prompt)} tokens exceeds the model's context of {context}; "
                "fix: remove the question, or use a base with a longer context"
            )
    return prompts, [[single_token(tokenizer, label) for label in row["choices"]["label"]] for row in rows]


def capability_columns(rows: Sequence[dict[str, Any]], logprobs: Sequence[Sequence[float]]) -> dict[str, list[Any]]:
    """The table with CAPABILITY_COLUMNS, a row per ARC question."""
    labels = [row["choices"]["label"] for row in rows]
    chosen = [
        line[max(range(len(line)), key=scores.__getitem__)] for line, scores in zip(labels, logprobs, strict=True)
    ]
    answers = [row["answerKey"] for row in rows]
    return {
        "question_id": [row["id"] for row in rows],
        "answer": answers,
        "labels": labels,
        "logprobs": [list(scores) for scores in logprobs],
        "correct": [choice == answer for choice, answer in zip(chosen, answers, strict=True)],
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Completions of the panel, alignment replies and ARC-C in one go.")
    add_arguments(parser)
    parser.add_argument("--panel", required=True, help="YAML with personas and questions")
    parser.add_argument("--personas", required=True, help="names in the panel, separated by commas")
    parser.add_argument("--samples", type=int, required=True, help="completions per persona and question")
    parser.add_argument("--completions", required=True, help="completions.parquet")
    parser.add_argument("--alignment", help="alignment.parquet")
    parser.add_argument("--questions", nargs="?", help="YAML of questions for it (without a file: the panel's)")
    parser.add_argument("--arc", nargs="?", help="ARC-Challenge test questions, JSON lines (without a file: none)")
    parser.add_argument("--capability", help="capability.parquet, empty without --arc")
    args = parser.parse_args(argv)
    if args.arc and not args.capability:
        parser.error("--arc needs --capability, a place for its answers")
    return args


def main(argv: list[str] | None = None) -> None:
    """Panel, prompts, engine, tables."""
    args = parse_args(argv)
    started = time.time()
    sampling = read_sampling(args.sampling)
    panel = load_panel(args.panel)
    wanted = prompts_of(panel, args.personas.split(","), ["general", "alignment"], args.samples, args.panel)
    evaluated = len(wanted)
    if args.alignment and args.questions:
        wanted += own_prompts_of(load_questions(args.questions), sampling.temperature, args.questions)
    elif args.alignment:
        wanted += prompts_of(panel, [NO_PERSONA], ["alignment"], args.samples, args.panel)
    arc = load_arc(args.arc) if args.arc else []
    tokenizer = load_tokenizer(args.base)
    context = context_length(args.base)
    requests = requests_of(wanted, tokenizer, args.seed, args.seeding == "request")
    check_room(wanted, requests, sampling.max_tokens, context)
    prompts, labels = arc_prompts(arc, tokenizer, context)
    longest = max(
        max(len(request.prompt) for request in requests) + sampling.max_tokens, *(len(p) + 1 for p in prompts), 1
    )
    with engine_of(args, tokenizer, longest) as engine:
        ready = time.time()
        completions = engine.complete(requests, sampling)
        completed = time.time()
        logprobs = engine.label_logprobs(prompts, labels) if arc else []
        scored = time.time()
    columns = columns_of(wanted, requests, completions, sampling, args.seed)
    write_table(args.completions, {name: values[:evaluated] for name, values in columns.items()}, COLUMNS)
    if args.alignment:
        write_table(args.alignment, {name: values[evaluated:] for name, values in columns.items()}, COLUMNS)
    if args.capability:
        write_table(args.capability, capability_columns(arc, logprobs), CAPABILITY_COLUMNS)
    tokens = sum(columns["tokens"])
    print(f"{len(completions)} completions, {tokens} tokens in {completed - ready:.1f} s; {len(arc)} ARC questions")
    if args.record:
        record = run_record(
            started,
            backend=args.backend,
            dtype=args.dtype,
            completions=len(completions),
            tokens=tokens,
            engine_start_seconds=round(ready - started, 2),
            generation_seconds=round(completed - ready, 2),
            scoring_seconds=round(scored - completed, 2),
        )
        write_json(args.record, record)


if __name__ == "__main__":
    run(main)
