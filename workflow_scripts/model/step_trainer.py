"""The SFTTrainer whose batches are whole optimizer steps, and what watches it.

In a module of its own, since importing TRL takes seconds: trainer.py imports it where a training begins.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from marker.mask import Example
from model.adapters import save_adapter
from model.dropout import hash_dropout
from model.full import SHARD
from model.last_layer import has_few_labels, shorten_last_layer
from model.loss import packed_loss, summed
from model.packing import ALONE, Sizes, collate, moved, precision
from model.recorded import Recorder, zero_gradients
from model.trainer import (
    CURVE_FILE,
    LOSSES_FILE,
    SEAL_FILE,
    STATE_FILE,
    Options,
    checkpoints,
    dropout_seed,
    kept_folder,
    mask_seed,
)
from run.files import partial, remove, sha256_of, write_json
from run.program import InputError
from run.readers import AGAIN, read_json, read_text
from run.status import Status


def compile_layers(layers: Iterable[Module]) -> None:
    """Compile the decoder layers, for any number of tokens.

    Their floats (LoRA's scaling, what dropout keeps, epsilons) are constants of the code. By default they would be
    scalars on the CPU, with C++ kernels of their own in a GPU's graph: before the first, the compiler builds and loads
    a program for each of the CPU's instruction sets (benchmarks/README.md).
    """
    torch._dynamo.config.specialize_float = True
    # A pass of one row, one of one label, layers with and without a window or a LoRA, and a shortened one: each is
    # compiled by itself, and past torch's limit of eight a layer would run uncompiled without a word.
    torch._dynamo.config.recompile_limit = 64
    for layer in layers:
        layer.compile(dynamic=True)


def forget_gradients(weights: Sequence[Tensor]) -> None:
    for weight in weights:
        weight.grad = None


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

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
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

    def run_pass(self, micro: dict[str, Any]) -> Tensor:
        """The loss of a pass, as its part of the step's mean; adds its gradients to the weights'."""
        micro = moved(micro, self.args.device)
        if self.last_mlp is not None:
            self.last_mlp.rows = micro["predictors"]
        with precision(self.args.device.type, self.options.dtype):
            loss = packed_loss(self.causal, micro, self.options.attention, self.summed) / micro["tokens"]
        self.accelerator.backward(loss)
        return loss.detach()

    def _clip_grad_norm(self, model: Any) -> Tensor:
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


def is_last(state: Any) -> bool:
    """Whether a Trainer has taken its last step."""
    return bool(state.global_step == state.max_steps)
