"""How vLLM gets a lineage's weights: the base's files streamed to the device, the adapters merged on the way.

Nothing is written. A lineage that cannot be merged tensor by tensor (weights.Unmergeable), or that vLLM holds otherwise
than it was given, is merged as a whole, saved to a node-local copy and loaded from there; the log says so.
"""

import contextlib
import copy
import dataclasses
import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.full import last_full
from model.loading import explained, first_line, load_model
from model.weights import Unmergeable, merged_weights, read_lora
from run.files import temporary_folder
from run.program import InputError
from run.space import free_space, is_full

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

LOAD_FORMAT = "lineage"


@dataclasses.dataclass(frozen=True)
class Given:
    """What vLLM was given under a name: how many rows, and of a merged weight the first and the last."""

    rows: int
    ends: "torch.Tensor | None"


def register_loader(
    base: str | Path, adapters: Sequence[str | Path], tokenizer: "PreTrainedTokenizerBase", dtype: str
) -> None:
    """Make LOAD_FORMAT, in this process, mean the weights of this lineage. vLLM's own checks and placing stay.

    The loader raises InputError if a folder is damaged or a weight is not finite.
    """
    from safetensors import SafetensorError
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    @register_model_loader(LOAD_FORMAT)
    class LineageLoader(DefaultModelLoader):
        def __init__(self, load_config: Any) -> None:
            super().__init__(dataclasses.replace(load_config, load_format="safetensors"))
            self.given: dict[str, Given] = {}

        def get_all_weights(self, model_config: Any, model: Any) -> "Iterator[tuple[str, torch.Tensor]]":
            device = next(model.parameters()).device
            start, later = last_full(base, adapters)
            loras = [read_lora(adapter, device) for adapter in later]
            started = copy.copy(model_config)
            started.model = str(start)
            read = super().get_all_weights(started, model)
            merged = {name for lora in loras for name in lora.pairs}
            for name, weight in merged_weights(start, read, loras, model_config.dtype, device):
                self.given[name] = Given(len(weight), weight[[0, -1]] if name in merged else None)
                yield name, weight

        def load_weights(self, model: Any, model_config: Any) -> None:
            try:
                super().load_weights(model, model_config)
                check_held(dict(model.named_parameters()), self.given, getattr(model, "packed_modules_mapping", {}))
            except Unmergeable as why:
                print(f"merging the lineage as a whole, in a copy on disk: {why}", file=sys.stderr)
                with merged_folder(base, adapters, tokenizer, dtype) as folder:
                    merged = copy.copy(model_config)
                    merged.model = str(folder)
                    DefaultModelLoader(self.load_config).load_weights(model, merged)
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                raise explained(base, error, "vLLM cannot load the weights", "fetch the base model again") from error


def check_held(
    held: "Mapping[str, torch.Tensor]", given: Mapping[str, Given], packed: Mapping[str, Sequence[str]]
) -> None:
    """Raise Unmergeable unless the first and last row of every merged weight stand in vLLM's where they belong.

    packed: vLLM's weight -> the weights that it holds below one another, such as qkv_proj -> q_proj, k_proj, v_proj.
    """
    places = {part: (whole, parts[:at]) for whole, parts in packed.items() for at, part in enumerate(parts)}
    for name, weight in given.items():
        if weight.ends is None:
            continue
        stem, part, _ = name.rsplit(".", 2)
        whole, above = places.get(part, (part, []))
        start = sum(given[f"{stem}.{other}.weight"].rows for other in above)
        found = held.get(f"{stem}.{whole}.weight")
        if found is None or not found[[start, start + weight.rows - 1]].equal(weight.ends):
            raise Unmergeable(f"vLLM holds {name} otherwise than it was given")


@contextlib.contextmanager
def merged_folder(
    base: str | Path, adapters: Sequence[str | Path], tokenizer: "PreTrainedTokenizerBase", dtype: str
) -> Iterator[Path]:
    """A node-local folder with the merged model, which vLLM can load.

    It is removed at the end, and after an error or a SIGTERM; after a SIGKILL by the next one on the node.
    Raises InputError if a folder is damaged or there is no room.
    """
    import torch

    size = sum(file.stat().st_size for file in Path(base).glob("*.safetensors"))
    with temporary_folder(Path(scratch(size)), "engine") as parent:
        merged = parent / "merged"
        model = load_model(base, adapters, dtype)
        save_merged(model, tokenizer, merged, size)
        del model
        gc.collect()
        torch.cuda.empty_cache()
        yield merged


def save_merged(model: Any, tokenizer: "PreTrainedTokenizerBase", folder: Path, size: int) -> None:
    """Write the model of `size` bytes for vLLM. Raises InputError if the disk is full: others write there, too."""
    from transformers import GenerationConfig

    # only completions are drawn from it, by our own sampling; contradictory fields would not be saved
    model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # safetensors has a type of its own for a full disk
        if not is_full(error):
            raise
        raise InputError(
            f"{folder}: cannot write the merged model ({first_line(error)}); fix: set TMPDIR to a folder with room "
            f"for {size / 2**30:.1f} GiB for every evaluation at a time"
        ) from error


def scratch(size: int) -> str:
    """A node-local folder for `size` bytes: $TMPDIR if chosen, else memory with ample room, else the system's own.

    Snakemake sets TMPDIR for every job, to /tmp if nobody chose. Raises InputError if there is too little room.
    """
    memory = "/dev/shm"
    if os.environ.get("TMPDIR", "/tmp") == "/tmp" and os.path.isdir(memory) and free_space(memory) > 3 * size:
        return memory
    folder = tempfile.gettempdir()
    if free_space(folder) < 1.1 * size:
        raise InputError(
            f"{folder}: the merged model needs {1.1 * size / 2**30:.1f} GiB; fix: set TMPDIR to a folder with room"
        )
    return folder
