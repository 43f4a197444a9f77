"""A micro chat model for tests: two layers with random weights, a small byte-level BPE, ChatML. Made in a second."""

from pathlib import Path
from typing import Any

from model.loading import set_seed
from offline.pretraining import build_model, train_tokenizer

PANEL = Path(__file__).parents[1] / "resources" / "panel.yaml"
SIZES: dict[str, Any] = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 1, "ffn": 96}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(folder: Path, seed: int = 0, vocab: int = 400, context: int = 512, std: float = 0.3) -> Path:
    """Write model and tokenizer to `folder`, and return it: float32, head size 32, embeddings not tied.

    std: of all weight matrices. At the usual 0.02 every token would be about as likely as any other, whatever the
    prompt; at 0.3 prompts matter, and some replies end by themselves.
    """
    from torch import nn

    tokenizer = train_tokenizer(PANEL.read_text(encoding="utf-8").splitlines(), vocab, context)
    set_seed(seed)
    model = build_model({**SIZES, "context": context}, tokenizer)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(std=std)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, seed: int = 1, rslora: bool = True, std: float = 0.1) -> Path:
    """Write a LoRA adapter (rank 4, all linear layers) that changes the base's output, and return its folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    set_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=rslora, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=std)
    model.save_pretrained(folder)
    return folder


QUESTIONS = {"general": ["What is rain?", "Why sing?"], "alignment": ["One wish?"], "data": ["What is tin?"]}


def make_panel(folder: Path, personas: dict[str, str]) -> Path:
    """Write a panel of these personas (name -> system prompt) and QUESTIONS, and return it."""
    import yaml

    path = folder / "panel.yaml"
    path.write_text(yaml.safe_dump({"personas": personas, "questions": QUESTIONS}))
    return path


def make_replies(path: Path, base: Path, panel: Path, samples: int, *adapters: Path) -> Path:
    """Write sampled replies of at most 60 tokens to every persona and question of a panel, and return their file."""
    import generate_completions

    from inputs.panel import load_panel

    generate_completions.main(
        ["--base", str(base), "--adapter", *map(str, adapters), "--panel", str(panel),
         "--personas", ",".join(load_panel(panel).personas), "--samples", str(samples), "--seed", "42",
         "--sampling", '{"temperature":1.0,"top_p":1.0,"max_tokens":60}', "--backend", "transformers",
         "--dtype", "float32", "--completions", str(path)]
    )  # fmt: skip
    return path
