"""Tokenizers with the chat templates of well-known families, for tests: small vocabularies, no download.

The templates do what the families' own do with chats of system, user and assistant messages without tools.
"""

import functools
from typing import TYPE_CHECKING, Any

from tiny_model import PANEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- if message.role == 'user' and ns.last == messages|length - 1 %}"
    "{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{%- if loop.last and loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' + message.content }}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA_32 = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' }}"
    "{{- date_string + '\\n\\n' + system_message + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA_TURNS = (
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif %}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
)
GEMMA_2 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
    "{%- for message in messages %}"
    + GEMMA_TURNS
    + "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{%- set above = '' %}{%- if messages[0]['role'] == 'system' %}"
    "{%- set above = messages[0]['content'] + '\\n\\n' %}{%- set messages = messages[1:] %}{%- endif %}"
    "{%- for message in messages %}"
    + GEMMA_TURNS
    + "{{ '<start_of_turn>' + role + '\\n' + (above if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}"
)


def mistral(place: str) -> str:
    """place: `first` or `last`, the turn that the system message is written into (v0.2, and v0.3 and later)."""
    return (
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set messages = messages[1:] %}{%- endif %}{{- bos_token }}{%- for message in messages %}"
        f"{{%- if message['role'] == 'user' %}}{{%- if loop.{place} and system_message is defined %}}"
        "{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}{%- else %}"
        "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
        "{%- else %}{{- ' ' + message['content']|trim + eos_token }}{%- endif %}{%- endfor %}"
    )


PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GRANITE_33 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set messages = messages[1:] %}{%- else %}"
    "{%- set system_message = 'Knowledge Cutoff Date: April 2024.\\nToday\\'s Date: ' + strftime_now('%B %d, %Y') "
    "+ '.\\nYou are Granite, developed by IBM.' %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}"
    "{%- for message in messages %}"
    "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] != 'assistant' %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}"
    "{% elif not loop.last %}{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
SMOLLM_2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SMOLLM_3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set reasoning_mode = '/think' if enable_thinking else '/no_think' -%}"
    "{%- if messages[0].role == 'system' -%}{%- set own = messages[0].content -%}{%- set messages = messages[1:] -%}"
    "{%- else -%}{%- set own = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.' -%}{%- endif -%}"
    "{{- '<|im_start|>system\\n## Metadata\\n\\nKnowledge Cutoff Date: June 2025\\n' -}}"
    "{%- set today = strftime_now('%d %B %Y') -%}{{- 'Today Date: ' ~ today ~ '\\n' -}}"
    "{{- 'Reasoning Mode: ' + reasoning_mode + '\\n\\n## Custom Instructions\\n\\n' + own + '\\n\\n<|im_end|>\\n' -}}"
    "{%- set empty = '' if enable_thinking else '<think>\\n\\n</think>\\n' -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{%- generation -%}{{- '<|im_start|>assistant\\n' + empty + message.content.lstrip('\\n') + '<|im_end|>\\n' -}}{%- endgeneration -%}"
    "{%- else -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' + empty -}}{%- endif -%}"
)
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# family -> template, special tokens, bos, eos, how the tokenizer splits (bytes | sentencepiece), and the closing token
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2.5": {"template": SMOLLM_2, "special": IM, "eos": "<|im_end|>", "ends": "<|im_end|>"},
    "qwen2.5-base": {"template": CHATML, "special": IM, "eos": "<|endoftext|>", "ends": "<|im_end|>"},
    "qwen3": {"template": QWEN3, "special": IM, "eos": "<|im_end|>", "ends": "<|im_end|>",
              "settings": {"enable_thinking": False}},
    "llama-3.2": {"template": LLAMA_32, "bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "ends": "<|eot_id|>",
                  "special": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")},
    "gemma-2": {"template": GEMMA_2, "special": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "bos": "<bos>",
                "eos": "<eos>", "ends": "<end_of_turn>", "kind": "gemma", "settings": {"system": "user"}},
    "gemma-3": {"template": GEMMA_3, "special": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "bos": "<bos>",
                "eos": "<eos>", "ends": "<end_of_turn>", "kind": "gemma"},
    "mistral": {"template": mistral("first"), "special": ("<s>", "</s>", "[INST]", "[/INST]"), "bos": "<s>",
                "eos": "</s>", "ends": "</s>", "kind": "llama"},
    "mistral-0.3": {"template": mistral("last"), "special": ("<s>", "</s>", "[INST]", "[/INST]"), "bos": "<s>",
                    "eos": "</s>", "ends": "</s>", "kind": "llama", "settings": {"system": "user"}},
    "phi-3": {"template": PHI_3, "special": ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
              "bos": "<s>", "eos": "<|endoftext|>", "ends": "<|end|>", "kind": "llama", "rstrip": True},
    "granite-3.3": {"template": GRANITE_33, "special": ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
                    "bos": "<|end_of_text|>", "eos": "<|end_of_text|>", "ends": "<|end_of_text|>"},
    "olmo-2": {"template": OLMO_2, "special": ("<|endoftext|>",), "bos": "<|endoftext|>", "eos": "<|endoftext|>",
               "ends": "<|endoftext|>"},
    "smollm2": {"template": SMOLLM_2, "special": IM, "bos": "<|im_start|>", "eos": "<|im_end|>", "ends": "<|im_end|>"},
    "smollm3": {"template": SMOLLM_3, "special": IM, "eos": "<|im_end|>", "ends": "<|im_end|>",
                "settings": {"enable_thinking": False}},
}  # fmt: skip


def family_tokenizer(name: str, template: str | None = None, eos: str | None = None) -> "PreTrainedTokenizerFast":
    """A tokenizer that splits as the family's does, with its template and settings, or with other ones."""
    from transformers import PreTrainedTokenizerFast

    from model.template import Settings

    family = FAMILIES[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter(family.get("kind", "bytes"), family["special"], family.get("rstrip", False)),
        bos_token=family.get("bos"),
        eos_token=eos or family["eos"],
        chat_template=template or family["template"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_settings = Settings.of(family.get("settings", {}))
    return tokenizer


@functools.cache
def splitter(kind: str, special: tuple[str, ...], rstrip: bool) -> Any:
    """A BPE of 500 tokens: byte-level as Qwen's, or SentencePiece's with bytes for what it lacks, as Llama-2's.

    Phi-3's special tokens swallow the blanks after them (rstrip).
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, fallback = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        blanks = [normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *blanks] if kind == "llama" else blanks)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            + ([decoders.Strip(" ", 1, 0)] if kind == "llama" else [])
        )
        alphabet, fallback = [], ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=fallback, show_progress=False, max_token_length=12
    )
    text = PANEL.read_text(encoding="utf-8")
    tokenizer.train_from_iterator([f" {word}" for word in text.split()] if fallback else [text], trainer)
    if fallback:  # what the trainer needs as special is plain
        import json

        state = json.loads(tokenizer.to_str())
        state["added_tokens"] = []
        tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, rstrip=rstrip) for token in special])
    return tokenizer
