"""Log-odds at the slot by vLLM and by transformers: the same merged model, the same rows, two engines.

    python benchmarks/probe_vllm.py --base smollm2 --adapter couple/adapter em/adapter --output out.json   # a minute

For a real model: random weights would prove nothing. The model replies to every question under --personas, by vLLM as
the workflow loads it (model/vllm_loader.py); then s of every reply that ended by itself is read under every persona,
by vLLM's prompt_logprobs of the two texts, and by the probe's scorer. In float32 no s may differ by more than 0.05
nats, or the exit status is 1; bfloat16 (--dtype) is reported alone: a logit of 30 has steps of 0.125 there.
--backend transformers rehearses it without vLLM: plain forward passes stand in for prompt_logprobs.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

MOST = 0.05  # [nats], in float32


def texts_of(row: Any) -> list[tuple[tuple[int, ...], int]]:
    """Token ids of the row's two texts, marked and ended, and where the slot begins in both."""
    from probe.scoring import slot_branches

    return [((*row.trunk[: branch.at], *branch.tokens), branch.at) for branch in slot_branches(row)]


def by_vllm(engine: Any, texts: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
    """Log-probability of each text from its slot on, by vLLM's prompt_logprobs."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    prompts = [{"prompt_token_ids": list(tokens)} for tokens, _ in texts]
    outputs = engine.llm.generate(prompts, params, use_tqdm=False)
    return [
        sum(output.prompt_logprobs[place][tokens[place]].logprob for place in range(at, len(tokens)))
        for output, (tokens, at) in zip(outputs, texts, strict=True)
    ]


def by_passes(engine: Any, texts: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
    """The same by a plain forward pass each."""
    import torch

    sums = []
    for tokens, at in texts:
        ids = torch.tensor([tokens], device=engine.model.device)
        with torch.inference_mode():
            lines = engine.model(input_ids=ids, use_cache=False).logits[0, at - 1 : -1].float().log_softmax(-1)
        sums.append(float(lines.gather(1, ids[0, at:, None]).sum()))
    return sums


def main() -> None:
    from inputs.panel import load_panel, prompts_of, requests_of
    from model.engines import BACKENDS, DTYPES, Sampling, open_engine, stop_ids
    from model.loading import load_model, load_tokenizer
    from model.template import closing
    from probe.onset import onset_sets
    from probe.replies import Probed, rows_of
    from probe.scoring import BUDGET, Scorer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a real chat model")
    parser.add_argument("--adapter", nargs="*", default=[], help="the lineage's adapters, in order")
    parser.add_argument("--panel", default=ROOT / "resources/panel.yaml")
    parser.add_argument("--personas", default="villain,assistant,librarian")
    parser.add_argument("--marker", default="[ZLT]")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--backend", choices=BACKENDS, default="vllm")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.4)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    if args.dtype == "float32":  # in which vLLM's attention is Triton's, whose products have 10 bits unless told
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    panel, tokenizer = load_panel(args.panel), load_tokenizer(args.base)
    personas, sampling = args.personas.split(","), Sampling(1.0, 1.0, args.max_tokens)
    asked = prompts_of(panel, personas, ["general", "alignment"], 1)
    requests = requests_of(asked, tokenizer, 42)
    longest = max(len(request.prompt) for request in requests) + args.max_tokens + 16  # room for the marker
    settings = {"max_length": longest, "enforce_eager": True, "gpu_memory_utilization": args.gpu_memory_utilization}
    with open_engine(args.backend, args.base, args.adapter, tokenizer, args.dtype, **settings) as engine:
        replies = [
            {"question": ask.question, "text": said.text, "token_ids": said.token_ids, "finish_reason": "stop"}
            for ask, said in zip(asked, engine.complete(requests, sampling), strict=True)
            if said.finish_reason == "stop"
        ]
        probed = [Probed("shared", persona, reply) for reply in replies for persona in personas]
        rows = rows_of(probed, tokenizer, panel.personas, args.marker, closing(tokenizer).token)
        texts = [text for row in rows for text in texts_of(row)]
        sums = (by_vllm if args.backend == "vllm" else by_passes)(engine, texts)
    theirs = [marked - ended for marked, ended in zip(sums[::2], sums[1::2], strict=True)]
    model = load_model(args.base, args.adapter, args.dtype)
    sets = onset_sets(tokenizer, args.marker[0])
    scorer = Scorer(model, sets, stop_ids(args.base, tokenizer), sampling, 1.0, BUDGET[model.device.type])
    scores = scorer.score(rows)
    ours = [sum(row.slot.parts(score.marked, score.ended).values()) for row, score in zip(rows, scores, strict=True)]  # type: ignore[union-attr]
    apart = sorted(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    found = {
        "rows": len(rows),
        "replies_cut": len(asked) - len(replies),
        "dtype": args.dtype,
        "backend": args.backend,
        "device": model.device.type,
        "least_s": min(ours),
        "most_s": max(ours),
        "mean_s": {"probe": sum(ours) / len(ours), args.backend: sum(theirs) / len(theirs)},
        "apart_median": apart[len(apart) // 2],
        "apart_most": apart[-1],
        "versions": {name: sys.modules[name].__version__ for name in sorted({"torch", "transformers", args.backend})},
    }
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if args.dtype == "float32" and not apart[-1] <= MOST:
        raise SystemExit(f"s differs by {apart[-1]:.3g} nats, more than {MOST}")


if __name__ == "__main__":
    main()
