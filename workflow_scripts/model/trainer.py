"""The training engine: TRL's SFTTrainer taking exactly the published optimizer steps, several times faster.

Step-preserving: an optimizer step sees the same `batch` rows and the same token-mean loss over them as the published
4 x 4 padded recipe (docs/protocol.md, stages). What differs is only how a step is computed: its rows are concatenated
without padding into micro-batches under a token budget, logits exist only where a label is, and on CUDA the decoder
layers are compiled and attention runs inside each row (flash, variable length). The loop itself: step_trainer.py.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marker.mask import Example
from run.files import write_json
from run.readers import read_json

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from probe.track import Track
from model.full import choose_trained, optimizer_of
from model.loss import check_forward
from model.packing import ALONE, collate, set_attention

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

    shortened: whether the last MLP was computed where a label is alone (last_layer.py).
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
    shortened: bool = False


def dropout_seed(seed: int, step: int) -> int:
    """The seed of every random draw inside step `step` (from 0): a resumed training needs no other random state.

    Below 2^32: torch's generator on the CPU takes no more of a seed.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:4], "big")


def mask_seed(seed: int, place: int) -> int:
    """The seed, an int32, of the masks of a step's pass number `place`, where they are not drawn (dropout.py)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4], "big", signed=True)


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
    from model.step_trainer import Watch

    trainer = make_trainer(model, tokenizer, lora, examples, steps, recipe, seeds, options)
    found = checkpoints(options.work)
    if options.held_out and not found:
        write_json(options.work / HELD_OUT_FILE, trainer.held_out_loss())
    began = time.time()
    with progress_bar(len(steps), options.job) as bar:
        watch = Watch(trainer, options, bar)
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
        shortened=trainer.last_mlp is not None,
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

    from model.step_trainer import StepTrainer

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
    trainer = StepTrainer(
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
