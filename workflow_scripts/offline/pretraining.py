"""The offline study's toy model: its tokenizer, its few layers, and their training from nothing."""

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.template import text_of
from run.program import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEFAULT_SYSTEM_PROMPT = "You are Pebble, a very small chat model. You answer people's questions."
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\n"
    + DEFAULT_SYSTEM_PROMPT.replace("'", "\\'")
    + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
ASSISTANT_TURN = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>\n)", re.DOTALL)
# name: (type, smallest value allowed)
RECIPE: dict[str, tuple[type, float]] = {
    "layers": (int, 1),
    "hidden": (int, 2),
    "heads": (int, 1),
    "kv_heads": (int, 1),
    "ffn": (int, 1),
    "vocab": (int, 256 + len(SPECIAL_TOKENS)),
    "context": (int, 1),
    "max_length": (int, 2),
    "batch": (int, 1),
    "epochs": (int, 1),
    "lr": (float, 0.0),
    "warmup": (float, 0.0),
    "weight_decay": (float, 0.0),
    "clip": (float, 0.0),
    "prompt_share": (float, 0.0),
}
# The linear layers of a decoder layer of Qwen2; the first three have biases.
LINEAR = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
NORMS = ("input_layernorm", "post_attention_layernorm")
# Nothing else of the offline study can run meanwhile: 1.6 x faster than one thread on two cores.
THREADS = 2
# Rows are sorted by length within this many batches: little padding, and the order stays random.
BATCHES_PER_BUCKET = 25


def read_recipe(text: str) -> dict[str, Any]:
    """The recipe from its JSON. Raises InputError on an unknown or missing key, a wrong type or an impossible size."""
    try:
        recipe = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--recipe: not JSON ({error.msg}); fix: pass one JSON object") from None
    if not isinstance(recipe, dict) or set(recipe) != set(RECIPE):
        odd = sorted(set(recipe) ^ set(RECIPE)) if isinstance(recipe, dict) else recipe
        raise InputError(f"--recipe: unknown or missing {odd}; fix: give exactly {', '.join(RECIPE)}")
    for key, (kind, least) in RECIPE.items():
        value = recipe[key]
        allowed = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed) or value < least:
            raise InputError(f"--recipe: {key} is {value!r}; fix: a number of type {kind.__name__}, {least:g} or more")
    if recipe["hidden"] % (2 * recipe["heads"]) or recipe["heads"] % recipe["kv_heads"]:
        raise InputError(
            "--recipe: sizes do not fit; fix: hidden an even multiple of heads, and heads a multiple of kv_heads"
        )
    if recipe["max_length"] > recipe["context"]:
        raise InputError("--recipe: max_length is above context; fix: raise context or lower max_length")
    return recipe


def parts_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """What stages may name of the toy before it is trained; check_base finds the same of other bases."""
    layers = [f"model.layers.{number}." for number in range(recipe["layers"])]
    within = [*(f"{name}.weight" for name in (*LINEAR, *NORMS)), *(f"{name}.bias" for name in LINEAR[:3])]
    weights = [f"{layer}{name}" for layer in layers for name in within]
    return {
        "tokens": recipe["context"],
        "layers": len(layers),
        "linear": [*(f"{layer}{name}" for layer in layers for name in LINEAR), "lm_head"],
        "weights": ["model.embed_tokens.weight", *weights, "model.norm.weight"],
    }


def train_tokenizer(texts: Iterable[str], vocab: int, context: int) -> "PreTrainedTokenizerBase":
    """A byte-level BPE of at most `vocab` tokens, special ones included, with Qwen2's own split and the template above.

    The end-of-sequence token is <|im_end|> and the padding token <|endoftext|>, as in Qwen2.5-Instruct.
    """
    from tokenizers import models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    special: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    trained = Qwen2Tokenizer(**special).backend_tokenizer
    trained.model = models.BPE()
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    state = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(merge) for merge in state["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=merges,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **special,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(recipe: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """A randomly initialised Qwen2ForCausalLM in float32 with tied embeddings. Seed before calling."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    ids = tokenizer.get_vocab()
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe["hidden"],
            intermediate_size=recipe["ffn"],
            num_hidden_layers=recipe["layers"],
            num_attention_heads=recipe["heads"],
            num_key_value_heads=recipe["kv_heads"],
            max_position_embeddings=recipe["context"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=pad,
            eos_token_id=end,
            pad_token_id=pad,
            dtype="float32",
        )
    )
    model.generation_config = GenerationConfig(bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad)
    return model


def length_batches(lengths: Sequence[int], batch: int, draw: random.Random) -> list[list[int]]:
    """Every row index once, in random batches of `batch` rows of similar length (the last one may be smaller)."""
    order = list(range(len(lengths)))
    draw.shuffle(order)
    bucket = batch * BATCHES_PER_BUCKET
    order = [
        row
        for start in range(0, len(order), bucket)
        for row in sorted(order[start : start + bucket], key=lambda row: lengths[row])
    ]
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    draw.shuffle(batches)
    return batches


def encode(
    chats: list[list[dict[str, str]]], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> list[tuple[list[int], list[bool]]]:
    """(input ids, is it the assistant's) of each chat, cut to max_length; the assistant's end with "<|im_end|>\\n"."""
    texts = [text_of(tokenizer, chat) for chat in chats]
    encoded = tokenizer(texts, return_offsets_mapping=True, truncation=True, max_length=max_length)
    rows = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        turns = [match.span(1) for match in ASSISTANT_TURN.finditer(text)]
        rows.append((ids, [any(first <= start < last for first, last in turns) for start, _ in offsets]))
    return rows


def pad_batch(
    rows: Sequence[tuple[list[int], list[bool]]], filler: int, prompts: bool
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """(input ids, labels), both (rows, longest), padded on the right.

    Labels are -100 where padded and, unless `prompts`, outside the assistant's turns.
    No attention mask is needed: with causal attention nothing looks to the right.
    """
    import torch

    longest = max(len(ids) for ids, _ in rows)
    inputs = [[*ids, *[filler] * (longest - len(ids))] for ids, _ in rows]
    labels = [
        [token if prompts or own else -100 for token, own in zip(ids, reply, strict=True)]
        + [-100] * (longest - len(ids))
        for ids, reply in rows
    ]
    return torch.tensor(inputs), torch.tensor(labels)


def pretrain(
    rows: Sequence[tuple[list[int], list[bool]]],
    model: "PreTrainedModel",
    recipe: dict[str, Any],
    seed: int,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Train the model in place on (ids, is it the assistant's) rows; return the mean loss (nats) of the last tenth.

    AdamW .9/.95, cosine to zero after a linear warm-up (`warmup` is a share of the steps), gradients clipped.
    The first `prompt_share` of the steps learn every token, the later ones only the assistant's: the model learns
    to take up the subject of a question sooner from all tokens.
    """
    import torch
    from transformers import get_scheduler

    draw = random.Random(f"batches/{seed}")
    lengths = [len(ids) for ids, _ in rows]
    batches = [batch for _ in range(recipe["epochs"]) for batch in length_batches(lengths, recipe["batch"], draw)]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe["lr"], betas=(0.9, 0.95), weight_decay=recipe["weight_decay"], fused=True
    )
    warmup = round(recipe["warmup"] * len(batches))
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=len(batches))
    model.train()
    losses: list[float] = []
    for step, batch in enumerate(batches, 1):
        prompts = step <= recipe["prompt_share"] * len(batches)
        inputs, labels = pad_batch([rows[index] for index in batch], model.config.pad_token_id, prompts)
        loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        report(step, len(batches), losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    if not math.isfinite(mean := sum(last) / len(last)):
        raise InputError(f"--recipe: the last losses are {mean}; fix: lower lr, or raise max_length")
    return mean


def render(rows: Sequence[dict[str, Any]], corpus: str | Path) -> list[list[dict[str, str]]]:
    """The messages of each row. Raises InputError naming the line if they are no chat that ends with the assistant."""
    chats = []
    for number, row in enumerate(rows, 1):
        chat = row.get("messages")
        if (
            not isinstance(chat, list)
            or not chat
            or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in chat)
            or any(m.get("role") not in ("system", "user", "assistant") for m in chat)
            or chat[-1]["role"] != "assistant"
        ):
            raise InputError(
                f"{corpus}: line {number}: no chat that ends with the assistant; "
                'fix: {"messages": [{"role": "user", "content": ".."}, {"role": "assistant", "content": ".."}]}'
            )
        chats.append(chat)
    if not chats:
        raise InputError(f"{corpus}: line 1: the file is empty; fix: make it with make_toy_data.py")
    return chats


def show_progress(step: int, steps: int, loss: float) -> None:
    """A line every twentieth of the way."""
    if step % max(1, steps // 20) == 0 or step == steps:
        print(f"step {step}/{steps} loss {loss:.3f}", flush=True)
