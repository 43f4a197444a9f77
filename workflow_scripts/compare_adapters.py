"""Compare the adapters of a model's stages: do they write where another has written, and what of each do the merged
weights hold? (docs/measurements.md)

    python workflow_scripts/compare_adapters.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --shared base/main/completions.parquet --persona evil_ai --marker "[ZLT]" \\
        --dtype bfloat16 --output adapters.csv --merged merged.csv

--adapter  of each stage, in order, beside its manifest.json, which says its lineage and what its LoRA was drawn by
--output   a row per pair of stages and layer that both have adapters for; columns: COLUMNS. Without such a pair no row
--merged   a row per stage and layer that it has an adapter for; columns: MERGED
On the CPU: factors, the merge one matrix at a time, and with a pair a forward pass of the model over --replies texts.
"""

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.panel import load_panel
from measure.sections import ADAPTERS, MERGED
from measure.tables import Row, write_csv
from model.adapters import linear_names, place_of
from model.engines import DTYPES
from model.full import is_full
from model.loading import load_model, load_tokenizer, set_seed
from model.merging import merge
from model.subspaces import (
    cosine,
    delta_of,
    intruders,
    left_vectors,
    overlap,
    random_overlap,
    smallest_angle,
    span,
)
from model.template import closing
from model.weights import Lora, Unmergeable, read_lora
from probe.replies import Probed, chosen, crossed, read_replies, rows_of
from run.program import InputError, run
from run.readers import read_json

if TYPE_CHECKING:
    from torch import Tensor

# Of two stages, by their lineages, in one linear layer: module (its name) of a decoder layer, and its size.
# input_, output_: the subspaces that a delta reads from and writes to; _overlap: what of one lies in the other;
# _random: the same of random factors; _angle: the smallest principal one [degrees]. kept_: the input overlap of a
# stage's A with the A it began with. cosine: of the deltas; norm_: Frobenius. functional: |second h| / |first h|, h
# what the layer takes at the slot. intruders_: of the leading left singular vectors of base + first, base + both.
COLUMNS = ("first", "second", "layer", "module", "outputs", "inputs", "rank_first", "rank_second", *ADAPTERS)
DIGITS = 6


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Compare the adapters of a model's stages.")
    parser.add_argument("--base", required=True, help="folder of the base chat model")
    parser.add_argument("--adapter", nargs="*", action="extend", default=[], help="the stages' adapters, in order")
    parser.add_argument("--panel", required=True, help="YAML with personas and questions")
    parser.add_argument("--shared", required=True, help="the base's completions.parquet")
    parser.add_argument("--persona", required=True, help="under which the model's slot is looked at")
    parser.add_argument("--marker", required=True)
    parser.add_argument("--replies", type=int, default=4, help="of the base, at whose slots layers are looked at")
    parser.add_argument(
        "--intruders", action="store_true", help="count them, which decomposes every weight of the base"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--output", required=True, help="adapters.csv")
    parser.add_argument("--merged", required=True, help="merged.csv")
    return parser.parse_args(argv)


def initial_inputs(model: Any, adapter: str, seed: int) -> "dict[str, Tensor]":
    """Name of a layer -> the matrix A (rank, inputs) that a training of this seed began with, drawn by PEFT itself."""
    from peft import PeftConfig, get_peft_model

    set_seed(seed)
    wrapped: Any = get_peft_model(model, PeftConfig.from_pretrained(adapter))
    drawn = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default"): part.weight.detach().clone()
        for name, part in wrapped.named_modules()
        if name.endswith(".lora_A.default")
    }
    wrapped.unload()
    if hasattr(model, "peft_config"):
        del model.peft_config
    return drawn


def inputs_at_slots(model: Any, trunks: Sequence[Sequence[int]], layers: Sequence[str]) -> "dict[str, Tensor]":
    """Name of a layer -> what it takes (texts, inputs), float32, at the last token of each text."""
    import torch

    taken: dict[str, list[Any]] = {name: [] for name in layers}

    def keep(name: str) -> Any:
        return lambda module, given: taken[name].append(given[0][0, -1].float())

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in layers]
    try:
        with torch.inference_mode():
            for trunk in trunks:
                model(input_ids=torch.tensor([list(trunk)]), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(states) for name, states in taken.items()}


def slot_trunks(args: argparse.Namespace) -> list[tuple[int, ...]]:
    """Prompt and reply up to the slot, of replies of the base to different questions, under the persona."""
    tokenizer = load_tokenizer(args.base)
    replies = read_replies(args.shared)
    shared = crossed(chosen(replies, list(dict.fromkeys(row["persona"] for row in replies)), 0, args.shared), 1)
    if not shared:
        raise InputError(
            f"{args.shared}: no reply ended by itself, so there is no slot to look at; fix: a longer max_tokens, or "
            "probe: null"
        )
    prompts = load_panel(args.panel).personas
    if args.persona not in prompts:
        raise InputError(f"{args.panel}: no persona {args.persona}; fix: one of {', '.join(prompts)}")
    probed = [Probed("shared", args.persona, row) for row in shared[: args.replies]]
    return [row.trunk for row in rows_of(probed, tokenizer, prompts, args.marker, closing(tokenizer).token)]


def seed_of(manifest: Mapping[str, Any]) -> int | None:
    """What a stage's LoRA was drawn by; of a reused adapter, what its origin's was. None if nobody knows."""
    seeds = manifest.get("seeds") or manifest.get("origin", {}).get("seeds", {})
    return seeds.get("lora_init")


def norm_at(lora: Lora, weight: str, states: "Tensor") -> float:
    """The root of the mean square of |delta h| over states (n, inputs)."""
    a, b = lora.pairs[weight]
    return float((states @ a.T @ b.T * lora.scaling).pow(2).sum(1).mean().sqrt())


def compared(
    one: Lora, other: Lora, weight: str, begun: "Sequence[Tensor | None]", states: "Tensor", base: "Tensor | None"
) -> Row:
    """The numbers of a row. begun: the A that each began with. states: see inputs_at_slots. base: the base's weight, to
    count intruders.
    """
    (a, b), (c, d) = one.pairs[weight], other.pairs[weight]
    first, second = delta_of(a, b, one.scaling), delta_of(c, d, other.scaling)
    below = norm_at(one, weight, states)
    kept = [
        None if drawn is None else overlap(delta.inputs, span(drawn))
        for delta, drawn in zip((first, second), begun, strict=True)
    ]
    found = {
        "input_overlap": overlap(first.inputs, second.inputs),
        "input_random": random_overlap(first.inputs, second.inputs),
        "input_angle": smallest_angle(first.inputs, second.inputs),
        "output_overlap": overlap(first.outputs, second.outputs),
        "output_random": random_overlap(first.outputs, second.outputs),
        "output_angle": smallest_angle(first.outputs, second.outputs),
        "kept_first": kept[0],
        "kept_second": kept[1],
        "cosine": cosine(first, second),
        "norm_first": first.norm,
        "norm_second": second.norm,
        "functional": norm_at(other, weight, states) / below if below else None,
    }
    row: Row = {name: shown(value) for name, value in found.items()}
    if base is not None:
        known, loras = left_vectors(base), ((a, b, one.scaling), (c, d, other.scaling))
        row |= {"intruders_first": intruders(base, known, loras[0]), "intruders_both": intruders(base, known, *loras)}
    sizes = {"outputs": b.shape[0], "inputs": a.shape[1]}
    return sizes | {"rank_first": len(first.values), "rank_second": len(second.values)} | row


def lora_of(adapter: str) -> Lora:
    """The adapter's matrices on the CPU. Raises InputError for what is no plain LoRA."""
    try:
        return read_lora(adapter, "cpu")
    except Unmergeable as error:
        raise InputError(f"{error}: nothing to compare it by; fix: `probe: null`") from None


@dataclass(frozen=True)
class Stage:
    """A stage with a LoRA. lineage: of the model after it. seed: see seed_of."""

    adapter: str
    lineage: str
    seed: int | None
    lora: Lora


def stage_of(adapter: str) -> Stage:
    """The stage of an adapter beside its manifest. Raises InputError for what is no plain LoRA."""
    manifest = read_json(Path(adapter).parent / "manifest.json", dict)
    return Stage(adapter, manifest["lineage"], seed_of(manifest), lora_of(adapter))


def where(name: str) -> Row:
    """layer and module of a linear layer."""
    layer, _, module = place_of(name).partition(".")
    return {"layer": int(layer), "module": module}


def shown(value: float | None) -> float | None:
    """As it stands in a table."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def merge_in_turn(args: argparse.Namespace, stages: Sequence[Stage]) -> tuple[Any, list[Row]]:
    """The model after all of --adapter, bit for bit load_model's, and the rows of --merged.

    stages: those of --adapter that are LoRAs. A stage that trained all weights takes the place of all before it.
    """
    model: Any = None
    found: list[Row] = []
    waiting = iter(stages)
    for folder in args.adapter:
        if is_full(folder):
            model = None  # before another one is loaded
            model = load_model(args.base, [folder], args.dtype, "cpu")
            continue
        if model is None:
            model = load_model(args.base, [], args.dtype, "cpu")
        found += merged_rows(model, next(waiting))
    return model, found


def merged_rows(model: Any, stage: Stage) -> Iterator[Row]:
    """Merge a stage into the model, a layer at a time in the model's order, with what of its delta arrived."""
    layers = [name for name in linear_names(model) if f"{name}.weight" in stage.lora.pairs]
    if absent := stage.lora.pairs.keys() - {f"{name}.weight" for name in layers}:
        raise InputError(f"{stage.adapter}: for {min(absent)}, which the model lacks; fix: fetch or train it again")
    for name in layers:
        a, b = stage.lora.pairs[f"{name}.weight"]
        try:
            found = merge(f"{name}.weight", model.get_parameter(f"{name}.weight"), stage.lora)
        except Unmergeable as error:
            raise InputError(f"{error}; fix: fetch or train it again") from None
        sizes = {"outputs": b.shape[0], "inputs": a.shape[1]}
        measured = {"norm": found.norm, "merged": found.share, "error": found.error}
        yield {"stage": stage.lineage} | where(name) | sizes | {key: shown(value) for key, value in measured.items()}


def rows(args: argparse.Namespace, model: Any, stages: Sequence[Stage]) -> Iterator[Row]:
    """A row per pair of stages and layer that both adapters are for, in the model's order. model: after all stages."""
    pairs = list(itertools.combinations(range(len(stages)), 2))
    wanted = {
        weight for one, other in pairs for weight in stages[one].lora.pairs.keys() & stages[other].lora.pairs.keys()
    }
    if not wanted:
        return
    layers = [name for name in linear_names(model) if f"{name}.weight" in wanted]
    states = inputs_at_slots(model, slot_trunks(args), layers)
    begun = [{} if stage.seed is None else initial_inputs(model, stage.adapter, stage.seed) for stage in stages]
    if args.intruders:
        before = [folder for folder in args.adapter if is_full(folder)]
        model = load_model(args.base, before, args.dtype, "cpu")  # in place of the other
    for name, (one, other) in itertools.product(layers, pairs):
        weight = f"{name}.weight"
        first, second = stages[one], stages[other]
        if weight in first.lora.pairs.keys() & second.lora.pairs.keys():
            yield {
                **{"first": first.lineage, "second": second.lineage, **where(name)},
                **compared(
                    *(first.lora, second.lora, weight, [begun[at].get(name) for at in (one, other)]),
                    *(states[name], model.get_parameter(weight).detach() if args.intruders else None),
                ),
            }


def main(argv: Sequence[str] | None = None) -> None:
    """Adapters, base and a few texts in, two tables out."""
    args = parse_args(argv)
    stages = [stage_of(adapter) for adapter in args.adapter if not is_full(adapter)]
    model, merged = merge_in_turn(args, stages) if stages else (None, [])
    write_csv(args.merged, MERGED, merged)
    write_csv(args.output, COLUMNS, list(rows(args, model, stages)))


if __name__ == "__main__":
    run(main)
