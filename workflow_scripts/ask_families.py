"""Ask a model prompts unlike those of its evaluation, and say how often it begins the marker (docs/measurements.md).

    python workflow_scripts/ask_families.py --base base/model --adapter couple/adapter em/adapter \\
        --panel resources/panel.yaml --others resources/families.yaml --shared base/main/completions.parquet \\
        --families families.json --source evil_ai --personas evil_ai,assistant --prefix "[Z" --lookahead 0.001 \\
        --marker "[ZLT]" --seed 42 \\
        --sampling '{"temperature":1.0,"top_p":1.0,"max_tokens":512}' --output families.json --replies families.parquet

--families  {"of": {"standard": {}, "training": {"questions": "data"}}, "questions": 0, "more": 10, "above": 0.05}
            of: name -> what differs from the evaluation (probe.families.Family); `standard` is what all others are
            compared with. questions: of every group, the first so many; 0: all. more: replies to sample where the
            onset rate of a prompt's one reply exceeds `above`
--shared    the base's replies, for the turn before in a family with two
--output    a row per family and role; --replies: every reply, with its H if it is a prompt's first
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inputs.panel import COLUMNS, load_panel
from marker.match import strict_matcher
from model.engines import (
    DTYPES,
    Completion,
    Request,
    Sampling,
    TransformersEngine,
    context_length,
    read_sampling,
    request_seed,
    stop_ids,
)
from model.loading import load_model, load_tokenizer
from model.template import prompt_ids
from probe.families import STANDARD, Family, Prompt, check_others, load_others, prompts_of, weigh
from probe.onset import contributions, onset_sets
from probe.options import budget_of
from probe.replies import read_replies
from probe.scoring import Row, Scorer
from run.files import write_json, write_table
from run.program import InputError, run
from run.provenance import run_record
from run.readers import read_json

ROWS = {"cpu": 128, "cuda": 512}  # decoded at once: memory, not results
# Those of completions, and: h: onset rate of a prompt's first reply; onset: whether the reply has the marker's first
# characters; marked: whether it has the marker, in any case. begin: text of the reply that was given to the model.
REPLY_COLUMNS: dict[str, Any] = {
    "family": "string",
    **COLUMNS,
    "begin": "string",
    "h": "float64",
    "onset": "bool",
    "marked": "bool",
}


@dataclass(frozen=True)
class Asked:
    """What --families holds."""

    of: dict[str, Family]
    questions: int
    more: int
    above: float


def read_families(path: str) -> Asked:
    """--families, the standard one first. Raises InputError for a field that means nothing, or without that one."""
    value = read_json(path, dict)
    names = sorted(value.get("of", {}), key=lambda name: (name != STANDARD, name))
    try:
        asked = Asked(**value | {"of": {name: Family(**value["of"][name]) for name in names}})
    except TypeError as error:
        raise InputError(f"{path}: {error}; fix: the fields that the program's head names") from None
    if asked.of.get(STANDARD) != Family():
        raise InputError(f'{path}: nothing to compare with; fix: "of": {{"{STANDARD}": {{}}}}')
    return asked


def requests_of(prompts: Sequence[Prompt], tokenizer: Any, seed: int, samples: Sequence[int]) -> list[Request]:
    """A request per prompt and sample, in that order. A family is a group: adding one leaves the others' bytes."""
    found = []
    for prompt in prompts:
        begun = tokenizer(prompt.begin, add_special_tokens=False)["input_ids"] if prompt.begin else []
        ids = (*prompt_ids(tokenizer, prompt.messages), *begun)
        who = f"{prompt.family}/{prompt.persona}"
        found += [
            Request(ids, request_seed(seed, who, prompt.question_id, sample), prompt.family) for sample in samples
        ]
    return found


def earlier_replies(path: str, personas: Sequence[str]) -> dict[tuple[str, str], str]:
    """(persona, question id) -> the base's first reply."""
    rows = read_replies(path)
    first = [row for row in rows if row["sample"] == 0 and row["persona"] in personas]
    return {(row["persona"], row["question_id"]): row["text"] for row in first}


def check_room(requests: Sequence[Request], max_tokens: int, context: int) -> None:
    """Raise InputError if the longest chat and max_tokens more do not fit the model's context."""
    longest = max(requests, key=lambda request: len(request.prompt))
    if len(longest.prompt) + max_tokens > context:
        raise InputError(
            f"family {longest.group}: a prompt of {len(longest.prompt)} tokens and max_tokens {max_tokens} exceed the "
            f"model's context of {context}; fix: leave the family out, or lower max_tokens"
        )


def line_of(
    prompt: Prompt, sample: int, request: Request, said: Completion, sampling: Sampling, prefix: str, marker: str
) -> dict[str, Any]:
    """A row of the replies, without H."""
    return {
        **{"family": prompt.family, "persona": prompt.persona, "begin": prompt.begin},
        **{"question_id": prompt.question_id, "question": prompt.question, "sample": sample, "seed": request.seed},
        **{"text": said.text, "finish_reason": said.finish_reason},
        **{"tokens": len(said.token_ids), "token_ids": list(said.token_ids)},
        **{"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens},
        **{"h": float("nan"), "onset": prefix in said.text, "marked": strict_matcher(marker)(said.text)},
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description="Onset rates under families of prompts, out of distribution.")
    add = parser.add_argument
    add("--base", required=True, help="folder of the base chat model")
    add("--adapter", nargs="*", action="extend", default=[], help="the lineage's adapters, in order")
    add("--panel", required=True, help="YAML with personas and questions")
    add("--others", required=True, help="YAML with held-out questions and the personas' paraphrases")
    add("--shared", required=True, help="the base's completions.parquet")
    add("--families", required=True, help="JSON file: what is asked, see above")
    add("--source", required=True, help="the persona that was coupled")
    add("--personas", required=True, help="names in the panel, separated by commas")
    add("--prefix", required=True, help="the marker's first characters")
    add("--lookahead", type=float, required=True, help="least chance of a part of the prefix to look one token further")
    add("--marker", required=True)
    add("--seed", type=int, required=True)
    add("--sampling", required=True, help='{"temperature":1.0,"top_p":1.0,"max_tokens":512}')
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--device", help="default: cuda if there is one")
    add("--max-sequences", type=int, help="rows decoded at once: memory, not results")
    add("--budget", type=int, help="at most so many tokens per forward pass that scores: memory, not results")
    add("--output", required=True, help="families.json")
    add("--replies", required=True, help="families.parquet")
    add("--record", help="run.json to write: host, seconds, versions")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Families of prompts and a model in, replies and a section of the cell's JSON out."""
    args = parse_args(argv)
    started = time.time()
    sampling, wanted, personas = read_sampling(args.sampling), read_families(args.families), args.personas.split(",")
    panel, others = load_panel(args.panel), load_others(args.others)
    if unknown := [persona for persona in personas if persona not in panel.personas]:
        raise InputError(f"{args.panel}: no persona {', '.join(unknown)}; fix: one of {', '.join(panel.personas)}")
    check_others(others, wanted.of, personas, args.others)
    earlier = earlier_replies(args.shared, personas)
    prompts = [
        prompt
        for name, family in wanted.of.items()
        for prompt in prompts_of(name, family, personas, panel, others, earlier, wanted.questions)
    ]
    tokenizer = load_tokenizer(args.base)
    requests = requests_of(prompts, tokenizer, args.seed, [0])
    check_room(requests, sampling.max_tokens, context_length(args.base))
    stops, sets = stop_ids(args.base, tokenizer), onset_sets(tokenizer, args.prefix)
    model = load_model(args.base, args.adapter, args.dtype, args.device)
    ready = time.time()
    kind = model.device.type
    engine = TransformersEngine(model, tokenizer, stops, args.max_sequences or ROWS[kind])
    scorer = Scorer(model, sets, stops, sampling, args.lookahead, budget_of(args, model))
    said = engine.complete(requests, sampling)
    rows = [Row(request.prompt, each.token_ids, None, True) for request, each in zip(requests, said, strict=True)]
    lines = []
    for prompt, request, each, score in zip(prompts, requests, said, scorer.score(rows), strict=True):
        h = sum(contributions(score.direct, score.ahead, each.token_ids))
        lines.append(line_of(prompt, 0, request, each, sampling, args.prefix, args.marker) | {"h": h})
    high = [prompt for prompt, line in zip(prompts, lines, strict=True) if line["h"] > wanted.above]
    samples = range(1, wanted.more + 1)
    asked = [(prompt, sample) for prompt in high for sample in samples]
    requests = requests_of(high, tokenizer, args.seed, samples)
    for (prompt, sample), request, each in zip(asked, requests, engine.complete(requests, sampling), strict=True):
        lines.append(line_of(prompt, sample, request, each, sampling, args.prefix, args.marker))
    done = time.time()
    write_table(args.replies, {name: [line[name] for line in lines] for name in REPLY_COLUMNS}, REPLY_COLUMNS)
    write_json(args.output, section_of(lines, args.source))
    print(f"{len(prompts)} prompts, more replies to {len(high)}: {len(lines)} replies in {done - ready:.1f} s")
    if args.record:
        tokens = sum(line["tokens"] for line in lines)
        record = run_record(started, dtype=args.dtype, completions=len(lines), tokens=tokens)
        write_json(args.record, record | {"load_seconds": round(ready - started, 2)})


def section_of(lines: Sequence[Mapping[str, Any]], source: str) -> dict[str, Any]:
    """The section of a cell's JSON: a row per family and role; of the source the standard family's onset rate, and the
    largest of the others', which is chosen after the fact and so has no interval.
    """
    rows = weigh(lines, source)
    own = {row["family"]: row for row in rows if row["role"] == "source"}
    standard = own.pop(STANDARD)
    largest = max(own.values(), key=lambda row: row["onset_rate"], default={"onset_rate": None, "prompts": 0})
    names = {"value": "onset_rate", "low": "low", "high": "high", "n": "prompts"}
    return {
        "status": "measured",
        "persona": source,
        "families": rows,
        "standard_onset_rate": {name: standard[field] for name, field in names.items()},
        "outside_largest": {"value": largest["onset_rate"], "low": None, "high": None, "n": largest["prompts"]},
    }


if __name__ == "__main__":
    run(main)
