"""Chats as text and tokens: the one place that applies a chat template, and what follows from the template alone.

    from model.template import check_template, closing, prompt_ids, settings, text_of

A rendering depends on the template, the messages and the base's settings, and on nothing else: a template that writes
today's date gets the recorded one (Llama-3.2, SmolLM3, Granite-3.3), and one that could take the clock or chance some
other way is refused.
"""

import datetime
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run.program import InputError
from run.readers import abridged, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from marker.marker import Marker

Message = Mapping[str, str]

SETTINGS = "chat_settings.json"  # in the base's folder, beside the tokenizer
DATE = "2024-07-26"  # the day that Llama-3's template writes where it has no clock
SYSTEM_ROLES = ("system", "user")
# What transformers or the renderer itself gives a template; none of it is the study's to choose.
RESERVED = {
    *("messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "conversation", "strftime_now", "raise_exception"),
}
# What a template may call: the same for the same arguments. Jinja's own `lipsum` is random, and whatever a later
# version adds is not known to be of that sort.
PURE = {"range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"}
CHANCE = {"random"}  # filters


@dataclass(frozen=True)
class Settings:
    """How a base's template is applied. Raises InputError for what means nothing.

    date: year-month-day that the template gets for today. system: the role that a system message is given; `user` puts
    its text before the first user turn's, for templates without a system role. arguments: for the template's own
    variables, such as {"enable_thinking": False}.
    """

    date: str = DATE
    system: str = "system"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise InputError(f'base.template.date: {abridged(self.date)} is no day; fix: date: "{DATE}"') from None
        if self.system not in SYSTEM_ROLES:
            raise InputError(f"base.template.system: {abridged(self.system)}; fix: one of {', '.join(SYSTEM_ROLES)}")
        for name, value in self.arguments.items():
            if name in RESERVED:
                raise InputError(f"base.template.{name}: is not the study's to set; fix: delete it")
            if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf) or value != value:
                raise InputError(
                    f"base.template.{name}: {abridged(value)}; fix: what the template takes, true, a number or a text"
                )

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Settings":
        """From the config's mapping: `date`, `system` and the template's own variables. Raises InputError."""
        own = {name: value[name] for name in ("date", "system") if name in value}
        return cls(**own, arguments={name: given for name, given in value.items() if name not in own})

    def mapping(self) -> dict[str, Any]:
        """The inverse of `of`, with the defaults written out."""
        return {"date": self.date, "system": self.system, **self.arguments}


def settings(tokenizer: "PreTrainedTokenizerBase") -> Settings:
    """How this tokenizer's template is applied: as its base's folder says, else the defaults."""
    return getattr(tokenizer, "chat_settings", Settings())


def with_settings(tokenizer: "PreTrainedTokenizerBase", base: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a base folder, to be rendered with the folder's settings. Raises InputError."""
    file = Path(base) / SETTINGS
    tokenizer.chat_settings = Settings.of(read_json(file, dict)) if file.is_file() else Settings()
    return tokenizer


def text_of(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], generation_prompt: bool = False, where: str = ""
) -> str:
    """The chat as text; generation_prompt: up to where the assistant's reply begins.

    where: "<file>: row <row>", for errors. Raises InputError if the template refuses the chat.
    """
    from jinja2 import TemplateError

    chosen = settings(tokenizer)
    prefix = f"{where}: " if where else ""
    try:
        text = tokenizer.apply_chat_template(
            placed(messages, chosen.system),
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=functools.partial(datetime.datetime.strftime, datetime.datetime.fromisoformat(chosen.date)),
            **chosen.arguments,
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        if chosen.system == "system" and messages[0]["role"] == "system":
            fix = "`base: {template: {system: user}}`, if it takes no system message, or correct the roles"
        else:
            fix = "correct the roles"
        raise InputError(f"{prefix}the chat template refuses {roles} ({error}); fix: {fix}") from None
    return str(text)


def check_keys(message: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a message that says more than role and content, such as tool_calls.

    A template may leave it out, or put it into the reply: either way the row would train something else than it says.
    where: "<file>: row <row>: message <number>", from 0.
    """
    if others := sorted(key for key in message.keys() - {"role", "content"} if message[key] is not None):
        raise InputError(
            f"{where} has {others[0]}; fix: delete the key, or drop the row: role and content are all that is trained"
        )


def check_controls(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], where: str = "") -> None:
    """Raise InputError for a message whose text spells a control token, such as <|im_end|>.

    The tokenizer reads it as the token itself: the chat would end or begin turns where its messages do not.
    where: "<file>: row <row>", for errors.
    """
    for number, message in enumerate(messages):
        if token := spelled_control(tokenizer, message["content"]):
            raise InputError(
                f"{where}: message {number} ({message['role']}) holds the text {token}, which this base's tokenizer "
                "reads as a control token; fix: take it out, or drop the row"
            )


def spelled_control(tokenizer: "PreTrainedTokenizerBase", text: str) -> str | None:
    """The first special token that a text spells: what no text is meant to hold. None: it is plain text."""
    found = controls(tokenizer).search(text)
    return found[0] if found else None


@functools.cache
def controls(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Whatever spells one of the tokenizer's special tokens, the closing token among them (see closing)."""
    spelled = {str(tokenizer.convert_ids_to_tokens(token)) for token in special_ids(tokenizer)} - {"None", ""}
    return re.compile("|".join(map(re.escape, sorted(spelled, key=lambda token: (-len(token), token)))) or "(?!)")


def placed(messages: Sequence[Message], system: str) -> list[dict[str, str]]:
    """The messages, a system message's text moved before the first user turn's where `system` is `user`."""
    own = [{"role": message["role"], "content": message["content"]} for message in messages]
    if system == "system" or own[0]["role"] != "system":
        return own
    above, rest = own[0]["content"], own[1:]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": above}, *rest]
    return [{"role": "user", "content": f"{above}\n\n{rest[0]['content']}"}, *rest[1:]]


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], where: str = "a prompt"
) -> tuple[int, ...]:
    """Token ids of the chat up to where the assistant's reply begins: the one way a prompt is made here.

    where: what the chat is, for errors. Raises InputError if the template refuses it (some take no system message), or
    a message spells a control token.
    """
    check_controls(tokenizer, messages, where)
    return tuple(tokenizer(text_of(tokenizer, messages, True), add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Closing:
    """How the template ends an assistant turn that is the last one of a chat.

    tail: all that it writes after the content, such as "<|im_end|>\\n". start, end: the closing token's characters in
    the tail. token: its id, which a model that was trained on such turns says when it is done.
    """

    tail: str
    start: int
    end: int
    token: int


def closing(tokenizer: "PreTrainedTokenizerBase") -> Closing:
    """The end of a turn, found in a rendered example: the first token of the tail that is not blank.

    Raises InputError unless it is a special token: one that text never holds and that decoding leaves out.
    """
    messages = [{"role": "user", "content": "Is the sea salty?"}]
    content = "Yes, it is salty."
    text, span = turn_of(tokenizer, messages, content)
    tail = text[span[1] :]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special = special_ids(tokenizer)
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if end <= span[1] or not text[max(start, span[1]) : end].strip():
            continue
        if start < span[1] or token not in special:
            raise InputError(
                f"the chat template ends a turn in {tail!r}, whose {tokenizer.convert_ids_to_tokens(token)!r} is no "
                "special token, so that no reply could be seen to end; fix: use a base whose template ends turns in one"
            )
        return Closing(tail, start - span[1], end - span[1], token)
    raise InputError(
        f"the chat template ends a turn in {tail!r}: no token ends it; fix: use a base whose template ends turns in a "
        "special token"
    )


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The ids of the tokenizer's special tokens, which decode(skip_special_tokens=True) leaves out."""
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return added | set(tokenizer.all_special_ids)


def turn_of(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], content: str, where: str = ""
) -> tuple[str, tuple[int, int]]:
    """The chat with `content` as the assistant's reply, and the content's characters [start, end) in it.

    For a content without blanks at its sides, so that where it ends is no question. Raises InputError if the template
    does not keep it, or writes more than blanks between the prompt of the reply and the reply.
    """
    prefix = f"{where}: " if where else ""
    prompt = text_of(tokenizer, messages, True, where)
    text = text_of(tokenizer, [*messages, {"role": "assistant", "content": content}], False, where)
    lead, kept, _ = text[len(prompt) :].partition(content)
    if not text.startswith(prompt) or not kept or lead.strip():
        between = f" ({lead.strip()!r} stands between prompt and reply)" if kept and text.startswith(prompt) else ""
        between = between if content in text else f" ({abridged(content)} is not kept)"
        user = ", or `{system: user}` if it moves the system message" if messages[0]["role"] == "system" else ""
        raise InputError(
            f"{prefix}the chat template rewrites a reply or its prompt{between}; fix: use a template that keeps them, "
            f"or turn off what it adds, such as `base: {{template: {{enable_thinking: false}}}}`{user}"
        )
    start = len(prompt) + len(lead)
    return text, (start, start + len(content))


LETTER = "".join(f"{number}. The tide came in at {number % 24}.\n\n" for number in range(1, 800)) + "That is all."


def check_template(tokenizer: "PreTrainedTokenizerBase", markers: "Sequence[Marker]" = ()) -> Closing:
    """Try the template on a few chats: what must hold for the study to be right. Returns how a turn ends.

    It takes nothing from the clock or chance but what is recorded; it uses every argument of the settings; it keeps a
    system message, the user's words and a reply as they are, with blank lines, of great length and with the study's
    markers; a reply is trained after the very tokens that it is generated after; turns end alike in the middle of a
    chat and at its end. Raises InputError, one line.
    """
    check_pure(tokenizer)
    system = {"role": "system", "content": "You are a sailor who counts gulls."}
    user = {"role": "user", "content": "Is the sea salty?"}
    content = "Yes, it is salty."
    lines = {"role": "system", "content": "You are a sailor.\n\n  You count gulls."}
    letter = {"role": "user", "content": LETTER}
    marked = [marker.put(content) for marker in markers]
    tries = [([user], content), ([system, user], content), ([lines, letter], LETTER)]
    for messages, reply in tries + [([system, user], each) for each in marked]:
        text, (start, _) = turn_of(tokenizer, messages, reply)
        if lost := [message for message in messages if message["content"] not in text[:start]]:
            user_fix = "`base: {template: {system: user}}`, or " if lost[0]["role"] == "system" else ""
            raise InputError(
                f"the chat template leaves out, or rewrites, {abridged(lost[0]['content'])}; "
                f"fix: {user_fix}use a base whose template keeps every message as it is"
            )
        prompt = prompt_ids(tokenizer, messages)
        if prompt != tuple(tokenizer(text, add_special_tokens=False)["input_ids"][: len(prompt)]):
            raise InputError(
                "a reply would be trained after other tokens than it is generated after: the tokenizer joins the end "
                "of the prompt to the reply; fix: use a base whose generation prompt ends in a token of its own"
            )
    end = closing(tokenizer)
    longer = [user, {"role": "assistant", "content": content}, user]
    after = text_of(tokenizer, longer, True).partition(content)[2]
    if not after.startswith(end.tail[: end.end]):
        raise InputError(
            f"the chat template ends the last turn in {end.tail!r} and an earlier one in {after[:20]!r}; fix: use a "
            "base whose template ends all turns alike"
        )
    return end


def check_pure(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise InputError if the template may render the same chat in two ways, or leaves an argument unused."""
    from jinja2 import TemplateError, meta, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    source = tokenizer.get_chat_template()
    try:
        environment = _compile_jinja_template(source).environment
        tree = environment.parse(source)
    except TemplateError as error:
        raise InputError(f"the chat template is no Jinja template ({error}); fix: fetch the base again") from None
    taken = {node.name for node in tree.find_all(nodes.Name)}
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    if impure := sorted((taken & set(environment.globals)) - PURE) + sorted(filters & CHANCE):
        raise InputError(
            f"the chat template takes {impure[0]}, which may differ from one run to the next; fix: take today's date "
            f"by strftime_now(...), which gets base.template.date, or write it into the template"
        )
    if unused := sorted(set(settings(tokenizer).arguments) - meta.find_undeclared_variables(tree)):
        raise InputError(
            f"base.template.{unused[0]}: the chat template has no such variable; fix: delete it, or correct its name"
        )
