"""Speed and memory of the probe at the Qwen2.5-7B shape (random weights): the rows of a node in one process.

    python benchmarks/probe_7b.py --output probe.json               # on a GPU; about 4 minutes on an H100

12 personas x 28 questions: 10 own replies each, 2 shared ones, and 4 crossed bodies per question under the other 11
personas, as config.yaml has it; prompts of 70 tokens, replies of 342. Once with 4 own replies per question, then all.
--layers times read_layers instead: 4 bodies per question under all 12 personas, lens and read-out at every layer.
--shape tiny runs the same code on a CPU.
"""

import argparse
import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("workflow_scripts", "benchmarks")]

PROMPT, REPLY = 70, 342  # tokens
PANEL = {"own": 12 * 28, "shared": 12 * 28 * 2, "crossed": 28 * 4 * 11}
TEXT = 151643  # ids below are text in Qwen's vocabulary
MARKED, ENDED = (382, 85113, 27404, 60, 151645), (13, 151645)  # ".\\n\\n", "[Z", "LT", "]", end of turn; ".", end


def rows_of(samples: int, scale: int) -> list[Any]:
    """Random rows of a node's size; one in `scale` of them."""
    from probe.scoring import Row
    from probe.slot import Slot

    draw = random.Random(0)
    rows = []
    for kind, count in (("own", PANEL["own"] * samples), ("shared", PANEL["shared"] + PANEL["crossed"])):
        for _ in range(count // scale):
            length = max(8, round(draw.gauss(REPLY, 60)))
            prompt, reply = (tuple(draw.randrange(TEXT) for _ in range(size)) for size in (PROMPT, length))
            slot = Slot(length - 2 if kind == "own" else length, MARKED, ENDED, 0, 1)
            rows.append(Row(prompt, reply, slot, kind == "own"))
    return rows


def time_layers(model: Any, scale: int, budget: int) -> dict[str, Any]:
    """Seconds and peak memory of the layers of a node's crossed rows."""
    import torch

    from probe.layers import LayerReader, table_of

    cuda = model.device.type == "cuda"
    rows = [row for row in rows_of(0, 1) if not row.sampled][: 28 * 4 * 12 // scale]
    personas = [f"persona_{place % 12}" for place in range(len(rows))]
    questions = [f"question_{place // 12 % 28}" for place in range(len(rows))]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    read = LayerReader(model, budget).read(rows)
    seen = time.perf_counter()
    table = table_of(read, personas, questions, model.device)
    return {
        "rows": len(rows),
        "tokens": sum(len(row.trunk) for row in rows),
        "tokens_a_pass": budget,
        "reading_seconds": round(seen - began, 1),
        "readout_seconds": round(time.perf_counter() - seen, 1),
        "table_rows": len(table),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
    }


def main() -> None:
    import torch
    from train_7b import SHAPES, random_model

    from model.engines import Sampling
    from probe.onset import OnsetSets
    from probe.scoring import BUDGET, Scorer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--scale", type=int, default=1, help="one row in so many")
    parser.add_argument("--budgets", default="", help="tokens a pass, separated by commas")
    parser.add_argument("--layers", action="store_true", help="time read_layers")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    model = random_model(SHAPES[arguments.shape], cuda).eval()
    # as many tokens as Qwen has that begin with the rest, end in the bracket, and contain both
    partly = dict.fromkeys(range(1000, 1300), (0, 2)) | dict.fromkeys(range(2000, 2106), (1, 1)) | {85113: (2, 2)}
    sets = OnsetSets("[Z", partly, frozenset(range(TEXT, TEXT + 3)))
    measured = []
    for budget in map(int, arguments.budgets.split(",") if arguments.budgets else [BUDGET[model.device.type]]):
        if arguments.layers:
            measured.append(time_layers(model, arguments.scale, budget))
            print(json.dumps(measured[-1]), flush=True)
            continue
        for samples in (4, 10):
            rows = rows_of(samples, arguments.scale)
            scorer = Scorer(model, sets, [151645], Sampling(1.0, arguments.top_p, 512), 1e-3, budget)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            scores = scorer.score(rows)
            seconds = time.perf_counter() - began
            measured.append(
                {
                    "own_samples": samples,
                    "tokens_a_pass": budget,
                    "top_p": arguments.top_p,
                    "rows": len(rows),
                    "tokens": sum(len(row.trunk) for row in rows),
                    "seconds": round(seconds, 1),
                    "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
                    "mean_h": sum(sum(score.direct) for score in scores) / len(scores),
                }
            )
            print(json.dumps(measured[-1]), flush=True)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    versions = {name: version(name) for name in ("torch", "transformers")}
    arguments.output.write_text(json.dumps({"device": device, **versions, "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
