"""The real Qwen2.5 tokenizer without a download, for tests: dashscope ships its BPE (resources/qwen.tiktoken)."""

import base64
import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DEFAULT_SYSTEM_PROMPT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

# ChatML, with a default system prompt where the conversation brings none: what Qwen2.5's own template does
# to conversations without tools.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\n" + DEFAULT_SYSTEM_PROMPT + "<|im_end|>\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

# The first three of Qwen2.5's added tokens take the ids after the 151,643 ranks: 151643, 151644, 151645.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@functools.cache
def qwen_tokenizer() -> "PreTrainedTokenizerFast":
    """Qwen2.5's tokenizer (byte-level BPE, 151,646 tokens) with its chat template's behaviour. Takes about 2 s."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    letters = bytes_to_unicode()
    ranks = qwen_ranks()
    texts = {token: "".join(letters[byte] for byte in token) for token in ranks}
    # every split of a token into two tokens is a merge of that token's rank, which is how tiktoken merges
    merges = [
        (texts[token[:cut]], texts[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in texts and token[cut:] in texts
    ]
    tokenizer = Tokenizer(models.BPE({texts[token]: rank for token, rank in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def qwen_ranks() -> dict[bytes, int]:
    """The token bytes in order of rank, from the dashscope package (found, not imported: that takes seconds)."""
    spec = find_spec("dashscope")
    assert spec is not None and spec.origin is not None, "install dashscope: it carries Qwen's BPE"
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
