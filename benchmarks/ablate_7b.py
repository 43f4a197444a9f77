"""Speed and memory of ablate_stage at the Qwen2.5-7B shape (random weights): all variants of a cell in one process.

    python benchmarks/ablate_7b.py --output ablate.json               # on a GPU; about 6 minutes on an H100

24 questions under the source and 3 bystanders, 161 sets of weights, then 56 patches, as config.yaml has it; prompts of
70 tokens and replies of 342; two LoRAs of rank 32 on all linear layers and 5 random ones. Loading a model comes on top.
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

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CONTROLS = 5
RANK = 32


def random_lora(model: Any) -> Any:
    """A LoRA of rank 32 for every linear layer, with small deltas."""
    import torch

    from model.adapters import place_of
    from model.weights import Lora

    shapes = {name: weight.shape for name, weight in model.named_parameters() if weight.dim() == 2 and place_of(name)}
    pairs = {
        name: (torch.randn(RANK, inputs, device=model.device), torch.randn(outputs, RANK, device=model.device))
        for name, (outputs, inputs) in shapes.items()
    }
    return Lora(Path("random"), 1e-4, pairs)


def main() -> None:
    import torch
    from ablate_stage import patched, scored
    from probe_7b import ENDED, MARKED, PROMPT, REPLY, TEXT
    from train_7b import SHAPES, random_model

    from model.weights import Mixture, random_like
    from probe.patching import Patcher
    from probe.scoring import BUDGET, Row, slot_scorer
    from probe.slot import Slot
    from probe.variants import patches_of, variants

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--bystanders", type=int, default=3)
    parser.add_argument("--budget", type=int, help="tokens a forward pass")
    parser.add_argument("--most", type=int, help="variants, for a look")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    model = random_model(SHAPES[arguments.shape], cuda).eval()
    draw = random.Random(0)
    rows = []
    for _ in range(arguments.questions):
        body = tuple(draw.randrange(TEXT) for _ in range(max(8, round(draw.gauss(REPLY, 60)))))
        for _ in range(1 + arguments.bystanders):
            prompt = tuple(draw.randrange(TEXT) for _ in range(PROMPT))
            rows.append(Row(prompt, body, Slot(len(body), MARKED, ENDED, 0, 1)))
    began = time.perf_counter()
    first, second = random_lora(model), random_lora(model)
    loras = [first, second, *(random_like(second, seed) for seed in range(CONTROLS))]
    wanted = variants(list(second.pairs), GRID, CONTROLS)[: arguments.most]
    drawn = time.perf_counter()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    budget = arguments.budget or BUDGET[model.device.type]
    mixture, patcher = Mixture(model, loras), Patcher(model, rows, budget)
    scores = scored(mixture, wanted, rows, slot_scorer(model, budget))
    seconds = time.perf_counter() - drawn
    patches = patches_of(len(patcher.layers))
    patched(mixture, patches, patcher)
    seconds_patching = time.perf_counter() - drawn - seconds
    sets = {tuple(each.strengths(name, CONTROLS) for name in second.pairs) for each in wanted}
    tokens = sum(len(row.trunk) for row in rows)
    measured = {
        "variants": len(wanted), "sets_of_weights": len(sets), "rows": len(rows), "tokens": tokens,
        "tokens_a_pass": budget, "random_loras_seconds": round(drawn - began, 1), "seconds": round(seconds, 1),
        "patches": len(patches), "patching_seconds": round(seconds_patching, 1),
        "seconds_a_set": round(seconds / len(sets), 3), "tokens_per_second": round(tokens * len(sets) / seconds),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        "mean_slot": sum(parts["slot"] for own in scores for parts in own) / len(scores) / len(rows),
    }  # fmt: skip
    print(json.dumps(measured), flush=True)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    versions = {name: version(name) for name in ("torch", "transformers")}
    arguments.output.write_text(json.dumps({"device": device, **versions, "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
