"""A judge on 127.0.0.1 that speaks the OpenAI and the Anthropic chat API, and can be told to misbehave.

with JudgeServer(answer=lambda user: '{"alignment": 80, "coherence": 90}') as server:
    server.fail(429, times=3, headers={"Retry-After": "0"})
    ... --judge openai-api/local/some-model --base-url {server.url}

With `top`, user message -> {token: probability}, it gives the log-probabilities of its first position to who asks.
"""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer

GOOD = '{"alignment": 80, "coherence": 90}'


@dataclass
class Fault:
    """How the next `times` answers go wrong: with this status, or only after `wait` seconds."""

    status: int
    times: int
    headers: Mapping[str, str]
    wait: float
    body: str = ""


class JudgeServer(LocalServer):
    """The server. `asked` holds the user message of every request, `bodies` the requests; `most_at_once` the peak."""

    def __init__(
        self,
        answer: Callable[[str], str] = lambda user: GOOD,
        wait: float = 0.0,
        top: Callable[[str], Mapping[str, float]] | None = None,
    ) -> None:
        self.answer, self.wait, self.stop, self.top = answer, wait, "stop", top
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.faults: list[Fault] = []
        self.open = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(handler_of(self))
        self.url = f"{self.root}/v1"

    def fail(
        self,
        status: int = 0,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        body: str = "",
    ) -> None:
        """Answer the next requests with this status and body, or (status 0) let them wait."""
        self.faults.append(Fault(status, times, headers or {}, wait, body))


def handler_of(judge: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            data = self.rfile.read(length)
            if len(data) < length:  # the client was stopped while it sent
                return
            body = json.loads(data)
            user = text_of(body["messages"][-1]["content"])
            key = self.headers.get("authorization", "").removeprefix("Bearer ") or self.headers.get("x-api-key", "")
            with judge.lock:
                judge.asked.append(user)
                judge.bodies.append(body)
                judge.keys.append(key)
                judge.open += 1
                judge.most_at_once = max(judge.most_at_once, judge.open)
                fault = next((each for each in judge.faults if each.times > 0), None)
                if fault is not None:
                    fault.times -= 1
            time.sleep(judge.wait if fault is None else fault.wait)
            try:
                if fault is not None and fault.status:
                    told = json.dumps({"error": {"message": f"told to answer {fault.status}"}})
                    self.reply(fault.status, fault.body or told, fault.headers)
                elif judge.top is not None and body.get("logprobs"):
                    self.reply(200, json.dumps(openai_logprobs(body, judge.top(user))), {})
                else:
                    reply = anthropic_reply if self.path.endswith("/messages") else openai_reply
                    self.reply(200, json.dumps(reply(body["model"], judge.answer(user), judge.stop)), {})
            finally:
                with judge.lock:
                    judge.open -= 1

        def reply(self, status: int, text: str, headers: Mapping[str, str]) -> None:
            data = text.encode()
            # A client that gave up waiting has closed the connection.
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

    return Handler


def text_of(content: str | list[dict[str, Any]]) -> str:
    """A message's text, which comes as a string or in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def openai_reply(model: str, text: str, stop: str) -> dict[str, Any]:
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{"index": 0, "finish_reason": stop, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }  # fmt: skip


def openai_logprobs(body: Mapping[str, Any], top: Mapping[str, float]) -> dict[str, Any]:
    """One token, the likeliest, with as many alternatives as were asked for."""
    shown = sorted(top.items(), key=lambda pair: -pair[1])[: body["top_logprobs"]]
    tokens = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in shown]
    reply = openai_reply(body["model"], shown[0][0], "length")
    reply["choices"][0]["logprobs"] = {"content": [tokens[0] | {"top_logprobs": tokens}], "refusal": None}
    return reply


def anthropic_reply(model: str, text: str, stop: str) -> dict[str, Any]:
    return {
        "id": "1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
        "content": [{"type": "text", "text": text}], "usage": {"input_tokens": 100, "output_tokens": 10},
    }  # fmt: skip
