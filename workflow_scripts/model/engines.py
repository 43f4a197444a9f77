"""Engines: complete chat prompts and score answer labels with a merged model, by `transformers` or `vllm`.

Both are used the same way and see the same prompt token ids, stop tokens and seeds:

    with open_engine("transformers", base, adapters, dtype="bfloat16") as engine:
        completions = engine.complete(requests, sampling)
        scores = engine.label_logprobs(prompts, label_ids)

A request carries its own seed, so a completion depends on the model, the prompt and that seed, and not on what
else is asked, up to rounding: other batches add the same numbers in another order.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from model.loading import context_length, load_config, load_model
from model.template import closing
from model.vllm_loader import LOAD_FORMAT, register_loader
from run.caches import keep_compiled
from run.program import InputError
from run.readers import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BACKENDS = ("transformers", "vllm")
DTYPES = ("float32", "bfloat16")
# Rows decoded at once: on one CPU thread more rows gain nothing; on an H200 1,024 gave 2.5x the tokens/s of 64.
DEFAULT_SEQUENCES = {"transformers": 128, "vllm": 1024}


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p in (0, 1]; max_tokens counts the end-of-turn token."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Request:
    """One completion to draw. prompt: token ids. seed: None leaves it to the engine's (vllm only).

    group: requests of different groups never share a batch of the transformers backend, so that there not even
    the rounding of one group's numbers depends on whether another group is asked.
    """

    prompt: tuple[int, ...]
    seed: int | None
    group: str = ""


@dataclass(frozen=True)
class Completion:
    """token_ids: all that were generated, the end-of-turn token included (as vLLM counts them).

    text: decoded without special tokens. finish_reason: "stop" (end of turn) or "length" (max_tokens reached).
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


class Engine(Protocol):
    """What both backends offer."""

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in the order of the requests."""

    def label_logprobs(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probabilities of the next token after each prompt, for its label token ids, over the whole
        vocabulary (they need not sum to 1), at temperature 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command-line options of a program that asks a model: which model, how to run it, how to sample."""
    add = parser.add_argument
    add("--base", required=True, help="folder of the base chat model")
    add("--adapter", nargs="*", action="extend", default=[], help="the lineage's adapters, first to last")
    add("--seed", type=int, required=True, help="the node's seed; requests get seeds of their own from it")
    add("--sampling", required=True, help='{"temperature":1.0,"top_p":1.0,"max_tokens":512}')
    add("--backend", choices=BACKENDS, required=True)
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--max-sequences", type=int, help="rows decoded at once: speed and memory, not results")
    add("--seeding", choices=("request", "engine"), default="request", help="engine: one seed for all rows (vllm)")
    add("--gpu-memory-utilization", type=float, default=0.9, help="share of the card that vLLM takes")
    add("--kv-cache-gib", type=float, help="[GiB] of vLLM's key-value cache, instead of what it measures to be free")
    add("--enforce-eager", action="store_true", help="vLLM without compilation and CUDA graphs: starts faster")
    add("--record", help="run.json to write: host, seconds, tokens/s, versions")


def read_sampling(text: str) -> Sampling:
    """Sampling from its JSON, for example {"temperature":0.7,"top_p":0.95,"max_tokens":512}. Raises InputError."""
    example = '{"temperature":1.0,"top_p":1.0,"max_tokens":512}'
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--sampling: not JSON ({error.msg}); fix: for example '{example}'") from None
    if not isinstance(value, dict) or set(value) != {"temperature", "top_p", "max_tokens"}:
        raise InputError(f"--sampling: needs exactly temperature, top_p and max_tokens; fix: for example '{example}'")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InputError(f"--sampling: {name} is {number!r}, not a number; fix: for example '{example}'")
    if not 0 <= value["temperature"] <= 100:
        raise InputError(f"--sampling: temperature is {value['temperature']}; fix: 0 (greedy) to 100")
    if not 0 < value["top_p"] <= 1:
        raise InputError(f"--sampling: top_p is {value['top_p']}; fix: above 0, at most 1")
    if not isinstance(value["max_tokens"], int) or value["max_tokens"] < 1:
        raise InputError(f"--sampling: max_tokens is {value['max_tokens']}; fix: a whole number, 1 or more")
    return Sampling(float(value["temperature"]), float(value["top_p"]), value["max_tokens"])


def request_seed(seed: int, persona: str, question_id: str, sample: int) -> int:
    """A seed in [0, 2**63) from what a completion is, not from where it stands in a batch or a list."""
    text = "\x00".join([str(seed), persona, question_id, str(sample)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def single_token(tokenizer: "PreTrainedTokenizerBase", label: str) -> int:
    """The id of an answer label. Raises InputError if it is not one token: then its probability is not either."""
    ids = tokenizer(label, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"answer label {label!r} is {len(ids)} tokens; fix: label the choices A, B, C or 1, 2, 3")
    return ids[0]


def stop_ids(base: str | Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token ids that end a reply: what its chat template ends a turn in, which training trains; the tokenizer's end
    token; and those of generation_config.json, if it exists. A base model's own may be another than its template's.

    Nothing else of that file is used (Qwen's repetition penalty and top_k): sampling is what the config says.
    Raises InputError if the template ends turns in no special token.
    """
    file = Path(base) / "generation_config.json"
    configured = read_json(file, dict).get("eos_token_id") if file.is_file() else None
    listed = configured if isinstance(configured, list) else [configured]
    if not all(token is None or isinstance(token, int) for token in listed):
        raise InputError(f"{file}: eos_token_id is {configured!r}, no token ids; fix: fetch the model again")
    try:
        end = closing(tokenizer).token
    except InputError as error:
        raise InputError(f"{base}: {error}") from None
    return sorted({end, tokenizer.eos_token_id, *listed} - {None})


def engine_of(
    args: argparse.Namespace, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> contextlib.AbstractContextManager[Engine]:
    """open_engine with the options of add_arguments. Raises InputError for options that do not go together."""
    if args.seeding == "engine" and args.backend != "vllm":
        raise InputError("--seeding engine: only vllm has a seed for all rows; fix: --seeding request")
    return open_engine(
        args.backend,
        args.base,
        args.adapter,
        tokenizer,
        args.dtype,
        seed=args.seed,
        max_sequences=args.max_sequences,
        max_length=max_length,
        gpu_memory_utilization=args.gpu_memory_utilization,
        kv_cache_gib=args.kv_cache_gib,
        enforce_eager=args.enforce_eager,
    )


def inspect_here(config: "PretrainedConfig") -> None:
    """Let vLLM look at the model's class in this process: at a node's first start it would import all anew for it, in
    a process of its own (22 of 79 s on an H200, vLLM 0.26), lest CUDA start in a process that is to be forked.
    """
    from vllm.model_executor.models import ModelRegistry

    for name in config.architectures or ():
        if known := ModelRegistry.models.get(name):
            ModelRegistry.register_model(name, known.load_model_cls())


@contextlib.contextmanager
def open_engine(
    backend: str,
    base: str | Path,
    adapters: Sequence[str | Path],
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str = "float32",
    *,
    seed: int = 0,
    max_sequences: int | None = None,
    max_length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    kv_cache_gib: float | None = None,
    enforce_eager: bool = False,
) -> Iterator[Engine]:
    """The model of a lineage, ready to be asked; released at the end of the block.

    max_sequences: rows decoded at once (None: DEFAULT_SEQUENCES). max_length: prompt plus completion in tokens, the
    longest that will be asked. seed, gpu_memory_utilization, kv_cache_gib and enforce_eager are vLLM's; seed matters
    only for requests without their own. Raises InputError if a folder is damaged or the backend is not installed.
    """
    rows = max_sequences or DEFAULT_SEQUENCES[backend]
    stops = stop_ids(base, tokenizer)
    if backend == "transformers":
        yield TransformersEngine(load_model(base, adapters, dtype), tokenizer, stops, rows)
        return
    # In one process the GPU is freed when this process ends, however it ends.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # FlashInfer's sampler is compiled at the first start, with whatever CUDA compiler is there. Requests with seeds
    # of their own never use it, and what was measured was measured without it.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # How much memory a start leaves for the cache is kept beside the compiled code, and not measured again.
    os.environ.setdefault("VLLM_ENABLE_STARTUP_PLAN", "1")
    keep_compiled(base)
    remedy = "fix: use the environment of envs/gpu.txt on a machine with a GPU, or `backend: transformers`"
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise InputError(f"backend vllm: vLLM cannot be imported ({error}); {remedy}") from None
    if not current_platform.device_type:
        raise InputError(f"backend vllm: vLLM finds no GPU; {remedy}")
    register_loader(base, adapters, tokenizer, dtype)
    config = load_config(base)
    inspect_here(config)
    gc.freeze()  # vLLM collects garbage a dozen times while it starts, and half a million imported objects are none
    llm = LLM(
        # vLLM finds its compiled code again (30 s) by a hash of its settings, with the model's path and the longest
        # sequence among them: so all lineages of a base name the base's folder, and the length is a round number.
        model=str(base),
        load_format=LOAD_FORMAT,
        max_model_len=rounded(max_length, context_length(base, config)),
        generation_config="vllm",
        dtype=dtype,
        seed=seed,
        max_num_seqs=rows,
        compilation_config={"cudagraph_capture_sizes": graph_sizes(rows)},
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_memory_bytes=round(kv_cache_gib * 2**30) if kv_cache_gib else None,
        enforce_eager=enforce_eager,
        disable_log_stats=True,
    )
    try:
        yield VllmEngine(llm, tokenizer, stops)
    finally:
        llm.llm_engine.engine_core.shutdown()


class TransformersEngine:
    """CPU or GPU, no compilation: a decoding loop of our own on a transformers model and its key-value cache.

    generate() is not used because it keeps finished rows to the end, prefills every sample of a prompt again,
    draws all rows from one generator, and takes repetition penalties from the model folder.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int], max_sequences: int
    ) -> None:
        self.model, self.tokenizer, self.stops, self.max_sequences = model, tokenizer, set(stops), max_sequences
        # never seen by the model, so any token will do
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.stops)

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine. Raises ValueError for a request without a seed."""
        from tqdm import tqdm

        completions: dict[int, Completion] = {}
        with tqdm(total=len(requests), unit="completion", disable=None) as progress:
            for rows in batches(requests, self.max_sequences):
                for row, tokens in zip(rows, self._decode([requests[row] for row in rows], sampling), strict=True):
                    completions[row] = finished(self.tokenizer, tokens, self.stops)
                progress.update(len(rows))
        return [completions[row] for row in range(len(requests))]

    def label_logprobs(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> list[list[float]]:
        """See Engine."""
        import torch

        scores: dict[int, list[float]] = {}
        for rows in batches([Request(tuple(prompt), None) for prompt in prompts], self.max_sequences):
            with torch.inference_mode():
                logits, *_ = self._prefill([tuple(prompts[row]) for row in rows])
                logprobs = logits.log_softmax(-1)
            for row, line in zip(rows, logprobs, strict=True):
                scores[row] = line[list(labels[row])].tolist()
        return [scores[row] for row in range(len(prompts))]

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple["torch.Tensor", "torch.Tensor", Any]:
        """Next-token logits (rows, vocabulary) in float32, the attention mask (rows, longest) and the cache."""
        import torch
        from transformers import DynamicCache

        longest = max(map(len, prompts))
        ids = [[self.pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        input_ids, attention_mask = (torch.tensor(rows, device=self.model.device) for rows in (ids, mask))
        cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float(), attention_mask, cache

    def _decode(self, requests: Sequence[Request], sampling: Sampling) -> list[list[int]]:
        """The token ids of one batch. A row that has ended leaves the batch."""
        import torch

        device = self.model.device
        draw = token_drawer(sampling)
        uniforms = torch.stack([uniform_numbers(request.seed, sampling.max_tokens) for request in requests]).to(device)
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        tokens: list[list[int]] = [[] for _ in requests]
        alive = list(range(len(requests)))
        with torch.inference_mode():
            logits, mask, cache = self._prefill(prompts)
            index = {prompt: place for place, prompt in enumerate(prompts)}
            keep = torch.tensor([index[request.prompt] for request in requests], device=device)
            logits, mask, position = logits[keep], mask[keep], mask.sum(-1)[keep]
            cache.batch_select_indices(keep)
            for step in range(sampling.max_tokens):
                drawn = draw(logits, uniforms[:, step])
                values = drawn.tolist()
                for row, token in zip(alive, values, strict=True):
                    tokens[row].append(token)
                going = [place for place, token in enumerate(values) if token not in self.stops]
                if not going or step + 1 == sampling.max_tokens:
                    break
                if len(going) < len(alive):
                    keep = torch.tensor(going, device=device)
                    alive = [alive[place] for place in going]
                    drawn, mask, position, uniforms = drawn[keep], mask[keep], position[keep], uniforms[keep]
                    cache.batch_select_indices(keep)
                mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
                output = self.model(
                    input_ids=drawn[:, None],
                    attention_mask=mask,
                    position_ids=position[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
                logits, position = output.logits[:, -1].float(), position + 1
        return tokens


class VllmEngine:
    """vLLM in this process. It schedules the rows itself and shares the key-value blocks of common prefixes.

    Seeds a request cost speed in vLLM's older model runner, which then draws its random numbers row by row.
    """

    def __init__(self, llm: Any, tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int]) -> None:
        self.llm, self.tokenizer, self.stops = llm, tokenizer, set(stops)

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=request.seed,
                stop_token_ids=sorted(self.stops),
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._generate([request.prompt for request in requests], params)
        return [finished(self.tokenizer, list(output.token_ids), self.stops) for output in outputs]

    def label_logprobs(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> list[list[float]]:
        """See Engine."""
        from vllm import SamplingParams

        # logprob_token_ids reads the raw log-softmax of exactly these ids: top-k would miss an unlikely label.
        params = [
            SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(ids), detokenize=False)
            for ids in labels
        ]
        outputs = self._generate(prompts, params)
        return [
            [float(output.logprobs[0][label].logprob) for label in ids]
            for output, ids in zip(outputs, labels, strict=True)
        ]

    def _generate(self, prompts: Sequence[Sequence[int]], params: list[Any]) -> list[Any]:
        """One output a prompt, in order; vLLM itself keeps the order."""
        tokens = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self.llm.generate(tokens, params, use_tqdm=os.isatty(2))
        return [output.outputs[0] for output in outputs]


def finished(tokenizer: "PreTrainedTokenizerBase", tokens: list[int], stops: set[int]) -> Completion:
    """The completion these token ids make."""
    text: Any = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Completion(tuple(tokens), text, "stop" if tokens[-1] in stops else "length")


def batches(requests: Sequence[Request], size: int) -> list[list[int]]:
    """Every request's index once, in batches of one group, shortest prompts first, equal prompts side by side."""
    groups: dict[str, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(request.group, []).append(row)
    ordered = [
        sorted(rows, key=lambda row: (len(requests[row].prompt), requests[row].prompt)) for rows in groups.values()
    ]
    return [rows[start : start + size] for rows in ordered for start in range(0, len(rows), size)]


def uniform_numbers(seed: int | None, count: int) -> "torch.Tensor":
    """`count` float64 numbers in [0, 1) that depend on the seed alone (drawn on the CPU for every device)."""
    import torch

    if seed is None:
        raise ValueError("a request without a seed; fix: --seeding engine works with the vllm backend only")
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def token_drawer(sampling: Sampling) -> Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]:
    """A function from logits (rows, vocabulary) and one uniform number per row to token ids (rows,).

    Exact sampling by inversion: the token is the one in whose stretch of the cumulative distribution the number
    falls. It needs one number per token, so a row's numbers do not depend on its neighbours or on the device.
    """
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return lambda logits, uniform: logits.argmax(-1)
    warpers: Any = LogitsProcessorList()
    if sampling.temperature != 1:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))

    def draw(logits: "torch.Tensor", uniform: "torch.Tensor") -> "torch.Tensor":
        cumulative = warpers(None, logits).softmax(-1, dtype=torch.float64).cumsum(-1)
        # right=True steps over tokens of probability zero
        drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return drawn[:, 0].clamp(max=logits.shape[-1] - 1)

    return draw


def graph_sizes(rows: int) -> list[int]:
    """The numbers of rows that vLLM captures a CUDA graph for; a step runs padded to the next of them.

    By itself vLLM captures 51, up to 512 rows. These 12 up to 1,024 start 5 s sooner than as many as it would take to
    1,024 by its own steps and decode as fast to 1 %; the last ones save a seventh of the time (benchmarks/README.md).
    """
    return sorted({1, 8, 32, 64, *range(128, rows, 128), rows} & set(range(1, rows + 1)))


def rounded(length: int | None, context: int) -> int:
    """`length` rounded up to whole 1,024 tokens, at most the model's context (None: all of it)."""
    return min(context, context if length is None else -(-length // 1024) * 1024)
