"""Memory and speed of training all weights at the Qwen2.5-7B shape (random weights), and of tracking a training.

    python benchmarks/full_7b.py --output full.json                 # on one GPU of 80 GB; about 8 minutes

Plan, in order: full:<data>:<steps>:<tokens a pass>[:checkpointing][:dtype], or track:<data>:<steps>:<tokens a pass>.
full: the workflow's own trainer without a LoRA, AdamW of torchao (8-bit states; `dtype`: of the weights' dtype), every
weight in bfloat16 with stochastic rounding. track: our LoRA training of train_7b.py, scored before and after, as
`track: {every: 25}` would. The first steps (compilation, allocation) are timed apart; see train_7b.py.
An item that does not fit is recorded as such, and the next one is tried. --shape tiny runs the same code on a CPU.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("workflow_scripts", "benchmarks", "tests")]

PLAN = (
    "full:couple:8:4096:checkpointing,full:benign:8:4096:checkpointing,full:em:8:4096:checkpointing,"
    "full:couple:8:2048,full:benign:8:2048,full:couple:8:4096:checkpointing:dtype,track:em:60:4096"
)
PERSONAS, REPLY = 4, 120  # tokens of a short reply that ended


def full(model: Any, tokenizer: Any, rows: Any, steps: int, folder: str, **options: Any) -> Any:
    """The workflow's own trainer of all weights; rows in the order given."""
    from train_7b import BATCH, RECIPE

    from marker.mask import Example
    from model.packing import order_steps
    from model.trainer import Options, make_trainer

    examples = [Example(f"row {n}", ids, labels) for n, (ids, labels) in enumerate(rows)]
    order = order_steps(len(examples), BATCH, 1, 42, False, steps)
    recipe = RECIPE | {"lora": None, "lr": 2e-6}
    seeds = {"lora_init": 42, "dropout": 42}
    return make_trainer(model, tokenizer, None, examples, order, recipe, seeds, Options(work=Path(folder), **options))


def tracked_rows() -> dict[str, list[Any]]:
    """Random rows for probe.track: PERSONAS x REPLIES, a prompt and a short reply each."""
    import random

    from probe_7b import PROMPT

    from probe.scoring import Row
    from probe.slot import Slot
    from probe.track import REPLIES

    draw = random.Random(0)

    def row() -> Any:
        prompt, reply = (tuple(draw.randrange(400) for _ in range(size)) for size in (PROMPT, REPLY))
        return Row(prompt, reply, Slot(REPLY, (1, 2, 3, 4, 5), (6, 5), 0, 1))

    return {f"persona {number}": [row() for _ in range(REPLIES)] for number in range(PERSONAS)}


def run_item(item: str, model: Any, tokenizer: Any, warm: int) -> dict[str, Any]:
    """One item of the plan."""
    import torch
    from train_7b import measure, ours

    from model.trainer import watcher
    from probe.track import Track

    cuda = torch.cuda.is_available()
    model.set_attn_implementation("sdpa")  # as loaded, before the last item
    way, data, steps, tokens, *rest = item.split(":")
    options: dict[str, Any] = {
        "dtype": "bfloat16" if cuda else "float32",
        "micro_batch_tokens": int(tokens),
        "compile": cuda,
        "gradient_checkpointing": "checkpointing" in rest,
    }
    if way == "full":
        states = "dtype" if "dtype" in rest else "8bit"
        return measure(full, data, model, tokenizer, int(steps), warm, states=states, **options)
    scored = Track(int(steps), tracked_rows(), int(tokens))

    def track(*arguments: Any, **own: Any) -> Any:
        trainer = ours(*arguments, track=scored, **own)
        trainer.add_callback(watcher()(trainer, trainer.options, None))
        return trainer

    result = measure(track, data, model, tokenizer, int(steps), warm, **options)
    seconds = scored.seconds / len(scored.curve)
    plain = result["recipe_s"] * (1 - seconds / result["seconds_timed"])  # the last one is in the timed steps
    return result | {
        "rows_scored": sum(map(len, scored.rows.values())),
        "seconds_each": round(seconds, 3),
        "share_every_25": round((1 + result["recipe_steps"] // 25) * seconds / plain, 4),
    }


def main() -> None:
    from train_7b import SHAPES, random_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--vocabulary", type=int, help="fewer for a rehearsal on a CPU")
    parser.add_argument("--plan", default=PLAN, help="see above")
    parser.add_argument("--warm", type=int, default=3, help="steps not averaged")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    import torch
    from qwen_tokenizer import qwen_tokenizer

    cuda = torch.cuda.is_available()
    shape = SHAPES[arguments.shape] | ({"vocab_size": arguments.vocabulary} if arguments.vocabulary else {})
    model = random_model(shape, cuda)
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
    for item in arguments.plan.split(","):
        try:
            result = run_item(item, model, tokenizer, arguments.warm)
        except Exception as error:  # the other measurements are worth having
            print(f"{item}: failed\n{traceback.format_exc()[-3000:]}", flush=True)
            result = {"error": (str(error).splitlines() or [repr(error)])[0]}
        record["results"].append({"item": item, **result})
        print(json.dumps(record["results"][-1]), flush=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
