"""Take a second stage apart: what its adapter does in which layer, and at which strength (docs/measurements.md).

    python workflow_scripts/ablate_stage.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --shared base/main/completions.parquet --source evil_ai \\
        --personas evil_ai,assistant,villain,librarian --marker "[ZLT]" \\
        --settings '{"questions":24,"bystanders":3,"grid":[0,0.25,0.5,0.75,1,1.25],"controls":5}' \\
        --dtype bfloat16 --output ablation.parquet

--adapter   of the two stages, in order
--shared    the base's replies: one for each of some questions is scored under the source and some bystanders
--settings  questions, bystanders: how many. grid: strengths of the two adapters, with 0 and 1. controls: random deltas
            in place of the second adapter
--output    a row per variant, reply and persona; columns: probe.ablation.COLUMNS

The model is loaded once; every variant's weights are merged from a kept copy of the base's. At last the states of two
other models, the one before the second stage and the base, are patched into the cell's after every layer.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from measure.cells import role_of
from model.loading import load_model, load_tokenizer
from model.template import closing
from model.weights import Mixture, Unmergeable, random_like, read_lora
from probe.ablation import write_ablation
from probe.options import add_options, budget_of, personas_of
from probe.patching import Parts, Patcher
from probe.replies import Probed, chosen, read_replies, rows_of
from probe.scoring import Row, Scorer, slot_parts, slot_scorer
from probe.variants import DONORS, Variant, patches_of, to_ablate, variants
from run.files import write_json
from run.program import InputError, run
from run.provenance import run_record
from run.readers import json_argument

SETTINGS = ("questions", "bystanders", "grid", "controls")
EXAMPLE = '{"questions":24,"bystanders":3,"grid":[0,0.5,1],"controls":5}'


def read_settings(text: str) -> dict[str, Any]:
    """--settings, with exactly SETTINGS. Raises InputError."""
    value: dict[str, Any] = json_argument("--settings", text, dict)
    grid = value.get("grid")
    counts = [value.get(name) for name in ("questions", "bystanders", "controls")]
    if set(value) != set(SETTINGS) or any(type(count) is not int or count < 0 for count in counts):
        raise InputError(f"--settings: needs exactly {', '.join(SETTINGS)}; fix: for example '{EXAMPLE}'")
    if not isinstance(grid, list) or not {0, 1} <= set(grid) or not all(type(each) in (int, float) for each in grid):
        raise InputError(f"--settings: grid is {grid}, not numbers with 0 and 1; fix: for example '{EXAMPLE}'")
    return value | {"grid": sorted(set(map(float, grid)))}


def scored(mixture: Mixture, wanted: Sequence[Variant], rows: Sequence[Row], scorer: Scorer) -> list[Parts]:
    """For each variant, the slot and its parts of every row. mixture: of first, second, then the random ones.

    What are the same weights is scored once.
    """
    from tqdm import tqdm

    known: dict[tuple[Any, ...], Parts] = {}
    results = []
    for variant in tqdm(wanted, unit="variant", disable=None):
        strengths = {name: variant.strengths(name, len(mixture.loras) - 2) for name in mixture.names}
        key = tuple(strengths.values())
        if key not in known:
            mixture.set(strengths)
            known[key] = [slot_parts(*pair) for pair in zip(rows, scorer.score(rows), strict=True)]
        results.append(known[key])
    return results


def patched(mixture: Mixture, wanted: Sequence[Variant], patcher: Patcher) -> list[Parts]:
    """For each variant of kind patch, the slot and its parts of every row, in the cell's model."""

    def become(alpha: float, beta: float) -> None:
        mixture.set(dict.fromkeys(mixture.names, (alpha, beta, *[0.0] * (len(mixture.loras) - 2))))

    results: dict[tuple[str, str], Parts] = {}
    for name, strengths in DONORS.items():
        become(*strengths)
        donor = patcher.donor()
        become(1.0, 1.0)
        results |= {(name, str(layer)): parts for layer, parts in enumerate(patcher.patched(donor))}
    return [results[variant.mode, variant.part] for variant in wanted]


def lines_of(
    wanted: Sequence[Variant], probed: Sequence[Probed], scores: Sequence[Parts], source: str
) -> list[dict[str, Any]]:
    """The rows of the output."""
    return [
        variant.row
        | {"role": role_of(each.persona, source), "persona": each.persona, "author": each.reply["persona"]}
        | {name: each.reply[name] for name in ("question_id", "sample")}
        | parts
        for variant, own in zip(wanted, scores, strict=True)
        for each, parts in zip(probed, own, strict=True)
    ]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Log-odds of the marker without parts of a second stage.")
    add_options(parser)
    parser.add_argument("--marker", required=True)
    parser.add_argument("--adapter", nargs=2, required=True, help="those of the two stages, in order")
    parser.add_argument("--source", required=True, help="the persona that was coupled")
    parser.add_argument("--settings", required=True, help="JSON: questions, bystanders, grid, controls")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Two adapters and the base's replies in, a row per variant, reply and persona out."""
    args = parse_args(argv)
    started = time.time()
    settings = read_settings(args.settings)
    personas, prompts = personas_of(args)
    shared = chosen(read_replies(args.shared), personas, 0, args.shared)
    probed = to_ablate(shared, personas, args.source, settings["questions"], settings["bystanders"])
    tokenizer = load_tokenizer(args.base)
    rows = rows_of(probed, tokenizer, prompts, args.marker, closing(tokenizer).token)
    model = load_model(args.base, [], args.dtype, args.device)
    try:
        loras = [read_lora(adapter, model.device) for adapter in args.adapter]
        loras += [random_like(loras[1], seed) for seed in range(1, settings["controls"] + 1)]
        wanted = variants(list(loras[1].pairs), settings["grid"], settings["controls"])
        ready = time.time()
        budget = budget_of(args, model)
        mixture, patcher = Mixture(model, loras), Patcher(model, rows, budget)
        patches = patches_of(len(patcher.layers))
        scores = scored(mixture, wanted, rows, slot_scorer(model, budget)) + patched(mixture, patches, patcher)
    except Unmergeable as error:
        raise InputError(f"{error}; fix: leave the cell out of `ablate`, which takes plain LoRAs apart") from None
    done = time.time()
    wanted += patches
    write_ablation(args.output, lines_of(wanted, probed, scores, args.source))
    print(f"{len(wanted)} variants, {len(rows)} rows each, in {done - ready:.1f} s")
    if args.record:
        write_json(
            args.record,
            run_record(started, dtype=args.dtype, variants=len(wanted), rows=len(rows),
                       load_seconds=round(ready - started, 2), scoring_seconds=round(done - ready, 2)),
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
