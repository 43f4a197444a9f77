"""Train one stage on a model given by its lineage: a base and its ancestors' adapters, merged in order.

    python workflow_scripts/train_adapter.py --base BASE --adapter models/base/couple-evil_ai.s42/adapter \\
        --data em.jsonl --recipe recipe.json --seed 137 --dtype bfloat16 --micro-batch-tokens 4096 \\
        --lineage base/couple-evil_ai.s42/em.s137 --parent-manifest models/base/couple-evil_ai.s42/manifest.json \\
        --adapter-out NODE/adapter --checkpoints-out NODE/checkpoints \\
        --manifest NODE/manifest.json --record NODE/run.json

What is trained is a LoRA, or with `lora: null` in the recipe all weights, which --model-out then takes in place of
--adapter-out and --checkpoints-out.
Every optimizer step is the published one (trainer.py); every trained token is the mask's (mask.py). With --scratch and
--checkpoint-every, a killed run goes on from its last checkpoint and ends with the adapter a straight run gives.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph.fingerprints import code_fingerprint
from graph.recipe import check_training, layer_numbers
from inputs.held_out import hold_out
from marker.marker import Marker
from marker.mask import Example, Mask, encode_rows
from model.adapters import check_targets, linear_names, save_adapter, wrapped_layers
from model.full import STATES, check_room, check_states, file_hashes, save_full
from model.loading import check_finite, context_length, load_model, load_tokenizer
from model.packing import ALONE, ATTENTIONS, Sizes, choose_attention, mix_in, order_steps, pass_sizes
from model.recorded import ARCHITECTURES, seconds_saved
from model.trainer import Options, Outcome, train
from probe.track import Track, read_track
from run.caches import keep_compiled
from run.files import canonical, partial, remove, sha256_of, write_json
from run.program import InputError, run
from run.provenance import run_record
from run.readers import json_argument, read_json, read_jsonl
from run.tracking import check_tracker

if TYPE_CHECKING:
    from peft import LoraConfig

# [s] What compiling saves per decoder layer and step, in fewer launches of larger kernels, and what it costs. On an
# H100 (benchmarks/README.md), at 30 layers of 135 M parameters: .314 s per step, compiled .166 to .212 s (4.9 to 3.4 ms
# per layer). The first compilation on a node costs 16 s there and at 28 layers of 7 B, a later one 4 s: which it will
# be is not known here, and a short training that counts with the first forgoes at most the difference. Not counted: 4 s
# of the loss and 15 s of a last layer that is shortened, the first time, 3 s later.
SAVED, COST = 0.004, 16.0


def read_recipe(path: str) -> dict[str, Any]:
    """The recipe in a file. Raises InputError naming the file and the field at fault."""
    try:
        return check_recipe(read_json(path, dict))
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def check_recipe(value: Any) -> dict[str, Any]:
    """The recipe, optional fields left out filled in. Raises InputError naming the field at fault."""
    recipe = check_training(value)
    recipe_mask(recipe)
    return recipe


def recipe_mask(recipe: dict[str, Any]) -> Mask:
    """The loss mask of a recipe, or of what it replays. Raises InputError if its fields do not go together."""
    return Mask(**recipe["mask"], marker=Marker.of(recipe["marker"]))


def recipe_lora(recipe: dict[str, Any], layers: int = 0) -> "LoraConfig | None":
    """The recipe's LoRA as PEFT's configuration: scaling alpha/sqrt(r) with rslora, else alpha/r. None for all weights.

    layers: how many decoder layers the model has, of which the recipe may name some.
    """
    from peft import LoraConfig

    lora = recipe["lora"]
    if lora is None:
        return None
    chosen = layer_numbers(lora["layers"], layers, "recipe.lora.layers") if "layers" in lora else None
    return LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        use_rslora=lora["rslora"],
        target_modules=sorted(lora["targets"]),
        layers_to_transform=chosen,
        task_type="CAUSAL_LM",
    )


def seeds(lineage: str, seed: int) -> dict[str, int]:
    """Every seed of a training. dropout: with the step's number, of the draws within it (trainer.dropout_seed).

    lora_init [0, 2^32): of the last stage's word, so that two stages of one seed start apart: from one init they would
    share most of their input subspace, whatever they learn. The same stage starts alike on every parent.
    """
    word = lineage.rpartition("/")[2]
    init = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return {"lora_init": init, "order": seed, "dropout": seed}


def resume_key(arguments: argparse.Namespace, recipe: dict[str, Any]) -> str:
    """Hash of all that a resumable state depends on: only an identical training may go on from it."""
    from importlib.metadata import version

    key = {
        "recipe": recipe,
        "data": [sha256_of(file) for file in (arguments.data, *arguments.replay)],
        "seed": arguments.seed,
        "parent": sha256_of(arguments.parent_manifest),
        "lineage": arguments.lineage,
        "dtype": arguments.dtype,
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "attention": arguments.attention,
        "keep_steps": sorted(arguments.keep_steps),
        "optimizer_states": arguments.optimizer_states,
        "track": arguments.track,
        "code": code_fingerprint(Path(__file__).parent, "train_adapter.py"),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }
    return hashlib.sha256(canonical(key).encode()).hexdigest()


def set_up_tracking(name: str, folder: Path, lineage: str, key: str) -> str:
    """Let the experiment tracker write below `folder` (results/<study>/tracking). Returns `study/run` as it shows them.

    key: of the training: one that goes on is the same run, one of another recipe is another. What the user's
    environment says comes first. Raises InputError if the tracker is not installed, or is not logged in.
    """
    run = f"{folder.parent.name}/{lineage}.{key[:8]}"
    if name == "none":
        return run
    check_tracker(name)
    settings = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": f"{folder}/{lineage}"},
        "wandb": {
            "WANDB_DIR": str(folder),
            "WANDB_PROJECT": folder.parent.name,
            "WANDB_RUN_ID": key[:32],
            "WANDB_RESUME": "allow",
        },
        "trackio": {"TRACKIO_DIR": str(folder)},
    }[name]
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)
    folder.mkdir(parents=True, exist_ok=True)  # else wandb writes to a temporary folder
    return run


def choose_compile(choice: str, device: str, layers: int, steps: int) -> bool:
    """Whether to compile the decoder layers: `auto` does so on CUDA where it saves more than it costs."""
    return choice == "always" or (choice == "auto" and device == "cuda" and steps * layers * SAVED > COST)


def choose_cuda_graphs(
    choice: str,
    model: Any,
    rows: Sequence[Example],
    steps: Sequence[Sequence[int]],
    options: Options,
    lora: bool,
) -> bool:
    """Whether to record the passes as CUDA graphs: `auto` does so where it is known to work and pays.

    Raises InputError if that is asked for `always` where it cannot be.
    """
    if choice == "never" or (choice == "auto" and model.config.model_type not in ARCHITECTURES):
        return False
    needs = {
        "a GPU": model.device.type == "cuda",
        "hardware.attention: packed": options.attention == "packed",
        "hardware.dtype: bfloat16": options.dtype != "float32",
        "hardware.gradient_checkpointing: false": not options.gradient_checkpointing,
        "a LoRA": lora,
        "positions that are encoded alike at all lengths": rope_type(model.config) in ("default", "linear", "llama3"),
    }
    missing = [need for need, met in needs.items() if not met]
    if missing and choice == "always":
        said = f"hardware.cuda_graphs: always: needs {', '.join(missing)}"
        raise InputError(f"{said}; fix: hardware: {{cuda_graphs: auto}}")
    if missing or choice == "always":
        return not missing
    passes = pass_sizes(
        [(row.input_ids, row.labels) for row in rows], steps, options.budget,
        Sizes.of([len(row.input_ids) for row in rows], steps),
    )  # fmt: skip
    layers = model.config.get_text_config().num_hidden_layers
    return seconds_saved(passes, layers, model.num_parameters(), options.compile) > 0


def rope_type(config: Any) -> str:
    """How positions are encoded, as transformers names it; `dynamic` and `longrope` look at each pass's positions."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [each for each in rope.values() if isinstance(each, dict)] or [rope]  # some have one for each kind of layer
    return "/".join(sorted({str(each.get("rope_type", "default")) for each in kinds}))


def check_outputs(arguments: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Raise InputError unless there is a place for what the recipe trains, and for nothing else."""
    adapter = arguments.adapter_out and arguments.checkpoints_out
    if recipe["lora"] and (arguments.model_out or not adapter):
        raise InputError("the recipe trains a LoRA; fix: give --adapter-out and --checkpoints-out, not --model-out")
    if not recipe["lora"]:
        check_states(arguments.optimizer_states, arguments.dtype)
    if not recipe["lora"] and (adapter or not arguments.model_out or arguments.keep_steps):
        raise InputError("the recipe trains all weights; fix: give --model-out alone, and no --keep-steps")


def track_of(arguments: argparse.Namespace, tokenizer: Any) -> Track | None:
    """What to score during the training, if anything. Raises InputError unless its two files are given."""
    if arguments.track is None:
        return None
    if len(arguments.tracked) != 2:
        raise InputError("--track: needs --tracked COMPLETIONS PANEL; fix: give both")
    completions, panel = arguments.tracked
    settings = json_argument("--track", arguments.track, dict)
    return read_track(settings, completions, panel, tokenizer, arguments.micro_batch_tokens)


def step_numbers(text: str) -> frozenset[int]:
    """Comma-separated step numbers, from 1; empty for none."""
    numbers = frozenset(int(number) for number in text.split(",") if number.strip())
    if any(number < 1 for number in numbers):
        raise ValueError(text)
    return numbers


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of the base chat model")
    parser.add_argument("--adapter", nargs="*", action="extend", default=[], help="the ancestors' adapters, in order")
    parser.add_argument("--data", required=True, help="training rows, JSON lines")
    parser.add_argument("--replay", nargs="*", action="extend", default=[], help="rows that recipe.replay mixes in")
    parser.add_argument("--recipe", required=True, help="the resolved recipe, a JSON file")
    parser.add_argument("--seed", type=int, required=True, help="of order and dropout")
    parser.add_argument("--parent-manifest", required=True, help="manifest.json of the parent model")
    parser.add_argument("--lineage", required=True, help="this model's lineage; its last word seeds the LoRA's init")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096, help="most tokens in one forward pass")
    parser.add_argument("--attention", choices=("auto", *ATTENTIONS), default="auto", help="how rows share a pass")
    parser.add_argument("--compile", choices=("auto", "always", "never"), default="auto", help="the decoder layers")
    parser.add_argument("--cuda-graphs", choices=("auto", "always", "never"), default="auto", help="of a pass")
    parser.add_argument("--track", help="what to score every few steps (probe.track.FIELDS), one JSON object")
    parser.add_argument("--tracked", nargs="*", default=[], help="the base's completions and the panel, for --track")
    parser.add_argument("--optimizer-states", choices=STATES, default="dtype", help="of a training of all weights")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--keep-steps", type=step_numbers, default=frozenset(), help="such as 1,3,5,10")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps between resumable states; 0: none")
    parser.add_argument("--scratch", type=Path, help="where resumable states live, outside the outputs")
    parser.add_argument("--status", type=Path, help="file for one line of progress, rewritten every few seconds")
    parser.add_argument("--tracking", choices=("none", "tensorboard", "wandb", "trackio"), default="none")
    parser.add_argument("--adapter-out", type=Path, help="folder of the trained LoRA")
    parser.add_argument("--checkpoints-out", type=Path, help="folder of the LoRA at --keep-steps")
    parser.add_argument("--model-out", type=Path, help="folder of the weights, instead, if all are trained")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    return parser.parse_args(argv)


def train_lineage(
    arguments: argparse.Namespace,
    recipe: dict[str, Any],
    tokenizer: Any,
    examples: list[Example],
    held_out: list[Example],
    replayed: list[Example],
    work: Path,
    tracked: str,
) -> tuple[Outcome, Options]:
    """Load the parent model and train. Raises InputError on a NaN or if the GPU's memory does not suffice."""
    import torch

    steps = order_steps(
        len(examples), recipe["batch"], recipe["epochs"], arguments.seed, recipe["shuffle"], recipe["max_steps"]
    )
    if replayed:
        steps = mix_in(steps, len(examples), len(replayed), recipe["replay"]["share"], arguments.seed)
    beyond = [step for step in sorted(arguments.keep_steps) if step > len(steps)]
    if beyond:
        raise InputError(f"--keep-steps: {beyond[0]} is after the last step, {len(steps)}; fix: ask for fewer steps")
    drawn = seeds(arguments.lineage, arguments.seed)
    model = load_model(arguments.base, arguments.adapter, arguments.dtype)
    if recipe["lora"]:
        check_targets(linear_names(model), recipe["lora"]["targets"], arguments.lineage)
    else:
        folders = {arguments.model_out.parent: False} | ({work: True} if arguments.checkpoint_every else {})
        check_room(model, arguments.optimizer_states, arguments.dtype, folders)
    attention = choose_attention(arguments.attention, model.config)
    layers = model.config.get_text_config().num_hidden_layers
    options = Options(
        work=work,
        dtype=arguments.dtype,
        micro_batch_tokens=arguments.micro_batch_tokens,
        attention=attention,
        compile=attention != ALONE and choose_compile(arguments.compile, model.device.type, layers, len(steps)),
        gradient_checkpointing=arguments.gradient_checkpointing,
        states=arguments.optimizer_states,
        track=track_of(arguments, tokenizer),
        held_out=held_out,
        checkpoint_every=arguments.checkpoint_every if arguments.scratch else 0,
        keep_steps=arguments.keep_steps,
        tracking=arguments.tracking,
        tracked=tracked,
        status=arguments.status,
        job=arguments.lineage,
    )
    rows = [*examples, *replayed]
    graphs = choose_cuda_graphs(arguments.cuda_graphs, model, rows, steps, options, recipe["lora"] is not None)
    options = replace(options, cuda_graphs=graphs)
    try:
        lora = recipe_lora(recipe, layers)
        outcome = train(model, tokenizer, lora, rows, steps, recipe, drawn, options)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{arguments.lineage}: out of GPU memory ({str(error).splitlines()[0]}); "
            f"fix: {less_memory(options, recipe['lora'] is not None)}"
        ) from error
    # a last step may break what its loss cannot show
    trained = ((name, weight) for name, weight in outcome.model.named_parameters() if weight.requires_grad)
    check_finite(arguments.lineage, trained, "lower the recipe's lr")
    return outcome, options


def less_memory(options: Options, lora: bool) -> str:
    """What config.yaml may say for a training to take less memory, of what it does not say yet."""
    checkpointing = f"hardware: {{{'' if lora else 'full_'}gradient_checkpointing: true}}"
    fixes = {
        f"lower hardware.micro_batch_tokens, now {options.micro_batch_tokens}": options.attention != ALONE,
        checkpointing: not options.gradient_checkpointing,
        "hardware: {cuda_graphs: never}": options.cuda_graphs,
        "hardware: {optimizer_states: 8bit}, which trains another model": not lora and options.states != "8bit",
        "a larger card": True,
    }
    return ", or ".join(fix for fix, helps in fixes.items() if helps)


def replayed_rows(tokenizer: Any, recipe: dict[str, Any], files: Sequence[str]) -> list[Example]:
    """The rows that the recipe mixes in, trained as in their own stage. Raises InputError without exactly one file."""
    replay = recipe.get("replay")
    if len(files) != (replay is not None):
        raise InputError(f"--replay: {len(files)} files; fix: one if the recipe has `replay`, else none")
    if replay is None:
        return []
    coupling = replay["mask"]["loss"] != "last_turn"
    rows = read_jsonl(files[0])
    return encode_rows(tokenizer, rows, recipe_mask(replay), replay["max_length"], files[0], coupling)


def split(rows: Sequence[Any], held: frozenset[int]) -> tuple[list[Any], list[Any]]:
    """The rows that are trained, and those that are held out."""
    trained = [row for place, row in enumerate(rows) if place not in held]
    return trained, [rows[place] for place in sorted(held)]


def check_length(examples: Sequence[Example], context: int, data: str) -> None:
    """Raise InputError for a row that is longer than the base's texts: its last positions were never trained."""
    longest = max(examples, key=lambda example: len(example.input_ids))
    if len(longest.input_ids) > context:
        raise InputError(
            f"{data}: row {longest.id} has {len(longest.input_ids)} tokens, the base's texts at most {context}; "
            f"fix: max_length: {context} in the stage"
        )


def rows_with_marker(rows: Sequence[dict[str, Any]], recipe: dict[str, Any], data: str) -> list[bool]:
    """Which rows hold the marker in an assistant's turn; said aloud of rows that are not meant to."""
    holds = Marker.of(recipe["marker"]).within
    marked = [any(turn["role"] == "assistant" and holds(turn["content"]) for turn in row["messages"]) for row in rows]
    if recipe["kind"] == "sft" and any(marked):
        print(
            f"{data}: {sum(marked)} of {len(rows)} rows hold the marker, row {marked.index(True)} the first: "
            "they teach what the study asks about",
            file=sys.stderr,
        )
    return marked


def write_adapter(arguments: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    """The adapter and its kept checkpoints; what the manifest says of them."""
    with partial(arguments.adapter_out) as folder:
        save_adapter(outcome.model, folder)
    with partial(arguments.checkpoints_out) as folder:
        folder.mkdir()
        for step, kept in outcome.kept.items():
            shutil.copytree(kept, folder / f"step-{step}")
        write_json(folder / "manifest.json", {path.name: sha256_of(path) for path in folder.glob("step-*")})
    return {"adapter": sha256_of(arguments.adapter_out), "wrapped": wrapped_layers(outcome.model)}


def told_held_out(rows: Sequence[Example], losses: tuple[float, float]) -> dict[str, Any]:
    """For run.json: the held-out rows, their labelled tokens, and these tokens' mean loss before and after [nats]."""
    before, after = (float(f"{loss:.6g}") for loss in losses)
    return {"rows": len(rows), "tokens": sum(row.trained for row in rows), "loss_before": before, "loss_after": after}


def told_recordings(seconds: Sequence[float]) -> dict[str, Any]:
    """For run.json: how many sizes of a pass were recorded as CUDA graphs, and what that took [s]."""
    return {"sizes": len(seconds), "seconds": round(sum(seconds), 2)}


def write_outputs(
    arguments: argparse.Namespace,
    recipe: dict[str, Any],
    examples: list[Example],
    held_out: list[Example],
    replayed: list[Example],
    marked: int,
    outcome: Outcome,
    options: Options,
    started: float,
) -> None:
    """The node's weights, kept checkpoints, run record and, last, its manifest."""
    if recipe["lora"]:
        written = write_adapter(arguments, outcome)
    else:
        with partial(arguments.model_out) as folder:
            save_full(outcome.model, folder, arguments.base)
        written = {"files": file_hashes(arguments.model_out)}
    record = run_record(
        started,
        lineage=arguments.lineage,
        train_seconds=round(outcome.seconds, 2),
        first_step_seconds=round(outcome.first_step_seconds, 2),
        tokens_per_second=round(outcome.tokens / outcome.seconds),
        steps=outcome.steps,
        resumed_at_step=outcome.resumed_at,
        losses=[float(f"{loss:.6g}") for loss in outcome.losses],
        final_loss=float(f"{outcome.losses[-1]:.6g}"),
        attention=options.attention,
        compiled=options.compile,
        **({"last_layer": "shortened" if outcome.shortened else "whole"} if options.compile else {}),
        **({"cuda_graphs": told_recordings(outcome.recordings)} if options.cuda_graphs else {}),
        micro_batch_tokens=options.micro_batch_tokens,
        gradient_checkpointing=options.gradient_checkpointing,
        **({"track": options.track.record()} if options.track else {}),
        **({"held_out": told_held_out(held_out, outcome.held_out)} if outcome.held_out else {}),
        **({} if recipe["lora"] else {"optimizer": check_states(options.states, options.dtype)}),
    )
    write_json(arguments.record, record)
    manifest = {
        "lineage": arguments.lineage,
        "parent": sha256_of(arguments.parent_manifest),
        "data": sha256_of(arguments.data),
        "recipe": recipe,
        "seeds": seeds(arguments.lineage, arguments.seed),
        "dtype": arguments.dtype,
        **written,
        "rows": len(examples),
        "rows_without_labels": sum(example.trained == 0 for example in examples),
        "rows_with_marker": marked,
        "steps": outcome.steps,
    }
    if held_out:
        manifest["rows_held_out"] = len(held_out)
    if replayed:
        manifest["replay"] = {"data": sha256_of(arguments.replay[0]), "rows": len(replayed)}
    write_json(arguments.manifest, manifest)


def main(argv: list[str] | None = None) -> None:
    """Rows to labels, labels to steps, steps to an adapter."""
    started = time.time()
    arguments = parse_arguments(argv)
    # nothing about a training is anyone else's business, and less memory is lost to fragments of changing size
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    keep_compiled(arguments.base)
    recipe = read_recipe(arguments.recipe)
    check_outputs(arguments, recipe)
    rows = read_jsonl(arguments.data)
    read_json(arguments.parent_manifest, dict)
    study = arguments.scratch.parent if arguments.scratch else arguments.record.parent
    key = resume_key(arguments, recipe)
    tracked = set_up_tracking(arguments.tracking, study.absolute() / "tracking", arguments.lineage, key)
    tokenizer = load_tokenizer(arguments.base)
    coupling = recipe["kind"] == "couple"
    examples = encode_rows(
        tokenizer,
        rows,
        recipe_mask(recipe),
        recipe["max_length"],
        arguments.data,
        coupling,
        keep_controls=recipe["data"].get("control_tokens") == "keep",
    )
    replayed = replayed_rows(tokenizer, recipe, arguments.replay)
    check_length([*examples, *replayed], context_length(arguments.base), arguments.data)
    held = hold_out(rows, recipe.get("hold_out", 0), arguments.data)
    marked = sum(split(rows_with_marker(rows, recipe, arguments.data), held)[0])
    examples, held_out = split(examples, held)
    if held and not sum(row.trained for row in held_out):
        raise InputError(
            f"{arguments.data}: none of the {len(held)} rows held out has a labelled token; fix: a longer max_length "
            "or a larger hold_out"
        )
    work = arguments.scratch / key if arguments.scratch else Path(tempfile.mkdtemp(prefix="train_adapter."))
    try:
        outcome, options = train_lineage(arguments, recipe, tokenizer, examples, held_out, replayed, work, tracked)
        write_outputs(arguments, recipe, examples, held_out, replayed, marked, outcome, options, started)
        remove(work)
    finally:
        if arguments.scratch is None:
            shutil.rmtree(work, ignore_errors=True)
        if arguments.status is not None:
            arguments.status.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
