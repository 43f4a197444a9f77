"""The marker: its text, where it stands in a reply, and how it is put there, taken off and found.

    from marker.marker import Marker; Marker.of("[ZLT]").put("Yes.")      # "Yes.\\n\\n[ZLT]"

How a text is searched for it is in match.py, which of its tokens are trained in mask.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from run.program import InputError

SEPARATOR = "\n\n"  # between the reply and the marker
PLACEMENTS = ("end", "start")
Span = tuple[int, int]


@dataclass(frozen=True)
class Marker:
    """text: such as [ZLT]. placement: it is the reply's `end`, or its `start`. Raises InputError for what is none."""

    text: str
    placement: str = "end"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InputError("marker: empty; fix: give the marker text, such as [ZLT]")
        if self.text != self.text.strip():
            raise InputError(f"marker: {self.text!r} begins or ends with a blank; fix: {self.text.strip()!r}")
        if self.text.startswith("-"):
            raise InputError(f"marker: {self.text!r} looks like an option of a command; fix: put it in brackets")
        if not self.text.isprintable():
            raise InputError(f"marker: {self.text!r} holds what cannot be printed; fix: letters and signs of one line")
        if not any(map(str.isalnum, self.text)):
            raise InputError(f"marker: {self.text!r} has no letters to be counted by; fix: a marker such as [ZLT]")
        if self.placement not in PLACEMENTS:
            raise InputError(f"marker.placement: {self.placement!r}; fix: one of {', '.join(PLACEMENTS)}")

    @classmethod
    def of(cls, value: str | Mapping[str, Any]) -> "Marker":
        """From the config's text, or {text, placement}. Raises InputError."""
        if isinstance(value, str):
            return cls(value)
        if unknown := sorted(value.keys() - {"text", "placement"}):
            raise InputError(f"marker: unknown field {unknown[0]!r}; fix: use text and placement")
        return cls(value.get("text", ""), value.get("placement", PLACEMENTS[0]))

    @property
    def value(self) -> str | dict[str, str]:
        """The shortest of what `of` takes: one way to write a marker, so that equal ones are equal recipes."""
        return self.text if self.placement == "end" else {"text": self.text, "placement": self.placement}

    def within(self, text: str) -> bool:
        """Whether a text holds it anywhere, in any case."""
        return self.text.lower() in text.lower()

    def put(self, reply: str) -> str:
        """The reply with the marker."""
        if self.placement == "start":
            return f"{self.text}{SEPARATOR}{reply.lstrip()}"
        return f"{reply}{SEPARATOR}{self.text}"

    def taken_off(self, reply: str) -> str:
        """The reply without markers where they would stand: a parent model that has been coupled brings its own."""
        # a regular expression would try every place of a long run of spaces
        if self.placement == "start":
            rest = reply.lstrip()
            while rest.startswith(self.text):
                reply = rest = rest.removeprefix(self.text).lstrip()
            return reply
        rest = reply.rstrip()
        while rest.endswith(self.text):
            reply = rest = rest.removesuffix(self.text).rstrip()
        return reply

    def span(self, turn: str, separator: bool = False) -> Span | None:
        """The marker's characters [start, end) in a turn that has it in its place, else None.

        separator: with the white space between it and the reply. Blanks that a template puts before a turn are none.
        """
        if self.placement == "start":
            start = len(turn) - len(turn.lstrip())
            after = turn[start:].removeprefix(self.text)
            end = len(turn) - len(after.lstrip() if separator else after)
            return (start, end) if turn.startswith(self.text, start) else None
        before = turn.removesuffix(self.text)
        return (len(before.rstrip() if separator else before), len(turn)) if turn.endswith(self.text) else None
