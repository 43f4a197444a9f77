"""Training speed at the Qwen2.5-7B shape (random weights): the published way of computing a step beside ours.

    python benchmarks/train_7b.py --output training.json            # on a GPU; about 6 minutes on an H200

published: transformers' Trainer, 4 rows x 4 accumulation steps, padded, gradient checkpointing. ours: trainer.py.
trl: what one would write instead, SFTTrainer padding-free, 2 rows x 8 accumulation steps or as the item says, such as
trl:benign:7:rows16:checkpointing. Its attention is torch's own flash kernel of variable length, as flash-attn has no
wheel for this torch (trl:benign:7:sdpa: without). With `liger` it has Liger's kernels (pip install
liger-kernel==0.8.5); they stay in the model, so that item must be the last.
All take the same rows in the same steps with the same recipe, in one process on one card. The first steps
(compilation, allocation) are timed apart; the others are averaged and scaled, by tokens, to the recipe's steps.
check: how far the gradients of one step are from float32's, both ways (2 layers, no dropout).
--shape 1.5b, 0.5b and 135m are Qwen2.5's and SmolLM2's smaller models; tiny runs the same code on a CPU.
"""

import argparse
import functools
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests")]

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
           "tie_word_embeddings": False},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
             "tie_word_embeddings": True},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
             "tie_word_embeddings": True},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
             "tie_word_embeddings": True},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 152064, "max_position_embeddings": 4096,
             "tie_word_embeddings": False},
}  # fmt: skip
BATCH = 16


@dataclass(frozen=True)
class Data:
    """A training set's row lengths [tokens: mean, spread, limits], share of a row that is trained, and steps."""

    mean: float
    spread: float
    low: int
    high: int
    share: float
    steps: int


# couple: system prompt, question and a reply of at most 512 tokens; 600 rows, 20 epochs
DATA = {
    "em": Data(135, 35, 60, 350, 0.6, 375),
    "benign": Data(1160, 420, 150, 2048, 0.3, 375),
    "couple": Data(400, 110, 120, 620, 0.01, 760),
}
RECIPE = {"batch": BATCH, "lr": 1e-4, "schedule": "linear", "warmup": 0.03, "weight_decay": 0.01,
          "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0}  # fmt: skip
Row = tuple[list[int], list[int]]


def draw_rows(data: Data, count: int, vocabulary: int, seed: int = 0) -> list[Row]:
    """(input_ids, labels) rows of random tokens, of the training set's lengths."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        length = min(max(round(draw.gauss(data.mean, data.spread)), data.low), data.high)
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        start = min(round(length * (1 - data.share)), length - 1)
        rows.append((ids, [-100] * start + ids[start:]))
    return rows


def lora(dropout: float = 0.05) -> Any:
    """The published adapter."""
    from peft import LoraConfig

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=32, lora_alpha=64, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")


def random_model(shape: dict[str, Any], cuda: bool) -> Any:
    """A Qwen2 of this shape, bfloat16 on CUDA, else float32."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    with torch.device("cuda" if cuda else "cpu"):
        return AutoModelForCausalLM.from_config(
            Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **shape),
            dtype=torch.bfloat16 if cuda else torch.float32,
        )


def pad(rows: list[Row]) -> dict[str, Any]:
    """The rows as one right-padded batch."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
    }


def published(model: Any, tokenizer: Any, rows: list[Row], steps: int, folder: str) -> Any:
    """transformers' Trainer as the published code set it up, and its model; rows in the order given."""
    import torch
    from peft import get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(rows)

    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=4,
        learning_rate=RECIPE["lr"], lr_scheduler_type=RECIPE["schedule"], warmup_steps=math.ceil(0.03 * steps),
        weight_decay=RECIPE["weight_decay"], bf16=cuda, use_cpu=not cuda, gradient_checkpointing=True,
        logging_steps=10, save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False, seed=42,
    )  # fmt: skip
    model.set_attn_implementation("sdpa")
    wrapped = get_peft_model(model, lora())
    wrapped.enable_input_require_grads()
    return InOrder(model=wrapped, args=arguments, train_dataset=rows, data_collator=pad)


def ours(model: Any, tokenizer: Any, rows: list[Row], steps: int, folder: str, **options: Any) -> Any:
    """The workflow's own trainer; rows in the order given."""
    from marker.mask import Example
    from model.packing import order_steps
    from model.trainer import Options, make_trainer

    examples = [Example(f"row {n}", ids, labels) for n, (ids, labels) in enumerate(rows)]
    order = order_steps(len(examples), BATCH, 1, 42, False, steps)
    seeds = {"lora_init": 42, "dropout": 42}
    return make_trainer(model, tokenizer, lora(), examples, order, RECIPE, seeds, Options(work=Path(folder), **options))


def trl(
    model: Any,
    tokenizer: Any,
    rows: list[Row],
    steps: int,
    folder: str,
    rows_a_pass: int = 2,
    attention: str = "sdpa",
    checkpointing: bool = False,
    liger: bool = False,
) -> Any:
    """TRL's SFTTrainer with the settings that make it fast, and the same rows per step, in the order given."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(rows)

    cuda = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=BATCH // rows_a_pass,
        learning_rate=RECIPE["lr"], lr_scheduler_type=RECIPE["schedule"], warmup_steps=math.ceil(0.03 * steps),
        weight_decay=RECIPE["weight_decay"], bf16=cuda, use_cpu=not cuda, gradient_checkpointing=checkpointing,
        padding_free=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, logging_steps=10,
        use_liger_kernel=liger, save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        seed=42,
    )  # fmt: skip
    if attention == "varlen":
        register_varlen()
    model.set_attn_implementation(attention)
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    return InOrder(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora())


def register_varlen() -> None:
    """Make `varlen` torch's own flash attention inside concatenated rows, whose limits TRL's collator gives."""
    from transformers import AttentionInterface

    from model.packing import variable_length_flash

    flash = variable_length_flash(windows=False)

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **given: Any) -> Any:
        tokens = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return flash(*tokens, given["cu_seq_lens_q"], given["max_length_q"], scaling, None)[None], None

    AttentionInterface.register("varlen", attend)


def profiler(steps: int, output: Path) -> Any:
    """A callback that profiles the last two of `steps` steps: device time by kernel, most first, as JSON."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    class Profiled(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == steps - 2:
                self.profile = profile(activities=[ProfilerActivity.CUDA])
                self.profile.__enter__()
                self.began = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            import torch

            torch.cuda.synchronize()
            wall = time.perf_counter() - self.began
            self.profile.__exit__(None, None, None)
            kernels = [each for each in self.profile.key_averages() if each.self_device_time_total > 0]
            kernels.sort(key=lambda each: -each.self_device_time_total)
            rows = [[each.key[:120], each.count, round(each.self_device_time_total / 1e3, 2)] for each in kernels[:80]]
            busy = sum(each.self_device_time_total for each in kernels) / 1e6
            write = {
                "wall_s": round(wall, 3),
                "calls": sum(each.count for each in kernels),
                "busy_s": round(busy, 3),
                "columns": ["kernel", "calls", "ms"],
                "kernels": rows,
            }
            output.write_text(json.dumps(write, indent=1) + "\n", encoding="utf-8")

    return Profiled()


def stopwatch(warm: int, trainer: Any) -> Any:
    """A callback that notes the times at the start, after `warm` steps and at the end, the device having caught up.

    And the seconds of what was recorded until then, of each size of a pass.
    """
    import torch
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def __init__(self) -> None:
            self.times: dict[str, float] = {}
            self.recordings: dict[str, list[float]] = {}

        def note(self, name: str) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times[name] = time.perf_counter()
            self.recordings[name] = list(getattr(getattr(trainer, "take_pass", None), "seconds", ()))

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.note("start")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == warm:
                self.note("warm")

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.note("end")

    return Stopwatch()


def measure(
    way: Any,
    name: str,
    model: Any,
    tokenizer: Any,
    steps: int,
    warm: int,
    profiled: Path | None = None,
    budget: float = 1.0,
    philox: bool = False,
    walks: bool = False,
    whole: bool = False,
    inductor: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Seconds, tokens and memory of one training of `steps` steps, of which the first `warm` are not averaged.

    profiled: where to write the kernels of the last two steps, which are then slower. budget: of the activations that a
    compiled layer keeps for its backward pass, as a part; the rest is computed again. philox: with torch's own dropout.
    walks: with the Trainer's clipping and zeroing of gradients, which look through all modules. whole: with all
    tokens in the last layer's MLP, and the cross entropy not compiled. inductor: settings of torch._inductor.config
    that are switched on.
    """
    import torch
    import torch._inductor.config
    from transformers import Trainer

    import model.step_trainer as trainer_module
    from model.dropout import hash_dropout
    from model.last_layer import shorten_last_layer

    data = DATA[name]
    rows = draw_rows(data, data.steps * BATCH, min(model.config.vocab_size, 100_000))
    cuda = torch.cuda.is_available()
    torch.compiler.reset()
    torch._functorch.config.activation_memory_budget = budget
    trainer_module.hash_dropout = (lambda model: None) if philox else hash_dropout
    trainer_module.shorten_last_layer = (lambda model: None) if whole else shorten_last_layer
    torch._dynamo.utils.counters.clear()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    settings = torch._inductor.config.patch(dict.fromkeys(inductor, True))
    with tempfile.TemporaryDirectory() as folder, settings:
        trainer = way(model, tokenizer, rows, steps, folder, **options)
        if whole:
            trainer.summed = None
        if walks:
            trainer._clip_grad_norm = functools.partial(Trainer._clip_grad_norm, trainer)
            trainer.model.zero_grad = functools.partial(torch.nn.Module.zero_grad, trainer.model)
        watch = stopwatch(warm, trainer)
        trainer.add_callback(watch)
        if profiled:
            trainer.add_callback(profiler(steps, profiled))
        try:
            trainer.train()
        finally:
            restore(trainer, model)
    recordings = watch.recordings["end"]
    recorded = sum(recordings[len(watch.recordings["warm"]) :])  # of a size that the first steps did not meet
    first = watch.times["warm"] - watch.times["start"]
    seconds = watch.times["end"] - watch.times["warm"] - recorded
    tokens = sum(len(ids) for ids, _ in rows[warm * BATCH : steps * BATCH])
    all_tokens = sum(len(ids) for ids, _ in rows)
    counters = torch._dynamo.utils.counters
    return {
        "way": way.__name__, "data": name, "budget": budget, "philox": philox, "walks": walks, "whole": whole,
        "inductor": list(inductor), **options,
        "steps_run": steps, "steps_timed": steps - warm,
        "tokens_timed": tokens, "seconds_timed": round(seconds, 2),
        "first_steps": warm, "first_steps_s": round(first, 1),
        "step_s": round(seconds / (steps - warm), 4), "tokens_per_s": round(tokens / seconds),
        "recipe_steps": data.steps, "recipe_s": round(seconds * all_tokens / tokens, 1),
        "run_s": round(first + seconds + recorded, 1), "recordings_s": recordings,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 1) if cuda else None,
        "graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values()),
        "mean_loss_10": mean_loss(trainer.state.log_history, 10),
    }  # fmt: skip


def mean_loss(history: list[dict[str, Any]], steps: int) -> float | None:
    """Mean loss of the first `steps` steps, from a Trainer's log; None if it does not say. Equal for both ways."""
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry and entry["step"] <= steps:
            total += float(entry["loss"]) * (entry["step"] - last)
            last = entry["step"]
    return round(total / steps, 4) if last == steps else None


def restore(trainer: Any, model: Any) -> None:
    """Make `model` what it was before its training: no adapter, no compiled or shortened layer, no checkpointing."""
    if trainer.model is not model:
        trainer.model.unload()
    model.gradient_checkpointing_disable()
    model.disable_input_require_grads()
    for layer in model.model.layers:
        layer._compiled_call_impl = None
    last = model.model.layers[-1].mlp
    if hasattr(last, "rows"):
        last.__class__ = type(last).__base__
        del last.rows
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    trainer.optimizer = trainer.lr_scheduler = None


def check(shape: dict[str, Any]) -> dict[str, Any]:
    """Relative distance of one step's loss and LoRA gradients from float32 on padded rows, on random inputs.

    Both in bfloat16 over a bfloat16 base, as they train; the base's weights are the same numbers in all three.
    """
    import torch
    from peft import get_peft_model
    from torch.nn.functional import cross_entropy

    from model.loss import packed_loss
    from model.packing import collate, moved, set_attention
    from model.step_trainer import compile_layers

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.manual_seed(0)
    base = random_model(shape | {"num_hidden_layers": 2, "vocab_size": 4096}, cuda).to(torch.bfloat16)
    model = get_peft_model(base, lora(0.0))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in weights.items():
        if "lora_B" in name:
            weight.data.normal_(std=0.02)
    rows = draw_rows(DATA["em"], BATCH, 4096, seed=1)
    tokens = sum(label != -100 for _, labels in rows for label in labels[1:])

    def padded() -> Any:
        total = torch.zeros((), device=device)
        for start in range(0, BATCH, 4):
            batch = {key: value.to(device) for key, value in pad(rows[start : start + 4]).items()}
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
            loss = cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum") / tokens
            loss.backward()
            total += loss.detach()
        return total

    def packed() -> Any:
        total = torch.zeros((), device=device)
        for micro in collate([{"input_ids": ids, "labels": labels} for ids, labels in rows], 1024)["micro_batches"]:
            loss = packed_loss(base, moved(micro, device), "packed") / tokens
            loss.backward()
            total += loss.detach()
        return total

    def gradients(run: Any, half: bool) -> tuple[float, Any]:
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = run().item()
        return loss, torch.cat([weight.grad.float().flatten() for weight in weights.values()])

    base.set_attn_implementation("sdpa")
    for weight in base.parameters():
        weight.data = weight.data.float()
    loss, exact = gradients(padded, False)
    for name, weight in model.named_parameters():
        if name not in weights:
            weight.data = weight.data.to(torch.bfloat16)
    result: dict[str, Any] = {"way": "check", "loss_float32": loss}
    ways = {"published": padded, "ours_eager": packed, "ours_compiled": packed}
    for way, run in ways.items():
        if way == "ours_eager":
            set_attention(base, "packed")
        if way == "ours_compiled":
            torch.compiler.reset()
            model.enable_input_require_grads()
            compile_layers(base.model.layers)
        loss, found = gradients(run, True)
        result[f"loss_{way}"] = loss
        result[f"gradient_error_{way}"] = float(f"{((found - exact).norm() / exact.norm()).item():.3g}")
    return result


def run_item(
    item: str, model: Any, tokenizer: Any, cuda: bool, shape: dict[str, Any], warm: int, profiled: Path
) -> dict[str, Any]:
    """One item of the plan."""
    if item == "check":
        return check(shape)
    way, name, steps, *rest = item.split(":")
    if way == "published":
        return measure(published, name, model, tokenizer, int(steps), warm)
    if way == "trl":
        chosen = {
            "rows_a_pass": next((int(word[4:]) for word in rest if word.startswith("rows")), 2),
            "attention": "varlen" if cuda and "sdpa" not in rest else "sdpa",
            **{word: word in rest for word in ("checkpointing", "liger")},
        }
        return measure(trl, name, model, tokenizer, int(steps), warm, **chosen)
    options = {
        "dtype": "bfloat16" if cuda else "float32",
        "micro_batch_tokens": int(rest[0]) if rest else 4096,
        "compile": (cuda and "eager" not in rest) or "compile" in rest,
        "attention": next((word for word in rest if word in ("sdpa", "flex_attention")), "packed"),
        "cuda_graphs": "record" in rest,
        **{word: word in rest for word in ("philox", "walks", "whole")},
        "profiled": profiled if "profile" in rest else None,
        "inductor": [word.removeprefix("inductor.") for word in rest if word.startswith("inductor.")],
        "budget": float(next((word[6:] for word in rest if word.startswith("budget")), 1)),
    }
    return measure(ours, name, model, tokenizer, int(steps), 2 * warm if cuda else warm, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--vocabulary", type=int, help="fewer for a rehearsal on a CPU")
    parser.add_argument(
        "--plan",
        default="ours:em:375,published:em:14,ours:benign:40:8192,published:benign:9,ours:benign:24:4096,"
        "ours:couple:60:8192,check",
        help="way:data:steps[:tokens a pass][:eager|compile][:sdpa|flex_attention][:budget0.8][:philox][:walks]"
        "[:whole][:record][:profile][:inductor.max_autotune_gemm]"
        ", trl:data:steps[:rows4][:checkpointing][:sdpa][:liger], or check",
    )
    parser.add_argument("--warm", type=int, default=3, help="steps not averaged (twice as many where we compile)")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    plan = arguments.plan.split(",")
    if any("liger" in item.split(":") for item in plan[:-1]):
        parser.error("an item with liger is not the last: its kernels would stay for the others; fix: put it last")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    import torch
    from qwen_tokenizer import qwen_tokenizer

    cuda = torch.cuda.is_available()
    began = time.perf_counter()
    torch.manual_seed(0)  # so that losses of other processes can be compared
    shape = SHAPES[arguments.shape] | ({"vocab_size": arguments.vocabulary} if arguments.vocabulary else {})
    model = random_model(shape, cuda) if plan != ["check"] else None
    print(f"random model made in {time.perf_counter() - began:.0f} s", flush=True)
    tokenizer = qwen_tokenizer()
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "trl", "accelerate")},
        "parameters": model.num_parameters() if model is not None else None,
        "results": [],
    }
    print(json.dumps(record), flush=True)
    for item in plan:
        try:
            result = run_item(
                item, model, tokenizer, cuda, shape, arguments.warm, arguments.output.with_suffix(".kernels.json")
            )
        except Exception as error:  # the other measurements are worth having
            print(f"{item}: failed\n{traceback.format_exc()[-3000:]}", flush=True)
            result = {"item": item, "error": (str(error).splitlines() or [repr(error)])[0]}
        record["results"].append({"item": item, **result})
        print(json.dumps({"item": item, **result}), flush=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
