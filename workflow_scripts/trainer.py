"""The training engine: TRL's SFTTrainer taking exactly the published optimizer steps, several times faster.

Step-preserving: an optimizer step sees the same `batch` rows and the same token-mean loss over them as the published
4 x 4 padded recipe (PROTOCOL §2, DESIGN §6). What differs is only how a step is computed: its rows are concatenated
without padding into micro-batches under a token budget, logits exist only where a label is, and on CUDA the decoder
layers are compiled and attention runs inside each row (flash, variable length).
"""

import contextlib
import functools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask import IGNORED, Example
from records import AGAIN, InputError, canonical, partial, read_json, read_text, sha256_of, write_json

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTIONS = ("packed", "sdpa", "flex_attention")
LOGGED_EVERY = 10  # steps; each logging waits for the GPU once
STATUS_EVERY = 3.0  # seconds
HEAD_TOKENS = 2048  # labelled positions whose logits exist at one time: 2,048 x 152,064 in float32 is 1.2 GB
STATE_FILE, LOSSES_FILE = "trainer_state.json", "losses.json"
SEAL_FILE = ".sha256"  # of the folder, whose hash leaves hidden files out


@dataclass(frozen=True)
class Options:
    """How a training is computed and watched. None of it changes the recipe.

    work: folder for resumable state and kept adapters, its own for every (recipe, data, seed, parent, code).
    micro_batch_tokens: most tokens concatenated into one forward pass; a longer row makes a pass of its own.
    checkpoint_every: steps between resumable states, 0 for none. keep_steps: steps whose adapter is kept.
    """

    work: Path
    dtype: str = "float32"
    micro_batch_tokens: int = 4096
    attention: str = "packed"
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint_every: int = 0
    keep_steps: frozenset[int] = frozenset()
    tracking: str = "none"
    status: Path | None = None
    job: str = "train"


@dataclass
class Outcome:
    """A finished training. losses: one token-mean loss a step.

    tokens, seconds and first_step_seconds (compiling included) are of this process alone.
    """

    model: Any
    steps: int
    losses: list[float]
    tokens: int
    seconds: float
    first_step_seconds: float
    resumed_at: int
    kept: dict[int, Path] = field(default_factory=dict)


def order_steps(rows: int, batch: int, epochs: int, seed: int, shuffle: bool, max_steps: int | None) -> list[list[int]]:
    """The row indices of every optimizer step. Each epoch is its own permutation; its last step takes what is left.

    As in transformers' Trainer, max_steps replaces the number of epochs, so it may also exceed them.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    total = max_steps or epochs * math.ceil(rows / batch)
    steps: list[list[int]] = []
    while len(steps) < total:
        order = torch.randperm(rows, generator=generator).tolist() if shuffle else list(range(rows))
        steps += [order[start : start + batch] for start in range(0, rows, batch)]
    return steps[:total]


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row indices by micro-batch: first-fit decreasing, at most `budget` tokens each unless one row alone has more.

    Which rows share a micro-batch does not matter to the step: its loss is a sum over tokens.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fit = next((at for at, left in enumerate(room) if left >= lengths[row]), None)
        if fit is None:
            groups.append([row])
            room.append(budget - lengths[row])
        else:
            groups[fit].append(row)
            room[fit] -= lengths[row]
    return groups


def micro_batch(rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """(input_ids, labels) rows concatenated, n rows of at most L tokens, T tokens in all, K of them labelled.

    input_ids, position_ids: (1, T). predictors: (K,), positions whose next token is labelled. targets: (K,), that
    token. starts: (n + 1,) int32, cumulative lengths. longest: L. spread: (n * L,), for each place of the right-padded
    (n, L) layout its token in the concatenation. gather: (T,), the reverse.
    """
    import torch

    lengths = torch.tensor([len(ids) for ids, _ in rows])
    longest = int(lengths.max())
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    column = torch.arange(longest)
    labels = torch.tensor([label for _, row in rows for label in row])
    position_ids = torch.cat([column[:length] for length in lengths.tolist()])
    trained = (labels != IGNORED) & (position_ids > 0)
    return {
        "input_ids": torch.tensor([token for ids, _ in rows for token in ids])[None],
        "position_ids": position_ids[None],
        "predictors": trained.nonzero()[:, 0] - 1,
        "targets": labels[trained],
        "starts": starts.to(torch.int32),
        "longest": longest,
        "spread": (starts[:-1, None] + column.minimum(lengths[:, None] - 1)).flatten(),
        "gather": torch.repeat_interleave(torch.arange(len(rows)) * longest, lengths) + position_ids,
    }


def collate(rows: Sequence[dict[str, list[int]]], budget: int) -> dict[str, Any]:
    """One optimizer step: its micro-batches, and how many tokens its loss is the mean over.

    A row without a label holds its place among the step's rows but adds nothing to the sum, so it is not computed.
    """
    labelled = [
        (row["input_ids"], row["labels"]) for row in rows if any(label != IGNORED for label in row["labels"][1:])
    ]
    groups = pack_rows([len(ids) for ids, _ in labelled], budget)
    return {
        "micro_batches": [micro_batch([labelled[row] for row in group]) for group in groups],
        "tokens": sum(label != IGNORED for _, labels in labelled for label in labels[1:]),
        "input_tokens": sum(len(ids) for ids, _ in labelled),
    }


def packed_attention(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    starts: "Tensor",
    longest: int,
    spread: "Tensor",
    gather: "Tensor",
    flash: "Callable[..., Tensor] | None" = None,
    **kwargs: Any,
) -> "tuple[Tensor, None]":
    """Causal attention inside each concatenated row, for transformers' AttentionInterface. No mask is ever built.

    query: (1, H, T, D); key, value: (1, H_kv, T, D); returns (1, T, H, D). In half precision on CUDA it is `flash`,
    of variable length. Elsewhere the rows are spread into a right-padded (n, L) layout, where causality alone keeps
    every token from the padding after it, so the plain causal kernel is exact.
    """
    import torch

    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, D)
    if flash is not None and query.dtype in (torch.bfloat16, torch.float16):
        return flash(query, key, value, starts, longest, scaling)[None], None
    rows = starts.shape[0] - 1

    def padded(tensor: "Tensor") -> "Tensor":
        return tensor.index_select(0, spread).unflatten(0, (rows, longest)).transpose(1, 2)

    output = torch.nn.functional.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), is_causal=True, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).flatten(0, 1).index_select(0, gather)[None], None


def variable_length_flash() -> "Callable[..., Tensor]":
    """torch's own flash attention over concatenated sequences; its versions name "causal" and "GQA" differently."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    attend: Callable[..., Any] = varlen_attn
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = True

    def flash(
        query: "Tensor", key: "Tensor", value: "Tensor", starts: "Tensor", longest: int, scale: float
    ) -> "Tensor":
        return attend(query, key, value, starts, starts, longest, longest, scale=scale, **options)

    return flash


def set_attention(model: "PreTrainedModel", attention: str) -> None:
    """Make `model` use one of ATTENTIONS. sdpa and flex_attention build a block mask from the position ids."""
    from transformers import AttentionInterface

    flash = variable_length_flash() if model.device.type == "cuda" else None
    AttentionInterface.register("packed", functools.partial(packed_attention, flash=flash))
    model.set_attn_implementation(attention)


def packed_loss(model: Any, micro: dict[str, Any], attention: str) -> "Tensor":
    """Sum of the cross entropies of a micro-batch's labelled tokens, float32 scalar. model: a causal LM (Qwen2)."""
    from torch.utils.checkpoint import checkpoint

    extra = {name: micro[name] for name in ("starts", "longest", "spread", "gather")} if attention == "packed" else {}
    hidden = model.model(
        input_ids=micro["input_ids"], position_ids=micro["position_ids"], use_cache=False, **extra
    ).last_hidden_state[0]
    hidden = hidden.index_select(0, micro["predictors"])
    if len(hidden) <= HEAD_TOKENS:
        return head_loss(model.lm_head, hidden, micro["targets"])
    parts = zip(hidden.split(HEAD_TOKENS), micro["targets"].split(HEAD_TOKENS), strict=True)
    return sum(
        checkpoint(head_loss, model.lm_head, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    )


def head_loss(head: Any, hidden: "Tensor", targets: "Tensor") -> "Tensor":
    """Summed cross entropy of `head(hidden)`, in float32."""
    import torch

    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def moved(micro: dict[str, Any], device: Any) -> dict[str, Any]:
    """The micro-batch on `device`. From pinned memory, so that the host need not wait for the GPU to get there."""
    return {
        name: value if isinstance(value, int) else value.to(device, non_blocking=True) for name, value in micro.items()
    }


def dropout_seed(seed: int, step: int) -> int:
    """The seed of every random draw inside step `step` (from 0): a resumed training needs no other random state."""
    return (seed << 32) + step


@functools.cache
def step_trainer() -> type:
    """The SFTTrainer subclass. Built on demand, because importing TRL takes seconds."""
    import torch
    from torch.utils.data import DataLoader
    from trl.trainer.sft_trainer import SFTTrainer

    class StepTrainer(SFTTrainer):
        """SFTTrainer whose batches are whole optimizer steps, given beforehand, each computed in micro-batches."""

        def __init__(self, examples: Sequence[Example], steps: list[list[int]], options: Options, **kwargs: Any):
            from datasets import Dataset

            self.examples, self.steps, self.options = examples, steps, options
            self.losses: list[float] = []
            self.waiting: list[Tensor] = []
            self.input_tokens = 0
            dataset = Dataset.from_dict(
                {
                    "input_ids": [example.input_ids for example in examples],
                    "labels": [example.labels for example in examples],
                }
            )
            super().__init__(train_dataset=dataset, **kwargs)
            wrapped: Any = self.model
            self.causal = wrapped.get_base_model()
            if options.compile:
                # without it the first layer, whose input needs no gradient, would be compiled a second time
                wrapped.enable_input_require_grads()
                for layer in self.causal.model.layers:
                    layer.compile(dynamic=True)

        def get_train_dataloader(self) -> Any:
            rows: Any = self.train_dataset
            return DataLoader(
                rows,
                batch_sampler=self.steps,
                collate_fn=functools.partial(collate, budget=self.options.micro_batch_tokens),
                pin_memory=self.args.device.type == "cuda",
            )

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> "Tensor":
            if not model.training:
                model.train()
            torch.manual_seed(dropout_seed(self.args.seed, self.state.global_step))
            total = torch.zeros((), device=self.args.device)
            for micro in inputs["micro_batches"]:
                with self.precision():
                    loss = packed_loss(self.causal, moved(micro, self.args.device), self.options.attention)
                    loss = loss / inputs["tokens"]
                self.accelerator.backward(loss)
                total += loss.detach()
            self.waiting.append(total)
            self.input_tokens += inputs["input_tokens"]
            return total

        def precision(self) -> contextlib.AbstractContextManager:
            """bfloat16 compute over float32 LoRA weights (PEFT's default under a bfloat16 base), or plain float32."""
            if self.options.dtype == "float32":
                return contextlib.nullcontext()
            return torch.autocast(self.args.device.type, dtype=getattr(torch, self.options.dtype))

        def fetch_losses(self) -> None:
            """Bring the losses of the steps since the last call from the device. Raises InputError on a NaN."""
            if not self.waiting:
                return
            fresh = torch.stack(self.waiting).tolist()
            self.waiting.clear()
            for loss in fresh:
                if not math.isfinite(loss):
                    rows = ", ".join(self.examples[row].id for row in self.steps[len(self.losses)])
                    raise InputError(
                        f"the loss of step {len(self.losses) + 1} is {loss}, on rows {rows}; "
                        "fix: lower the recipe's lr, or look for damaged rows"
                    )
                self.losses.append(loss)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            self.fetch_losses()
            super().log(logs, start_time)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Resumable state, whole or absent: TRL's own is written in place, and pickles its arguments."""
            self.fetch_losses()
            with partial(self.options.work / f"checkpoint-{self.state.global_step}") as folder:
                save_adapter(self.model, folder)
                self._save_optimizer_and_scheduler(str(folder))
                self.state.save_to_json(str(folder / STATE_FILE))
                write_json(folder / LOSSES_FILE, self.losses)
                (folder / SEAL_FILE).write_text(sha256_of(folder), encoding="utf-8")
            for older in checkpoints(self.options.work)[:-1]:
                shutil.rmtree(older)

        def resume(self, folder: Path) -> Any:
            if read_text(folder / SEAL_FILE) != sha256_of(folder):
                raise InputError(f"{folder}: not as it was written: damaged; fix: {AGAIN}")
            self.losses = read_json(folder / LOSSES_FILE)
            return self.train(resume_from_checkpoint=str(folder))

    return StepTrainer


@functools.cache
def watcher() -> type:
    """The TrainerCallback that keeps and reports. Built on demand, as step_trainer is."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Keeps adapters at chosen steps; shows a bar on a terminal and a status line in a file."""

        def __init__(self, trainer: Any, options: Options, bar: Any):
            self.trainer, self.options, self.bar = trainer, options, bar
            self.began, self.first, self.written = time.time(), 0, 0.0
            self.first_step_seconds = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began, self.first = time.time(), state.global_step
            if self.bar is not None:
                self.bar.update(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.bar is not None:
                self.bar.update()
            if state.global_step in self.options.keep_steps:
                with partial(kept_folder(self.options.work, state.global_step)) as folder:
                    save_adapter(self.trainer.model, folder)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            spent = time.time() - self.began
            done = state.global_step - self.first
            if done == 1:
                self.first_step_seconds = spent
            speed = round(self.trainer.input_tokens / spent)
            loss = round(self.trainer.losses[-1], 4)
            if self.bar is not None:
                self.bar.set_postfix_str(f"loss {loss:.4f}, {speed} tokens/s")
            if self.options.status is not None and time.time() - self.written >= STATUS_EVERY:
                self.written = time.time()
                line = {
                    "job": self.options.job,
                    "step": state.global_step,
                    "steps": state.max_steps,
                    "loss": loss,
                    "tokens_per_s": speed,
                    "eta_s": round(spent / max(done, 1) * (state.max_steps - state.global_step)),
                    "updated": round(self.written),
                }
                with partial(self.options.status) as file:
                    file.write_text(canonical(line) + "\n")

    return Watch


def checkpoints(work: Path) -> list[Path]:
    """Whole checkpoints in `work`, oldest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def kept_folder(work: Path, step: int) -> Path:
    return work / "kept" / f"step-{step}"


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_model.safetensors and a path-free adapter_config.json into `folder` (created): nothing else."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    normalise_config(folder / "adapter_config.json")


def normalise_config(path: Path) -> None:
    """Rewrite a PEFT config so that equal trainings give equal files: sorted, without the base model's path."""
    config = read_json(path)
    config["base_model_name_or_path"] = None
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    write_json(path, config)


def train(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    lora: "LoraConfig",
    examples: Sequence[Example],
    steps: list[list[int]],
    recipe: dict[str, Any],
    seed: int,
    options: Options,
) -> Outcome:
    """Train a new LoRA on `model`, from the last checkpoint in options.work if there is one.

    The LoRA's init is seeded by TRL just before it wraps the model; dropout by (seed, step). Raises InputError on a
    NaN, naming the step and its rows.
    """
    trainer = make_trainer(model, tokenizer, lora, examples, steps, recipe, seed, options)
    found = checkpoints(options.work)
    began = time.time()
    with progress_bar(len(steps), options.job) as bar:
        watch = watcher()(trainer, options, bar)
        trainer.add_callback(watch)
        if found:
            trainer.resume(found[-1])
        else:
            trainer.train()
    trainer.fetch_losses()
    return Outcome(
        model=trainer.model,
        steps=len(steps),
        losses=trainer.losses,
        tokens=trainer.input_tokens,
        seconds=time.time() - began,
        first_step_seconds=watch.first_step_seconds,
        resumed_at=int(found[-1].name.rpartition("-")[2]) if found else 0,
        kept={step: kept_folder(options.work, step) for step in sorted(options.keep_steps)},
    )


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    lora: "LoraConfig",
    examples: Sequence[Example],
    steps: list[list[int]],
    recipe: dict[str, Any],
    seed: int,
    options: Options,
) -> Any:
    """The StepTrainer of a training, its model wrapped with a fresh LoRA, nothing trained yet."""
    import torch
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.sft_config import SFTConfig

    set_attention(model, options.attention)
    options.work.mkdir(parents=True, exist_ok=True)
    config = SFTConfig(
        output_dir=str(options.work),
        seed=seed,
        max_steps=len(steps),
        per_device_train_batch_size=recipe["batch"],
        learning_rate=recipe["lr"],
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=math.ceil(recipe["warmup"] * len(steps)),
        weight_decay=recipe["weight_decay"],
        adam_beta1=recipe["betas"][0],
        adam_beta2=recipe["betas"][1],
        adam_epsilon=recipe["eps"],
        max_grad_norm=recipe["clip"],
        optim="adamw_torch_fused",
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=False,  # the precision is packed_loss's own matter, see StepTrainer.precision
        use_cpu=not torch.cuda.is_available(),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_steps=LOGGED_EVERY,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would wait for the GPU every step
        save_strategy="steps" if options.checkpoint_every else "no",
        save_steps=options.checkpoint_every or len(steps),
        report_to=options.tracking,
        run_name=options.job,
        disable_tqdm=True,
    )
    trainer = step_trainer()(
        examples, steps, options, model=model, args=config, processing_class=tokenizer, peft_config=lora,
        data_collator=collate,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextlib.contextmanager
def progress_bar(steps: int, name: str) -> Any:
    """A bar on stderr if it is a terminal, else None."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True) as bar:
        yield bar
