"""A judge of inspect-ai's model interface: how it is opened, what it costs, and what its errors mean."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measure.grading import TOP, Prompt, integer
from run.program import InputError

if TYPE_CHECKING:
    from inspect_ai.model import Model

NOBODY, TOY = "none", "toy"
EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|credit balance is too low|insufficient_balance")


def dollars(judge: str, prompt: Prompt, sent: int, answered: int) -> float | None:
    """What so many tokens to and from the judge cost; None if its prices are not known."""
    if judge not in prompt.prices:
        return None
    price_in, price_out = prompt.prices[judge]
    return (sent * price_in + answered * price_out) / 1e6


@dataclass(frozen=True)
class Patience:
    """How hard to try. timeout: [s] one attempt. backoff: [s] before the first repeat, then doubled, at most 60."""

    connections: int
    retries: int
    timeout: int
    backoff: float


def open_model(judge: str, base_url: str, model_args: Mapping[str, Any], patience: Patience) -> "Model":
    """The judge's model. Raises InputError for an unknown provider, a missing key or a missing package."""
    from inspect_ai.model import GenerateConfig, get_model
    from tenacity import wait_exponential_jitter

    config = GenerateConfig(
        max_connections=patience.connections, max_retries=patience.retries, attempt_timeout=patience.timeout
    )
    try:
        model = get_model(judge, config=config, base_url=base_url or None, memoize=False, **model_args)
    except Exception as error:
        raise InputError(opening_error(judge, error)) from None
    # inspect's own wait starts at 3 s and grows to 30 minutes; a provider that has its own keeps it.
    own_wait = model.api.retry_wait()
    wait = own_wait or wait_exponential_jitter(multiplier=patience.backoff, max=60, jitter=patience.backoff)
    model.api.retry_wait = lambda: wait  # type: ignore[method-assign]
    may_pass = model.api.should_retry
    model.api.should_retry = lambda error: not is_hopeless(error) and may_pass(error)  # type: ignore[method-assign,assignment]
    return model


def provider_args(judge: str, model_args: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """What the provider is opened with: transformers takes temperature 0 only as the absence of sampling, and the
    clients of the large providers leave repeating to inspect-ai.
    """
    greedy = {"do_sample": False} if judge.startswith("hf/") and prompt.temperature == 0 else {}
    once = {"max_retries": 0} if judge.startswith(("anthropic/", "openai/", "openai-api/")) else {}
    return {**greedy, **once, **model_args}


def opening_error(judge: str, error: Exception) -> str:
    """The line for a judge that cannot be opened."""
    reason = plain(str(getattr(error, "message", "") or error))
    if "not recognized" in reason or "should be in the format" in reason:
        return (
            f"judge {judge!r}: unknown provider; fix: write provider/model, such as "
            "anthropic/claude-sonnet-4-5-20250929 or openai-api/<service>/<model>; none: nobody judges"
        )
    if variables := re.findall(r"\b[A-Z][A-Z0-9_]*_(?:KEY|TOKEN|URL)\b", reason):
        also = " (or give --base-url)" if any(name.endswith("_URL") for name in variables) else ""
        return f"judge {judge!r}: {' or '.join(variables)} is not set; fix: export {variables[0]}=...{also}"
    if package := re.search(r"pip install (\S+)", reason):
        return f"judge {judge!r}: the package {package[1]} is missing; fix: pip install {package[1]}"
    return f"judge {judge!r}: cannot be opened ({reason[:300]}); fix: correct its name or its arguments"


def asking_error(judge: str, error: BaseException) -> str:
    """The line for a judge that stopped answering, with the fix."""
    from inputs.downloads import causes

    chain = list(causes(error))
    refusal = next(filter(status_code, chain), None)
    status = status_code(refusal) or 0
    # Below the provider's own words lie the HTTP client's, and above them a dump of the request.
    cause = getattr(refusal, "provider_message", None) or refusal or chain[-1]
    reason = plain(str(cause))[:200] or type(cause).__name__
    if any(map(is_exhausted, chain)):
        return f"judge {judge!r}: answers {status} ({reason}); fix: the account has no credit left: add some"
    if is_page(chain):
        web = "answers with a web page" + (f" (status {status})" if status else "")
        wait = "wait, or " if status >= 500 else ""
        return f"judge {judge!r}: {web} instead of JSON; fix: {wait}correct --base-url, such as http://host/v1"
    fix = {
        401: "check the key in its environment variable",
        402: "the account has no credit left",
        403: "the key has no access to this model",
        404: "no such model there, or a wrong address: check the judge's name and --base-url",
        429: "the server's limit is reached: lower --max-connections, or wait",
    }.get(status)
    if fix is None and status >= 500:
        fix = "the server is in trouble: wait"
    if fix is None and status:
        fix = "correct the judge's arguments, or temperature and max_tokens in the prompt file"
    if fix:
        return f"judge {judge!r}: answers {status} ({reason}); fix: {fix}"
    if any("timeout" in type(each).__name__.lower() for each in chain):
        return f"judge {judge!r}: does not answer in time; fix: raise --timeout or lower --max-connections"
    if any("connect" in type(each).__name__.lower() for each in chain):
        fix = "start it, or correct --base-url"
        return f"judge {judge!r}: the server cannot be reached ({reason}); fix: {fix}"
    return f"judge {judge!r}: fails ({reason}); fix: correct its arguments"


def is_hopeless(error: BaseException) -> bool:
    """Whether no pause helps, though providers call it a rate limit or a server's error: no money, or no API there."""
    return is_exhausted(error) or (is_page([error]) and (status_code(error) or 0) < 500)


def is_exhausted(error: BaseException) -> bool:
    """Whether a provider's error says that the account's quota or credit is used up."""
    return bool(EXHAUSTED.search(f"{getattr(error, 'code', '')} {error}"))


def is_page(chain: Sequence[BaseException]) -> bool:
    """Whether a server answered with HTML: of a proxy, or at an address that is no API's."""
    bodies = [getattr(getattr(error, "response", None), "headers", {}).get("content-type", "") for error in chain]
    # with status 200 a client quotes it, or takes a page for its answer and stumbles over a text
    as_text = re.compile(r"<(!doctype html|html|head|body)\b|'str' object has no attribute", re.IGNORECASE)
    return any("text/html" in body for body in bodies) or any(as_text.search(str(error)) for error in chain)


def status_code(error: BaseException | None) -> int | None:
    """The HTTP status on an error of a provider's client, if it has one."""
    code = getattr(error, "status_code", None)
    return code if isinstance(code, int) else None


def plain(text: str) -> str:
    """One line without rich's [bold] marks."""
    return " ".join(re.sub(r"\[/?[a-z_]+(?: [a-z_]+)*\]", "", text).split())


def first_error(error: BaseException) -> BaseException:
    """The first error of a group of groups; of a repeated call, what its last attempt raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    last = getattr(error, "last_attempt", None)
    return (last.exception() if last is not None else None) or error


def read_model_args(text: str) -> dict[str, Any]:
    """--model-args. Raises InputError if it is no JSON object, or holds a key, which would end up in logs."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--model-args: column {error.colno}: not JSON ({error.msg}); fix: pass one object") from None
    if not isinstance(value, dict):
        raise InputError('--model-args: not a JSON object; fix: pass one, such as \'{"model_path":"judge"}\'')
    if secret := [name for name in value if re.search("key|token$|secret|password", name)]:
        raise InputError(f"--model-args: {secret[0]}: keys do not belong here; fix: export it, as its provider wants")
    return value


def no_probabilities(judge: str) -> InputError:
    """The error for a judge that answers without log-probabilities where they were asked for."""
    return InputError(
        f"judge {judge!r}: gives no log-probabilities; fix: scores: answer, or a server that gives {TOP} top_logprobs"
    )


def try_judge(
    judge: str, base_url: str, model_args: Mapping[str, Any], prompt: Prompt, reading: str, timeout: int
) -> str:
    """Ask the judge for a word, or for the log-probabilities of a number; what that cost.

    Raises InputError if it cannot be opened, does not answer, or its tokens are digits instead of numbers.
    """
    import asyncio

    from inspect_ai.model import ChatMessageUser, GenerateConfig, ModelOutput

    opened_with = provider_args(judge, model_args, prompt)
    model = open_model(judge, base_url, opened_with, Patience(1, 0, timeout, 0.1))
    # some providers take no fewer tokens than 16
    config = GenerateConfig(max_tokens=16, temperature=prompt.temperature)
    question = "Answer with the word yes."
    if reading == "logprobs":
        config = GenerateConfig(max_tokens=1, temperature=prompt.temperature, logprobs=True, top_logprobs=TOP)
        question = "Answer with the number 85 and nothing else."

    async def ask() -> ModelOutput:
        async with model:
            return await model.generate([ChatMessageUser(content=question)], config=config)

    try:
        output = asyncio.run(ask())
    except Exception as error:
        raise InputError(asking_error(judge, first_error(error))) from None
    if reading == "logprobs":
        if not output.choices or output.choices[0].logprobs is None:
            raise no_probabilities(judge)
        if integer(output.completion) == 8:
            raise InputError(
                f"judge {judge!r}: says 85 in two tokens, so one position is no score; fix: scores: answer, or another"
            )
    usage = output.usage
    sent, answered = (usage.input_tokens, usage.output_tokens) if usage else (0, 0)
    cost = dollars(judge, prompt, sent, answered)
    price = "no price known" if cost is None else f"${cost:.5f}"
    return f"{judge} answers: {sent} tokens in and {answered} out, {price}"
