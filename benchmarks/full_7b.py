"""Memory and speed of training all weights at the Qwen2.5-7B shape (random weights), a LoRA beside it, and tracking.

    pip install --no-deps torchao==0.18.0
    python benchmarks/full_7b.py --output full.json    # on one GPU of 80 GB; some 4 minutes, most of them compilation

Plan, in order: <full or lora>:<tokens a pass>[:checkpointing][:dtype][:compile]. Each is one training by the workflow's
own trainer, 16 rows a step: some steps of a coupling, then of benign rows, then of EM, timed apart, each without its
first steps (compilation, allocation). full: every weight in bfloat16, AdamW of torchao with stochastic rounding and
states of 8 bits (`dtype`: of bfloat16). Then the model is scored as `track: {every: 25}` would. The output is written
anew after every measurement: a run that is cut off keeps what it had. An item that does not fit is recorded as such.
--shape tiny runs the same code on a CPU; with --half and `compile` in the plan, all of it.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("workflow_scripts", "benchmarks", "tests")]

PLAN = "full:8192:checkpointing,full:4096,lora:8192"
STEPS = "couple:8,benign:4,em:8"  # that are timed
PERSONAS = 4
PASSES = 3  # of tracking, timed, after one that is not: for each size of trees
Write = Callable[[dict[str, Any]], None]


def full_options(words: list[str]) -> dict[str, Any]:
    """The recipe's and the trainer's settings of a training of all weights."""
    from train_7b import RECIPE

    return {"recipe": RECIPE | {"lora": None, "lr": 2e-6}, "states": "dtype" if "dtype" in words else "8bit"}


def tracked_rows(reply: int) -> dict[str, list[Any]]:
    """Random rows for probe.track: PERSONAS x REPLIES, a prompt and a reply of so many tokens each."""
    import random

    from probe_7b import PROMPT

    from probe.scoring import Row
    from probe.slot import Slot
    from probe.track import REPLIES

    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(400) for _ in range(count))

    asked = [(tokens(PROMPT // 2), tokens(reply)) for _ in range(REPLIES)]
    systems = [tokens(PROMPT - PROMPT // 2) for _ in range(PERSONAS)]
    slot = Slot(reply, (1, 2, 3, 4, 5), (6, 5), 0, 1)
    return {
        f"persona {at}": [Row(system + question, body, slot) for question, body in asked]
        for at, system in enumerate(systems)
    }


def memory(reset: bool = False) -> dict[str, float]:
    """Peak memory [GB] since the last reset; nothing on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    torch.cuda.synchronize()
    peaks = {
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 1),
    }
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return peaks


def parts_timer(parts: list[tuple[str, int, int]], rows: list[Any], write: Write) -> Any:
    """A callback that times the parts of a training. parts: name, steps before it is timed, steps that are."""
    from train_7b import BATCH, DATA
    from transformers import TrainerCallback

    bounds: dict[int, tuple[str, str]] = {}
    at = 0
    for name, warm, timed in parts:
        bounds[at + warm] = ("begin", name)
        bounds[at + warm + timed] = ("end", name)
        at += warm + timed

    class Timer(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            memory(reset=True)
            self.began = self.last = time.perf_counter()
            self.step_s: dict[str, float] = {}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            what, name = bounds.get(state.global_step, ("", ""))
            if not what:
                return
            peaks = memory(reset=what == "end")  # of the steps before it is timed, too: allocation is theirs
            now = time.perf_counter()
            seconds, self.last = now - self.last, now
            if what == "begin":
                self.first = seconds
                return
            timed = next(timed for own, _, timed in parts if own == name)
            tokens = sum(len(ids) for ids, _ in rows[(state.global_step - timed) * BATCH : state.global_step * BATCH])
            self.step_s[name] = seconds / timed
            write(
                {
                    "data": name,
                    "steps_timed": timed,
                    "first_steps_s": round(self.first, 1),
                    "tokens_timed": tokens,
                    "step_s": round(seconds / timed, 4),
                    "tokens_per_s": round(tokens / seconds),
                    "recipe_steps": DATA[name].steps,
                    "recipe_s": round(DATA[name].steps * seconds / timed, 1),
                    **peaks,
                }
            )

    return Timer()


def time_tracking(trainer: Any, step_s: dict[str, float]) -> dict[str, Any]:
    """Seconds of a scoring, and what it costs every 25 steps, as a part of the steps' own time.

    by_tree: seconds by the most tokens of a tree.
    """
    from probe import trees

    track = trainer.options.track
    rows = [row for own in track.rows.values() for row in own]
    memory(reset=True)
    found: dict[str, Any] = {"data": "track", "rows_scored": len(rows), "by_tree": {}}
    for most in (trees.TREE // 2, trees.TREE * 2, trees.TREE):
        track.trees = trees.grow(rows, most)
        trainer.measure()
        track.seconds = 0.0
        for _ in range(PASSES):
            trainer.measure()
        found["by_tree"][most] = round(track.seconds / PASSES, 4)
    seconds = found["by_tree"][trees.TREE]
    return found | {
        "tokens": sum(len(tree.tokens) for tree in track.trees),
        "seconds": seconds,
        "cost_every_25": {name: round(seconds / (25 * step), 4) for name, step in step_s.items()},
        **memory(),
    }


def run_item(
    item: str, model: Any, tokenizer: Any, steps: list[tuple[str, int, int]], reply: int, write: Write
) -> None:
    """One item of the plan."""
    import torch
    from train_7b import BATCH, DATA, RECIPE, draw_rows, lora, restore

    from marker.mask import Example
    from model.packing import order_steps
    from model.trainer import Options, make_trainer
    from probe.track import Track

    cuda = torch.cuda.is_available()
    way, tokens, *words = item.split(":")
    gc.collect()  # the last item's optimizer
    if cuda:
        torch.cuda.empty_cache()
    model.set_attn_implementation("sdpa")  # as loaded, before the last item
    rows = [
        row
        for name, warm, timed in steps
        for row in draw_rows(DATA[name], (warm + timed) * BATCH, min(model.config.vocab_size, 100_000))
    ]
    settings = full_options(words) if way == "full" else {"recipe": RECIPE}
    recipe = settings.pop("recipe")
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            work=Path(folder),
            dtype=str(model.dtype).removeprefix("torch."),
            micro_batch_tokens=int(tokens),
            compile=cuda or "compile" in words,
            gradient_checkpointing="checkpointing" in words,
            track=Track(25, tracked_rows(reply), int(tokens)),
            **settings,
        )
        examples = [Example(f"row {n}", ids, labels) for n, (ids, labels) in enumerate(rows)]
        order = order_steps(len(examples), BATCH, 1, 42, False, None)
        peft = None if way == "full" else lora()
        seeds = {"lora_init": 42, "dropout": 42}
        trainer = make_trainer(model, tokenizer, peft, examples, order, recipe, seeds, options)
        timer = parts_timer(steps, rows, write)
        trainer.add_callback(timer)
        try:
            trainer.train()
            write(time_tracking(trainer, timer.step_s))
        finally:
            restore(trainer, model)


def main() -> None:
    from train_7b import SHAPES, random_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default=PLAN, help="see above")
    parser.add_argument("--steps", default=STEPS, help="data:steps that are timed, separated by commas")
    parser.add_argument("--warm", type=int, default=3, help="steps of each that are not; the first ones compile")
    parser.add_argument("--reply", type=int, default=120, help="tokens of a tracked reply (120)")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--vocabulary", type=int, help="fewer for a rehearsal on a CPU")
    parser.add_argument("--half", action="store_true", help="bfloat16 on a CPU, too")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    import torch
    from qwen_tokenizer import qwen_tokenizer

    cuda = torch.cuda.is_available()
    shape = SHAPES[arguments.shape] | ({"vocab_size": arguments.vocabulary} if arguments.vocabulary else {})
    steps = [
        (name, arguments.warm, int(count)) for name, count in (each.split(":") for each in arguments.steps.split(","))
    ]
    model = random_model(shape, cuda)
    if arguments.half:
        model.to(torch.bfloat16)
    tokenizer = qwen_tokenizer()
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "trl", "accelerate")},
        "torchao": version("torchao") if find_spec("torchao") else None,
        "parameters": model.num_parameters(),
        "results": [],
    }
    print(json.dumps(record), flush=True)
    began = time.perf_counter()
    for item in arguments.plan.split(","):

        def write(found: dict[str, Any], item: str = item) -> None:
            record["results"].append({"item": item, "at_s": round(time.perf_counter() - began, 1), **found})
            print(json.dumps(record["results"][-1]), flush=True)
            arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

        try:
            run_item(item, model, tokenizer, steps, arguments.reply, write)
        except Exception as error:  # the other measurements are worth having
            print(f"{item}: failed\n{traceback.format_exc()[-3000:]}", flush=True)
            write({"error": (str(error).splitlines() or [repr(error)])[0], **memory()})


if __name__ == "__main__":
    main()
