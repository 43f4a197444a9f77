"""A lineage's weights one tensor at a time: the base's as they lie on disk, each adapter's delta added in turn.

The numbers are load_model's, bit for bit: PEFT's safe_merge adds, for each adapter in order, `B @ A * scaling` in the
adapter's float32, rounded to the model's dtype, to a weight of that dtype.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.adapters import CONFIG, WEIGHTS, check_adapter
from model.loading import check_finite
from run.program import InputError
from run.readers import read_json

if TYPE_CHECKING:
    import torch

# What an adapter's config may say beside its rank, alpha and targets without changing how it is merged.
HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip


class Unmergeable(Exception):
    """Why a lineage cannot be merged tensor by tensor; load_model may be able to."""


@dataclass(frozen=True)
class Lora:
    """A plain LoRA. pairs: base tensor -> (A, B), float32 of shapes (rank, inputs) and (outputs, rank)."""

    folder: Path
    scaling: float
    pairs: "dict[str, tuple[torch.Tensor, torch.Tensor]]"


def read_lora(adapter: str | Path, device: Any) -> Lora:
    """The adapter's matrices on `device`.

    Raises InputError for a damaged folder and Unmergeable for what is more than a plain LoRA of linear layers.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_adapter(adapter)
    folder = Path(adapter)
    config = read_json(folder / CONFIG, dict)
    odd = [name for name, value in config.items() if value and name not in HARMLESS]
    odd += [name for name in ("alpha_pattern", "rank_pattern") if config.get(name)]
    if odd or config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise Unmergeable(f"{adapter} is no plain LoRA ({', '.join(odd) or 'bias or kind'})")
    try:
        tensors = load_file(folder / WEIGHTS, device=str(device))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{folder / WEIGHTS}: damaged ({error}); fix: delete its node's folder and run again"
        ) from None
    weights = {name.removeprefix("base_model.model."): tensor.to(torch.float32) for name, tensor in tensors.items()}
    layers = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    if 2 * len(layers) != len(weights) or any(f"{layer}.lora_B.weight" not in weights for layer in layers):
        raise Unmergeable(f"{adapter} has tensors beside pairs of matrices")
    rank = config["r"]
    return Lora(
        folder,
        config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank),
        {f"{at}.weight": (weights[f"{at}.lora_A.weight"], weights[f"{at}.lora_B.weight"]) for at in layers},
    )


def merged_weights(
    base: str | Path, weights: "Iterable[tuple[str, torch.Tensor]]", loras: Sequence[Lora], dtype: Any, device: Any
) -> "Iterator[tuple[str, torch.Tensor]]":
    """The base's tensors, on `device` in `dtype`, with the adapters' deltas added. weights: of the base, from disk.

    Raises InputError for a weight that is not finite, before or after, and Unmergeable if an adapter is for a tensor
    that the base's files do not have under that name and in that shape.
    """
    waiting = {name for lora in loras for name in lora.pairs}
    for name, read in weights:
        weight = read.to(device=device, dtype=dtype if read.is_floating_point() else None)
        check_finite(base, [(name, weight)])
        for lora in loras:
            if name in lora.pairs:
                weight = add_delta(name, weight, lora)
        waiting.discard(name)
        yield name, weight
    if waiting:
        raise Unmergeable(f"no file of {base} has {min(waiting)}, which an adapter is for")


def add_delta(name: str, weight: "torch.Tensor", lora: Lora, strength: float = 1.0) -> "torch.Tensor":
    """A new tensor: the weight with `strength` times the LoRA merged into it. Raises as merged_weights does."""
    a, b = lora.pairs[name]
    if (b.shape[0], a.shape[1]) != tuple(weight.shape):
        raise Unmergeable(f"{lora.folder} has another shape than {name}")
    summed = weight + (b @ a * (lora.scaling * strength)).to(weight.dtype)
    check_finite(lora.folder, [(name, summed)], "delete its node folder and run again")
    return summed


class Mixture:
    """A loaded base into which LoRAs are merged in turn, each at a strength of its own in every tensor, and again.

    Every mixture starts from a kept copy of the base's tensors, so that none leaves a trace in the next: at strengths
    of 1 and 0 the weights are load_model's, bit for bit. Raises Unmergeable if the model lacks a tensor of theirs.
    """

    def __init__(self, model: Any, loras: Sequence[Lora]) -> None:
        known = dict(model.named_parameters())
        self.names = list(dict.fromkeys(name for lora in loras for name in lora.pairs))
        if missing := [name for name in self.names if name not in known]:
            raise Unmergeable(f"the model has no {missing[0]}, which an adapter is for")
        self._weights = {name: known[name] for name in self.names}
        self._base = {name: known[name].detach().clone() for name in self.names}
        self._strengths: dict[str, Sequence[float]] = {name: (0.0,) * len(loras) for name in self.names}
        self.loras = loras

    def set(self, strengths: Mapping[str, Sequence[float]]) -> None:
        """Merge the LoRAs anew. strengths: for every tensor of `names` a number for each LoRA."""
        import torch

        with torch.no_grad():
            for name, wanted in strengths.items():
                if wanted == self._strengths[name]:
                    continue
                mixed = self._base[name]
                for lora, strength in zip(self.loras, wanted, strict=True):
                    if strength and name in lora.pairs:
                        mixed = add_delta(name, mixed, lora, strength)
                self._weights[name].copy_(mixed)
                self._strengths[name] = wanted


def random_like(lora: Lora, seed: int) -> Lora:
    """A LoRA of random factors for the same tensors: of the same rank, and each delta of the same Frobenius norm."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, own in lora.pairs.items():
        a, b = (torch.randn(tensor.shape, generator=generator).to(tensor.device) for tensor in own)
        pairs[name] = a, b * (delta_norm(*own) / delta_norm(a, b))
    return Lora(lora.folder, lora.scaling, pairs)


def delta_norm(a: "torch.Tensor", b: "torch.Tensor") -> float:
    """The Frobenius norm of B A, from matrices of the size of the rank alone."""
    products = (a.double() @ a.double().T) * (b.double().T @ b.double())
    return max(float(products.sum()), 0.0) ** 0.5
