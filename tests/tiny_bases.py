"""A base of each supported family for tests: the architecture at two layers, random weights, the family's template."""

from pathlib import Path
from typing import Any

from chat_templates import family_tokenizer

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SIZES: dict[str, Any] = {
    "vocab_size": 600,  # more than the tokenizer has, as it often is
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
BOTH_KINDS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
LLAMA_3_ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
# family of chat_templates.py -> transformers' architecture, what it has beside SIZES
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama-3.2": ("llama", {"rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True}),
    "gemma-3": ("gemma3_text", BOTH_KINDS | {"query_pre_attn_scalar": 16}),
    "mistral": ("mistral", {"sliding_window": 8, "head_dim": 16}),
    "granite-3.3": (
        "granite",
        {"logits_scaling": 4.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "embedding_multiplier": 12.0},
    ),
    "olmo-2": ("olmo2", {}),
    "phi-3": ("phi3", {"sliding_window": 8}),
    "smollm2": ("llama", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "gemma-2": ("gemma2", BOTH_KINDS | {"query_pre_attn_scalar": 16}),
}


def targets_of(family: str) -> list[str]:
    """The linear layers of a decoder layer."""
    return FUSED if family == "phi-3" else SEVEN


def random_model(architecture: str, **sizes: Any) -> Any:
    """A causal language model in float32. Weights of std 0.3: at the usual 0.02 no part of it would show in the loss."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**(SIZES | ends | sizes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(std=0.3)
    return model.eval()


def make_base(folder: Path, family: str, **sizes: Any) -> Path:
    """Write a base of the family to `folder`, its template's settings beside it as fetch_base does, and return it."""
    from model.template import SETTINGS, settings
    from run.files import write_json

    architecture, more = ARCHITECTURES[family]
    tokenizer = family_tokenizer(family)
    random_model(architecture, **(more | sizes)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # its ends are not this tokenizer's
    tokenizer.save_pretrained(folder)
    write_json(folder / SETTINGS, settings(tokenizer).mapping())
    return folder
