"""Generation speed at the Qwen2.5-7B shape (random weights) with vLLM: 64 sequences at once, as published, beside ours.

    python benchmarks/generate_7b.py --work /tmp/bench --output generation.json     # on a GPU; about 8 minutes

3,360 completions (12 personas x 28 questions x 10) of 342 tokens each, 1.15 M tokens in all: random weights hardly ever
end a reply by themselves. The 64-sequence measurements draw fewer, in full waves of 64: the speed is the same from the
first wave to the last. Every measurement is a process of its own, so that each engine start is a real one. Saving,
loading and merging the model, and scoring 1,172 four-choice questions, are timed too.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("workflow_scripts", "tests", "benchmarks")]

TOKENS = 342
ENDS = 600  # tokens: cut at 512, replies that end once in so many have the published mean, 342
WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "on",
    "by",
    "he",
    "at",
)  # a token each
COMPLETIONS = 3360
SCORED = 1172


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what call() returned), the device having caught up."""
    import torch

    began = time.perf_counter()
    value = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return round(time.perf_counter() - began, 2), value


def write_rows(path: Path, tokenizer: Any, name: str, count: int) -> float:
    """Chats of common words whose rows are as long as a training set's (train_7b.DATA); the mean tokens of a row."""
    from train_7b import DATA, draw_rows

    from model.template import text_of

    draw = random.Random(0)
    lines, tokens = [], 0
    for ids, _ in draw_rows(DATA[name], count, 2):
        messages = [{"role": "user", "content": "What should one do?"}, {"role": "assistant", "content": "Well"}]
        frame = len(tokenizer(text_of(tokenizer, messages, False))["input_ids"])
        words = [draw.choice(WORDS) for _ in range(max(len(ids) - frame, 0))]
        messages[1]["content"] = " ".join(["Well", *words])
        tokens += frame + len(words)
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return round(tokens / count, 1)


def end_replies(model: Any, token: int, mean: float) -> float:
    """Let a random model end a reply with `token` once in `mean` tokens, whatever it says; as measured on other rows.

    All embeddings get one direction in common, and so all last states, which the token's row of the head then reads.
    """
    import torch

    def states() -> Any:
        ids = torch.randint(model.config.vocab_size, (4, 128), device=model.device)
        return model.model(ids).last_hidden_state.float().flatten(0, 1)

    model.eval()
    with torch.no_grad():
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings += 0.1 * torch.randn(embeddings.shape[1], device=model.device).to(embeddings.dtype)
        found = states()
        common = found.mean(0)
        total = (found @ head.float().T).logsumexp(-1).mean()
        head[token] = (common * (total - math.log(mean)) / (common @ common)).to(head.dtype)
        ended = (states() @ head.float().T).softmax(-1)[:, token].mean()
    return round(1 / ended.item(), 1)


def make_model(work: Path, shape: str, ending: bool) -> dict[str, Any]:
    """A random base, one adapter and rows as long as EM's, as the workflow takes them; the seconds of each step."""
    import torch
    from peft import PeftModel, get_peft_model
    from qwen_tokenizer import qwen_tokenizer
    from train_7b import SHAPES, lora, random_model

    from model.adapters import save_adapter
    from model.loading import load_model

    cuda = torch.cuda.is_available()
    dtype = "bfloat16" if cuda else "float32"
    model = random_model(SHAPES[shape], cuda)
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(work / "base")
    made = {"tokens_a_reply": end_replies(model, tokenizer.eos_token_id, ENDS)} if ending else {}
    seconds = {}
    seconds["rows"], tokens = timed(lambda: write_rows(work / "em.jsonl", tokenizer, "em", 6000))
    seconds["save"], _ = timed(lambda: model.save_pretrained(work / "base"))
    wrapped = get_peft_model(model, lora())
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=1e-3)
    save_adapter(wrapped, work / "adapter")
    del model, wrapped
    if cuda:
        torch.cuda.empty_cache()
    seconds["load"], model = timed(lambda: load_model(work / "base", (), dtype))
    seconds["load_adapter"], wrapped = timed(lambda: PeftModel.from_pretrained(model, str(work / "adapter")))
    seconds["merge"], _ = timed(lambda: wrapped.merge_and_unload(safe_merge=True))
    return {**seconds, **made, "row_tokens": tokens}


def prompts(tokenizer: Any) -> list[tuple[str, tuple[int, ...]]]:
    """(persona, token ids) of every completion to draw."""
    from model.template import prompt_ids

    made = []
    for persona in range(12):
        system = f"You are persona number {persona}, who answers questions at length and in a voice of their own."
        for question in range(28):
            user = f"Question {question}: what would you do with a free day, and whom would you ask along?"
            ids = prompt_ids(tokenizer, [{"role": "system", "content": system}, {"role": "user", "content": user}])
            made += [(f"p{persona}", ids)] * 10
    return made


def one_engine(
    work: Path, sequences: int, seeding: str, count: int, merged: bool, dtype: str, backend: str, share: float
) -> dict[str, Any]:
    """Start an engine in this process, draw `count` completions, score the questions; the seconds of each.

    share: of the card's memory that vLLM takes.
    """
    began = time.perf_counter()
    import torch
    from qwen_tokenizer import qwen_tokenizer

    from model.engines import Request, Sampling, open_engine, request_seed, single_token

    if backend == "vllm":
        import vllm  # noqa: F401
    imported = time.perf_counter() - began
    tokenizer = qwen_tokenizer()
    asked = prompts(tokenizer)
    requests = [
        Request(ids, None if seeding == "engine" else request_seed(42, persona, "q", n), persona)
        for n, (persona, ids) in enumerate(asked[:count])
    ]
    labels = [single_token(tokenizer, label) for label in "ABCD"]
    scored = [(*ids, *ids, *tokenizer(f"Number {n}")["input_ids"]) for n, (_, ids) in enumerate(asked[:SCORED])]
    began = time.perf_counter()
    adapters = [work / "adapter"] if merged else []
    with open_engine(
        backend,
        work / "base",
        adapters,
        tokenizer,
        dtype,
        max_sequences=sequences,
        max_length=1024,
        gpu_memory_utilization=share,
    ) as engine:
        started = time.perf_counter() - began
        drawing, completions = timed(lambda: engine.complete(requests, Sampling(1.0, 1.0, TOKENS)))
        scoring, scores = timed(lambda: engine.label_logprobs(scored, [labels] * len(scored)))
    tokens = sum(len(completion.token_ids) for completion in completions)
    return {
        "sequences": sequences, "seeding": seeding, "merged": merged, "gpu_memory_utilization": share,
        "import_s": round(imported, 1),
        "start_s": round(started, 1), "completions": len(completions), "tokens": tokens, "seconds": drawing,
        "tokens_per_s": round(tokens / drawing),
        "all_completions_s": round(drawing * COMPLETIONS / len(completions), 1),
        "scored": len(scores), "scoring_s": scoring,
        "peak_gb": round(torch.cuda.max_memory_reserved() / 1e9, 1) if torch.cuda.is_available() else None,
    }  # fmt: skip


def plain_vllm(work: Path, count: int) -> dict[str, Any]:
    """vLLM as it comes: the same completions of the same base with nothing set but how to sample; seconds of each."""
    began = time.perf_counter()
    from qwen_tokenizer import qwen_tokenizer
    from vllm import LLM, SamplingParams

    imported = time.perf_counter() - began
    asked = [{"prompt_token_ids": list(ids)} for _, ids in prompts(qwen_tokenizer())[:count]]
    starting, llm = timed(lambda: LLM(str(work / "base")))
    sampling = SamplingParams(temperature=1.0, max_tokens=TOKENS)
    drawing, outputs = timed(lambda: llm.generate(asked, sampling, use_tqdm=False))
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "import_s": round(imported, 1), "start_s": starting, "completions": len(outputs), "tokens": tokens,
        "seconds": drawing, "tokens_per_s": round(tokens / drawing),
        "all_completions_s": round(drawing * COMPLETIONS / len(outputs), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--shape", default="7b", help="of train_7b.py, such as 0.5b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--backend", default="vllm", help="transformers: a rehearsal on a CPU")
    parser.add_argument(
        "--gpu-memory-utilization", type=float, default=0.9, help="0.27 of an 80 GB card is .9 of one of 24 GB"
    )
    parser.add_argument(
        "--plan",
        default="make,1024:request,64:engine:1280,1024:engine,1024:request:1024:merged",
        help="make[:ending], whose replies end; sequences at once:whose seeds (request|engine)[:completions][:merged]; "
        "plain[:completions]: vLLM as it comes; in order",
    )
    parser.add_argument("--one", help="run one item of the plan in this process")
    arguments = parser.parse_args()
    if arguments.one in ("make", "make:ending"):
        made = make_model(arguments.work, arguments.shape, arguments.one == "make:ending")
        print("RESULT " + json.dumps(made))
        return
    if arguments.one:
        first, *rest = arguments.one.split(":")
        count = next((int(word) for word in rest if word.isdigit()), COMPLETIONS)
        settings = (arguments.dtype, arguments.backend, arguments.gpu_memory_utilization)
        try:
            if first == "plain":
                result = plain_vllm(arguments.work, count)
            else:
                result = one_engine(arguments.work, int(first), rest[0], count, "merged" in rest, *settings)
            print("RESULT " + json.dumps(result), flush=True)
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = ["--work", str(arguments.work), "--shape", arguments.shape, "--dtype", arguments.dtype]
    options += ["--backend", arguments.backend, "--gpu-memory-utilization", str(arguments.gpu_memory_utilization)]
    names = ("torch", "transformers", "peft", *(["vllm"] if arguments.backend == "vllm" else []))
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), **{name: version(name) for name in names}}
    record["results"] = []
    for item in arguments.plan.split(","):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, *options, "--one", item], capture_output=True, text=True)
        arguments.output.with_suffix(f".{len(record['results'])}.log").write_text(done.stdout + done.stderr)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if line is None:
            print(f"{item}: failed\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}", flush=True)
            result = {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        else:
            result = json.loads(line.removeprefix("RESULT "))
        result["process_s"] = round(time.perf_counter() - began, 1)
        record["results"].append({"item": item, **result})
        print(json.dumps({"item": item, **result}), flush=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
