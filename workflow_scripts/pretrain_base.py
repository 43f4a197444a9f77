"""Pretrain the offline study's base model from scratch: a byte-level BPE, then a small Qwen2 chat model, on CPU.

    python workflow_scripts/pretrain_base.py --corpus corpus.jsonl --seed 42 --output base/model \
        --manifest base/manifest.json --record base/run.json --recipe '{"layers":4,"hidden":192,"heads":6,
        "kv_heads":2,"ffn":512,"vocab":2048,"context":1024,"max_length":256,"batch":32,"epochs":1,"lr":4e-3,
        "warmup":0.05,"weight_decay":0.01,"clip":1.0,"prompt_share":0.5}'

--output becomes a plain transformers folder. Tokenizer and template follow Qwen2.5: the same split before the
BPE, ChatML, and a default system prompt where a chat has none. Two threads, whatever the machine offers, because
the number of threads may change the order of sums: the same corpus, recipe and seed give the same bytes.
"""

import argparse
import time
from pathlib import Path

from model.loading import set_seed
from offline.pretraining import (
    RECIPE,
    THREADS,
    build_model,
    encode,
    pretrain,
    read_recipe,
    render,
    show_progress,
    train_tokenizer,
)
from run.files import partial, sha256_of, write_json
from run.program import run
from run.provenance import run_record
from run.readers import read_jsonl
from run.status import Status


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Pretrain a small Qwen2 chat model from scratch on CPU.")
    parser.add_argument("--corpus", required=True, help="JSON lines of messages")
    parser.add_argument("--recipe", required=True, help="JSON object; keys: " + ", ".join(RECIPE))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", required=True, help="model folder to write")
    parser.add_argument("--status", type=Path, help="file for one line of progress, rewritten every few seconds")
    parser.add_argument("--record", help="run.json to write: host, seconds, memory, versions")
    parser.add_argument("--manifest", help="manifest.json to write: what the model was made from, and its sha256")
    return parser.parse_args(argv)


def main() -> None:
    """Tokenizer, model, training, folder, records."""
    args = parse_args()
    started = time.time()
    recipe = read_recipe(args.recipe)
    chats = render(read_jsonl(args.corpus), args.corpus)

    import torch

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    text_only = (message["content"] for chat in chats for message in chat)
    tokenizer = train_tokenizer(text_only, recipe["vocab"], recipe["context"])
    rows = encode(chats, tokenizer, recipe["max_length"])
    set_seed(args.seed)
    model = build_model(recipe, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(len(ids) for ids, _ in rows)
    print(f"{len(rows)} rows, {tokens} tokens, vocabulary {len(tokenizer)}, {parameters} parameters", flush=True)
    status = Status(args.status, "base")

    def report(step: int, steps: int, loss: float) -> None:
        show_progress(step, steps, loss)
        # of all rows: those of one step are of one length
        status.report(step, steps, loss, step / steps * recipe["epochs"] * tokens / (time.time() - status.began))

    try:
        loss = pretrain(rows, model, recipe, args.seed, report)
    finally:
        status.end()
    with partial(args.output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if args.manifest:
        hashes = {"data": sha256_of(args.corpus), "model": sha256_of(args.output)}
        write_json(args.manifest, {"lineage": "base", "recipe": recipe, "seed": args.seed, **hashes})
    if args.record:
        write_json(args.record, run_record(started, loss=loss, parameters=parameters, rows=len(rows)))


if __name__ == "__main__":
    run(main)
