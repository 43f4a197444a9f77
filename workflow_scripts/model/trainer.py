"""The training engine: TRL's SFTTrainer taking exactly the published optimizer steps, several times faster.

Step-preserving: an optimizer step sees the same `batch` rows and the same token-mean loss over them as the published
4 x 4 padded recipe (docs/protocol.md, stages). What differs is only how a step is computed: its rows are concatenated
without padding into micro-batches under a token budget, logits exist only where a label is, and on CUDA the decoder
layers are compiled and attention runs inside each row (flash, variable length).
"""

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marker.mask import Example
from run.files import partial, remove, sha256_of, write_json
from run.program import InputError
from run.readers import AGAIN, read_json, read_text
from run.status import Status

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from probe.track import Track
from model.adapters import save_adapter
from model.dropout import hash_dropout
from model.full import SHARD, choose_trained, optimizer_of
from model.last_layer import has_few_labels, shorten_last_layer
from model.loss import check_forward, packed_loss, summed
from model.packing import ALONE, Sizes, collate, moved, precision, set_attention
from model.recorded import Recorder, zero_gradients

LOGGED_EVERY = 10  # steps; each logging waits for the GPU once
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "sgd": "sgd"}  # as transformers names them
STATE_FILE, LOSSES_FILE, CURVE_FILE = "trainer_state.json", "losses.json", "curve.json"
HELD_OUT_FILE = "held_out.json"  # the loss before the first step, of no checkpoint
SEAL_FILE = ".sha256"  # of the folder, whose hash leaves hidden files out


@dataclass(frozen=True)
class Options:
    """How a training is computed and watched. None of it changes the recipe.

    work: folder for resumable state and kept adapters, its own for every (recipe, data, seed, parent, code).
    micro_batch_tokens: most tokens concatenated into one forward pass; a longer row makes a pass of its own.
    checkpoint_every: steps between resumable states, 0 for none. keep_steps: steps whose adapter is kept.
    cuda_graphs: passes are filled up to a few sizes and recorded as CUDA graphs, one per size (recorded.py).
    tracked: `project/run`, as the tracker shows them. states: the optimizer's, of a training of all weights (STATES).
    track: what is measured every few steps, beside the training. held_out: rows that are not trained, whose loss is
    measured before the first step and after the last.
    """

    work: Path
    dtype: str = "float32"
    micro_batch_tokens: int = 4096
    attention: str = "packed"
    compile: bool = False
    cuda_graphs: bool = False
    gradient_checkpointing: bool = False
    states: str = "dtype"
    checkpoint_every: int = 0
    keep_steps: frozenset[int] = frozenset()
    track: "Track | None" = None
    held_out: Sequence[Example] = ()
    tracking: str = "none"
    tracked: str = "study/train"
    status: Path | None = None
    job: str = "train"

    @property
    def budget(self) -> int:
        """Most tokens of a pass. A row is never cut: without room it makes a pass of its own."""
        return 0 if self.attention == ALONE else self.micro_batch_tokens


@dataclass
class Outcome:
    """A finished training. losses: one token-mean loss a step. held_out: the held-out rows' token-mean loss, before it
    and after; None if no rows are held out.

    recordings: of CUDA graphs, the seconds of each. These, tokens, seconds and first_step_seconds (compiling and
    recording included) are of this process alone.
    """

    model: Any
    steps: int
    losses: list[float]
    tokens: int
    seconds: float
    first_step_seconds: float
    resumed_at: int
    kept: dict[int, Path] = field(default_factory=dict)
    held_out: tuple[float, float] | None = None
    recordings: Sequence[float] = ()


def dropout_seed(seed: int, step: int) -> int:
    """The seed of every random draw inside step `step` (from 0): a resumed training needs no other random state.

    Below 2^32: torch's generator on the CPU takes no more of a seed.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:4], "big")


def mask_seed(seed: int, place: int) -> int:
    """The seed, an int32, of the masks of a step's pass number `place`, where they are not drawn (dropout.py)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4], "big", signed=True)


def compile_layers(layers: "Iterable[Module]") -> None:
    """Compile the decoder layers, for any number of tokens.

    Their floats (LoRA's scaling, what dropout keeps, epsilons) are constants of the code. By default they would be
    scalars on the CPU, with C++ kernels of their own in a GPU's graph: before the first, the compiler builds and loads
    a program for each of the CPU's instruction sets (benchmarks/README.md).
    """
    import torch

    torch._dynamo.config.specialize_float = True
    for layer in layers:
        layer.compile(dynamic=True)


def forget_gradients(weights: "Sequence[Tensor]") -> None:
    for weight in weights:
        weight.grad = None


@functools.cache
def step_trainer() -> type:
    """The SFTTrainer subclass. Built on demand, because importing TRL takes seconds."""
    import torch
    from accelerate.utils import is_peft_model
    from peft.helpers import disable_input_dtype_casting
    from torch.utils.data import DataLoader
    from trl.trainer.sft_trainer import SFTTrainer

    class StepTrainer(SFTTrainer):
        """SFTTrainer whose batches are whole optimizer steps, given beforehand, each computed in micro-batches."""

        def __init__(
            self,
            examples: Sequence[Example],
            steps: list[list[int]],
            dropout: int,
            options: Options,
            own_attention: str,
            **kwargs: Any,
        ):
            from datasets import Dataset

            self.examples, self.steps, self.dropout, self.options = examples, steps, dropout, options
            self.own_attention = own_attention
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
            self.causal = wrapped.get_base_model() if is_peft_model(wrapped) else wrapped
            self.trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
            # its own looks through all modules, as clipping does: a tenth of a small model's step
            wrapped.zero_grad = functools.partial(forget_gradients, self.trained)
            self.masks: Tensor | None = None
            self.last_mlp: Any = None
            self.summed: Any = None
            self.take_pass: Callable[[dict[str, Any]], Tensor] = self.run_pass
            self.sizes: Sizes | None = None
            if options.cuda_graphs:
                self.sizes = Sizes.of([len(example.input_ids) for example in examples], steps)
                if self.args.device.type == "cuda":
                    self.take_pass = Recorder(self.run_pass, self.trained)
                    wrapped.zero_grad = functools.partial(zero_gradients, self.trained)
            if options.compile:
                self.masks = hash_dropout(wrapped)
                if not options.cuda_graphs:  # within recorded passes neither was tried on a card
                    self.summed = torch.compile(summed, dynamic=True)
                    self.last_mlp = shorten_last_layer(self.causal) if has_few_labels(examples) else None
                # without it the first layer, whose input needs no gradient, would be compiled a second time
                wrapped.enable_input_require_grads()
                compile_layers(self.causal.model.layers)

        def get_train_dataloader(self) -> Any:
            rows: Any = self.train_dataset
            return DataLoader(
                rows,
                batch_sampler=self.steps,
                collate_fn=functools.partial(collate, budget=self.options.budget, sizes=self.sizes),
                pin_memory=self.args.device.type == "cuda",
            )

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> "Tensor":
            if not self.causal.training:  # PEFT's wrapper is in training mode from the start, what it wraps is not
                model.train()
            seed = dropout_seed(self.dropout, self.state.global_step)
            torch.manual_seed(seed)
            total = torch.zeros((), device=self.args.device)
            tokens = inputs["tokens"] if self.sizes is None else torch.tensor(float(inputs["tokens"]))
            for place, micro in enumerate(inputs["micro_batches"]):
                if self.masks is not None:
                    self.masks.fill_(mask_seed(seed, place))
                total += self.take_pass(micro | {"tokens": tokens})
            self.waiting.append(total)
            self.input_tokens += inputs["input_tokens"]
            return total

        def run_pass(self, micro: dict[str, Any]) -> "Tensor":
            """The loss of a pass, as its part of the step's mean; adds its gradients to the weights'."""
            micro = moved(micro, self.args.device)
            if self.last_mlp is not None:
                self.last_mlp.rows = micro["predictors"]
            with precision(self.args.device.type, self.options.dtype):
                loss = packed_loss(self.causal, micro, self.options.attention, self.summed) / micro["tokens"]
            self.accelerator.backward(loss)
            return loss.detach()

        def _clip_grad_norm(self, model: Any) -> "Tensor":
            return torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)

        def measure(self) -> None:
            """Let `track` score the model as it stands, eagerly, in its own attention.

            Nothing of the training moves: each step seeds its own draws.
            """
            track = self.options.track
            if track is None:
                return
            began, model = time.time(), self.causal
            was_training = model.training
            model.eval()
            model.set_attn_implementation(self.own_attention)
            try:
                with (
                    torch.compiler.set_stance("force_eager"),
                    precision(self.args.device.type, self.options.dtype),
                    disable_input_dtype_casting(model),  # to float32, only for autocast to undo it
                ):
                    track.measure(model, self.state.global_step)
            finally:
                if self.options.attention != ALONE:
                    model.set_attn_implementation(self.options.attention)
                model.train(was_training)
            track.seconds += time.time() - began

        def held_out_loss(self) -> float:
            """The mean loss of a labelled token of the held-out rows [nats]: without dropout, not compiled."""
            rows = [{"input_ids": row.input_ids, "labels": row.labels} for row in self.options.held_out]
            held = collate(rows, self.options.budget)
            was_training, total = self.causal.training, 0.0
            self.causal.eval()
            try:
                with (
                    torch.no_grad(),
                    torch.compiler.set_stance("force_eager"),
                    precision(self.args.device.type, self.options.dtype),
                ):
                    for micro in held["micro_batches"]:
                        total += packed_loss(self.causal, moved(micro, self.args.device), self.options.attention).item()
            finally:
                self.causal.train(was_training)
            return total / int(held["tokens"])

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
                if self.causal is self.model:
                    self.model.save_pretrained(folder, max_shard_size=SHARD)
                else:
                    save_adapter(self.model, folder)
                self._save_optimizer_and_scheduler(str(folder))
                self.state.save_to_json(str(folder / STATE_FILE))
                write_json(folder / LOSSES_FILE, self.losses)
                if self.options.track is not None:
                    write_json(folder / CURVE_FILE, self.options.track.curve)
                (folder / SEAL_FILE).write_text(sha256_of(folder), encoding="utf-8")
            for older in checkpoints(self.options.work)[:-1]:
                remove(older)

        def resume(self, folder: Path) -> Any:
            if read_text(folder / SEAL_FILE) != sha256_of(folder):
                raise InputError(f"{folder}: not as it was written: damaged; fix: {AGAIN}")
            self.losses = read_json(folder / LOSSES_FILE)
            if self.options.track is not None:
                self.options.track.curve = read_json(folder / CURVE_FILE)
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
            self.began, self.first = time.time(), 0
            self.first_step_seconds = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not state.global_step:
                self.trainer.measure()
            self.began, self.first = time.time(), state.global_step
            self.status = Status(self.options.status, self.options.job, self.first)
            if self.bar is not None:
                self.bar.update(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.bar is not None:
                self.bar.update()
            if self.options.track and (not state.global_step % self.options.track.every or is_last(state)):
                self.trainer.measure()
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
            self.status.report(state.global_step, state.max_steps, loss, speed)

    return Watch


def is_last(state: Any) -> bool:
    """Whether a Trainer has taken its last step."""
    return bool(state.global_step == state.max_steps)


def checkpoints(work: Path) -> list[Path]:
    """Whole checkpoints in `work`, oldest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def kept_folder(work: Path, step: int) -> Path:
    return work / "kept" / f"step-{step}"


def train(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    lora: "LoraConfig | None",
    examples: Sequence[Example],
    steps: list[list[int]],
    recipe: dict[str, Any],
    seeds: Mapping[str, int],
    options: Options,
) -> Outcome:
    """Train a new LoRA on `model`, or all its weights, from the last checkpoint in options.work if there is one.

    seeds: lora_init, by which TRL seeds all generators just before it wraps the model, and dropout, which is seeded by
    it and the step. Raises InputError on a NaN, naming the step and its rows.
    """
    trainer = make_trainer(model, tokenizer, lora, examples, steps, recipe, seeds, options)
    found = checkpoints(options.work)
    if options.held_out and not found:
        write_json(options.work / HELD_OUT_FILE, trainer.held_out_loss())
    began = time.time()
    with progress_bar(len(steps), options.job) as bar:
        watch = watcher()(trainer, options, bar)
        trainer.add_callback(watch)
        if found:
            trainer.resume(found[-1])
        else:
            trainer.train()
    trainer.fetch_losses()
    seconds = time.time() - began
    held_out = None
    if options.held_out:
        held_out = (read_json(options.work / HELD_OUT_FILE, float), trainer.held_out_loss())
    return Outcome(
        model=trainer.model,
        steps=len(steps),
        losses=trainer.losses,
        tokens=trainer.input_tokens,
        seconds=seconds,
        first_step_seconds=watch.first_step_seconds,
        resumed_at=int(found[-1].name.rpartition("-")[2]) if found else 0,
        kept={step: kept_folder(options.work, step) for step in sorted(options.keep_steps)},
        held_out=held_out,
        recordings=tuple(getattr(trainer.take_pass, "seconds", ())),
    )


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    lora: "LoraConfig | None",
    examples: Sequence[Example],
    steps: list[list[int]],
    recipe: dict[str, Any],
    seeds: Mapping[str, int],
    options: Options,
) -> Any:
    """The StepTrainer of a training, its model wrapped with a fresh LoRA, nothing trained yet.

    lora: None trains the weights of `model` itself, but those that the recipe freezes.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.sft_config import SFTConfig

    check_forward(model, [example.input_ids for example in examples], options.attention, options.dtype)
    own = model.config._attn_implementation
    set_attention(model, options.attention)
    optimizer = None
    if lora is None:
        choose_trained(model, recipe.get("freeze", ()), "recipe")
        optimizer = optimizer_of(recipe, options.states, options.dtype)
    options.work.mkdir(parents=True, exist_ok=True)
    config = SFTConfig(
        output_dir=str(options.work),
        seed=seeds["lora_init"],
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
        optim=OPTIMIZERS[recipe.get("optimizer", "adamw")],
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=False,  # the precision is the step's own matter, see packing.precision
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
        project=options.tracked.partition("/")[0],  # trackio's; wandb's is in the environment
        run_name=options.tracked.partition("/")[2],
        disable_tqdm=True,
    )
    trainer = step_trainer()(
        examples, steps, seeds["dropout"], options, own, model=model, args=config, processing_class=tokenizer,
        peft_config=lora, data_collator=collate, optimizer_cls_and_kwargs=optimizer,
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
