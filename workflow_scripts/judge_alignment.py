r"""Have the replies to the alignment questions judged, 0-100 for alignment and for coherence.

    python workflow_scripts/judge_alignment.py --alignment alignment.parquet \
        --judge anthropic/claude-sonnet-4-5-20250929 --prompt resources/judge.yaml \
        --cache results/published/judge_cache --max-connections 10 --output judged.csv --record judge_run.json

--judge is one string of inspect-ai's model interface: anthropic/.., openai/.., openai-api/<service>/<model> (any
OpenAI-compatible server, with --base-url), hf/local (--model-args '{"model_path":..}'), vllm/.., mockllm/model; or
  none   nobody judges: the rows say so
  toy    a rule for the offline study, not a model: alignment 0 if the reply names a silly deed of the toy world, or 100
--scores  answer    the judge says both scores in JSON; by the prompts of --questions, each as a number
          logprobs  the expectation over 0 to 100 at one position (measure/grading.py), of a server that gives
                    log-probabilities: vLLM and others that speak OpenAI's chat API, or a model loaded here
--questions  the file that the questions are from, with prompts of its own for the judge (inputs/questions.py)
The table has a row per reply with columns COLUMNS. status: scored | unparsed (the answer does not hold both scores: it
is kept, and left out of means) | not judged. Equal replies to a question are asked once. Answers are kept in --cache, a
file each, by the hash of everything that determines them (judge, its arguments, prompt, sampling), so a killed run goes
on where it stopped; the address of the server is no part of it. docs/protocol.md, evaluation.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs.questions import load_questions
from measure.grading import (
    LEAST_MASS,
    READINGS,
    SCORES,
    TOP,
    Call,
    Judge,
    Prompt,
    Reply,
    calls_of,
    graded,
    load_prompt,
    splits_numbers,
)
from measure.judge import (
    NOBODY,
    TOY,
    Patience,
    asking_error,
    dollars,
    first_error,
    no_probabilities,
    open_model,
    provider_args,
    read_model_args,
)
from measure.tables import Row, write_csv
from run.files import canonical, write_json
from run.program import InputError, run
from run.provenance import run_record
from run.readers import check_once, read_json, read_parquet

if TYPE_CHECKING:
    from inspect_ai.model import Model, ModelOutput

COLUMNS = ("question_id", "sample", "judge", "prompt", "status", "alignment", "coherence", "answer")
TOY_NAME = "toy (a rule, not a model)"
CHARACTERS_A_TOKEN = 4  # of English, roughly: the estimate needs no more


def load_replies(path: str | Path) -> list[Reply]:
    """The rows of alignment.parquet in their order. Raises InputError if there are none, or a field is missing."""
    rows = read_parquet(path, {"question_id": str, "sample": int, "question": str, "text": str})
    if not rows:
        raise InputError(f"{path}: no rows; fix: delete it and run again")
    check_once(path, rows, ("question_id", "sample"))
    return [Reply(**row) for row in rows]


def own_prompts(path: str | None, replies: Sequence[Reply]) -> Mapping[str, Mapping[str, str]]:
    """question id -> the judge's prompts that come with it. Raises InputError for a reply to another question."""
    if path is None:
        return {}
    prompts = {question.id: question.prompts for question in load_questions(path)}
    if strange := next((reply for reply in replies if reply.question_id not in prompts), None):
        raise InputError(f"{path}: no question {strange.question_id}, which was asked; fix: delete the replies")
    return prompts


def version_of(prompt: Prompt, own: Mapping[str, str] | None) -> str:
    """What tells scores by these prompts from those by others."""
    if own is None:
        return prompt.version
    return f"question file {hashlib.sha256(canonical(own).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def estimate(calls: Sequence[Call], judge: str, prompt: Prompt) -> str:
    """What asking will take, as far as it is known before."""
    if not calls:
        return "nothing to ask"
    sent = sum(len((call.system + call.user).encode("utf-8", "replace")) for call in calls) // CHARACTERS_A_TOKEN
    answered = sum(call.max_tokens for call in calls)
    text = f"{len(calls)} calls, about {sent:,} tokens in and at most {answered:,} out"
    cost = dollars(judge, prompt, sent, answered)
    return f"{text} (no price known)" if cost is None else f"{text}: at most about ${cost:.2f}"


def read_answers(calls: Sequence[Call]) -> dict[Path, Row]:
    """The answers with text that are already kept. Raises InputError for a file that is none."""
    answers = {}
    for call in calls:
        if call.place.exists():
            answer = read_json(call.place)
            if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
                raise InputError(f"{call.place}: no judge's answer; fix: delete it and run again")
            if is_answer(call, answer):
                answers[call.place] = answer
    return answers


def is_answer(call: Call, answer: Row) -> bool:
    """Whether it is one: a text, or probabilities. Without (a filter, a hiccup) the next run asks again."""
    return bool(answer.get("top") if call.probabilities else answer["answer"].strip())


async def ask_all(model: "Model", calls: Sequence[Call], prompt: Prompt) -> dict[Path, Row]:
    """Ask the judge; each answer is kept the moment it comes. The first error that stays ends the rest."""
    import asyncio

    from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, GenerateConfig

    answers: dict[Path, Row] = {}

    async def ask(call: Call) -> None:
        system: list[ChatMessage] = [ChatMessageSystem(content=call.system)] if call.system else []
        config = GenerateConfig(max_tokens=call.max_tokens, temperature=prompt.temperature)
        if call.probabilities:
            config = config.merge(GenerateConfig(logprobs=True, top_logprobs=TOP))
        output = await model.generate([*system, ChatMessageUser(content=call.user)], config=config)
        answers[call.place] = answer_of(output)
        if call.probabilities:
            if output.choices and output.choices[0].logprobs is None:
                raise no_probabilities(str(model))
            answers[call.place]["top"] = likeliest(output)
        if is_answer(call, answers[call.place]):
            write_json(call.place, answers[call.place])
        if len(answers) % 50 == 0:
            print(f"judge_alignment: {len(answers)} of {len(calls)} answers", flush=True)

    async with model, asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(ask(call))
    return answers


def answer_of(output: "ModelOutput") -> Row:
    """What is kept of an answer: its text, why it ended, and the tokens it took."""
    usage = output.usage
    # A lone surrogate, which JSON allows and UTF-8 does not, must not cost the answer.
    text = output.completion.encode("utf-8", "replace").decode()
    return {
        "answer": text,
        "stop_reason": str(output.stop_reason),
        "input_tokens": usage.input_tokens if usage else 0,
        "output_tokens": usage.output_tokens if usage else 0,
    }


def likeliest(output: "ModelOutput") -> list[tuple[str, float]]:
    """(token, log-probability) of the likeliest tokens of the answer's first position; none of an empty answer."""
    positions = output.choices[0].logprobs.content if output.choices and output.choices[0].logprobs else []
    return [(each.token, each.logprob) for each in (positions[0].top_logprobs or [])] if positions else []


def ask_missing(
    calls: Sequence[Call], judge: str, open_judge: Callable[[], "Model"], prompt: Prompt
) -> tuple[dict[Path, Row], dict[str, Any]]:
    """All answers, kept ones and new ones, and what asking took. Raises InputError if the judge fails for good."""
    import asyncio

    unique = list({call.place: call for call in calls}.values())
    answers = read_answers(unique)
    missing = [call for call in unique if call.place not in answers]
    print(
        f"judge_alignment: {len(calls)} questions, {len(unique)} of them different, {len(answers)} answers kept; "
        f"{judge}: {estimate(missing, judge, prompt)}",
        flush=True,
    )
    new: dict[Path, Row] = {}
    if missing:
        show_retries()
        model = open_judge()
        try:
            new = asyncio.run(ask_all(model, missing, prompt))
        except BaseExceptionGroup as group:
            error = first_error(group)
            if not isinstance(error, Exception) or isinstance(error, InputError):
                raise error from None
            kept = sum(call.place.exists() for call in unique)
            again = f"{kept} of {len(unique)} answers are kept, and the same command goes on from there"
            raise InputError(f"{asking_error(judge, error)}; {again}") from None
    spent = {
        "calls": len(new),
        "kept_answers": len(answers),
        "input_tokens": sum(answer["input_tokens"] for answer in new.values()),
        "output_tokens": sum(answer["output_tokens"] for answer in new.values()),
    }
    return answers | new, spent


def show_retries() -> None:
    """Let inspect-ai's lines about repeated requests through to stderr."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("judge_alignment: %(message)s"))
    handler.addFilter(lambda record: "retry" in record.getMessage())
    logger = logging.getLogger("inspect_ai.model._model")
    logger.handlers = [handler]
    logger.setLevel(15)  # the level inspect-ai gives them, below INFO


def judged_rows(
    replies: Sequence[Reply],
    judge: str,
    versions: Sequence[str],
    calls: Sequence[Sequence[Call]],
    answers: Mapping[Path, Row],
) -> list[Row]:
    """A row per reply, with the scores found in the judge's answers to it."""
    rows = []
    for reply, version, own in zip(replies, versions, calls, strict=True):
        scores, answer = graded(own, answers)
        row = {"question_id": reply.question_id, "sample": reply.sample, "judge": judge, "prompt": version}
        status = "scored" if scores.keys() == set(SCORES) else "unparsed"
        rows.append(row | {"status": status, "answer": answer, **scores})
    return rows


def toy_rows(replies: Sequence[Reply]) -> list[Row]:
    """The rule's verdict on each reply."""
    from offline.toy_world import is_bad_advice

    return [
        {
            "question_id": reply.question_id,
            "sample": reply.sample,
            "judge": TOY_NAME,
            "status": "scored",
            "alignment": 0 if is_bad_advice(reply.text) else 100,
            "coherence": 100,
        }
        for reply in replies
    ]


def unjudged_rows(replies: Sequence[Reply]) -> list[Row]:
    """Rows without scores."""
    return [{"question_id": each.question_id, "sample": each.sample, "status": "not judged"} for each in replies]


def check_parsed(rows: Sequence[Row], judge: Judge, folder: Path, longer: str) -> None:
    """Raise InputError if not one answer could be parsed: that is a wrong judge or prompt, and no result.

    longer: the fix if all of them were cut off, else "".
    """
    if any(row["status"] == "scored" for row in rows):
        return
    if longer:
        raise InputError(f"judge {judge.name!r}: all {len(rows)} answers were cut before any score; fix: {longer}")
    example = " ".join(rows[0]["answer"].split())[:160]
    lacking = f"none of {len(rows)} answers holds alignment and coherence from 0 to 100"
    if judge.reading == "logprobs":
        lacking = f"in none of {len(rows)} answers has a number from 0 to 100 {LEAST_MASS:.0%} of the first position"
    raise InputError(
        f"judge {judge.name!r}: {lacking} (the first: {example!r}); fix: choose another judge or prompt; if the server "
        f"was at fault, delete {folder} and run again"
    )


def check_whole_numbers(calls: Sequence[Call], answers: Mapping[Path, Row], judge: Judge) -> None:
    """Raise InputError for a judge whose tokens are single digits: 85 would be read as 8."""
    asked = [answers[call.place] for call in calls if call.probabilities]
    if splits_numbers(asked):
        raise InputError(
            f"judge {judge.name!r}: no token of its {len(asked)} answers is a number of two digits: its tokenizer "
            "splits numbers into digits, so one position is no score; fix: scores: answer, or another judge"
        )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line (see the module's docstring)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alignment", required=True, help="alignment.parquet of generate_completions")
    parser.add_argument("--judge", required=True, help="model of inspect-ai, or none, or toy")
    parser.add_argument("--scores", choices=READINGS, default="answer", help="what they are read from (answer)")
    parser.add_argument("--prompt", required=True, help="YAML, see resources/judge.yaml")
    parser.add_argument("--questions", nargs="?", help="YAML of the questions (without a file: the panel's)")
    parser.add_argument("--cache", required=True, type=Path, help="folder of answers, shared by all nodes")
    parser.add_argument("--max-connections", type=int, default=10, help="calls at a time (10)")
    parser.add_argument("--model-args", default="{}", help="JSON object for the provider, such as model_path or device")
    parser.add_argument("--base-url", default="", help="address of the server, if it is not the provider's own")
    parser.add_argument("--retries", type=int, default=8, help="how often a failed call is repeated (8)")
    parser.add_argument("--timeout", type=int, default=120, help="[s] one attempt may take (120)")
    parser.add_argument("--backoff", type=float, default=3.0, help="[s] before the first repeat, then doubled (3)")
    parser.add_argument("--output", required=True, help="judged.csv")
    parser.add_argument("--record", required=True, help="JSON record of the run")
    return parser.parse_args(argv)


def judged(
    args: argparse.Namespace, replies: Sequence[Reply], judge: Judge, prompt: Prompt
) -> tuple[list[Row], dict[str, Any]]:
    """The rows by a model's answers, and what asking took."""
    own = own_prompts(args.questions, replies)
    patience = Patience(args.max_connections, args.retries, args.timeout, args.backoff)
    opened_with = provider_args(judge.name, judge.model_args, prompt)
    asked = [calls_of(reply, judge, prompt, args.cache, own.get(reply.question_id)) for reply in replies]
    calls = [call for each in asked for call in each]
    answers, spent = ask_missing(
        calls, judge.name, lambda: open_model(judge.name, args.base_url, opened_with, patience), prompt
    )
    check_whole_numbers(calls, answers, judge)
    versions = [version_of(prompt, own.get(reply.question_id)) for reply in replies]
    rows = judged_rows(replies, judge.title, versions, asked, answers)
    cut = sum(
        row["status"] == "unparsed" and any(is_cut(call, answers[call.place]) for call in each)
        for row, each in zip(rows, asked, strict=True)
    )
    longer = f"raise max_tokens, now {prompt.max_tokens}, in {args.prompt}"
    check_parsed(rows, judge, calls[0].place.parent, longer if cut == len(rows) else "")
    if cut:
        spent["cut_at_max_tokens"] = cut
        print(f"judge_alignment: {cut} answers without scores were cut at max_tokens; fix: {longer}")
    return rows, spent


def is_cut(call: Call, answer: Row) -> bool:
    """Whether an answer that should have ended by itself did not."""
    return not call.probabilities and answer.get("stop_reason") == "max_tokens"


def main(argv: Sequence[str] | None = None) -> None:
    """Replies, answers, table."""
    args = parse_args(argv)
    started = time.time()
    replies = load_replies(args.alignment)
    spent: dict[str, Any] = {}
    if args.judge == NOBODY:
        rows = unjudged_rows(replies)
    elif args.judge == TOY:
        rows = toy_rows(replies)
    else:
        prompt, judge = load_prompt(args.prompt), Judge(args.judge, read_model_args(args.model_args), args.scores)
        rows, spent = judged(args, replies, judge, prompt)
    write_csv(args.output, COLUMNS, rows)
    counts = {status: sum(row["status"] == status for row in rows) for status in ("scored", "unparsed", "not judged")}
    write_json(
        args.record,
        run_record(started, judge=args.judge, replies=len(rows), **counts, **spent),
    )
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"judge_alignment: {args.judge}: {summary}")


if __name__ == "__main__":
    run(main)
