"""An OpenAI-compatible server on 127.0.0.1 for tests: real HTTP, the replies scripted.

    def answer(body, number):
        return "Title: ..."

    with FakeOpenAI(answer) as server:
        ...

body: the request as received; number: 1 for the first one. An answer is the assistant's text, a
whole reply (a dict) or a werkzeug Response. server.url is the base URL, ending in /v1.

Serves GET /models and POST /chat/completions, as a stream of chunks where a request asks for one.
Keeps what it received (`bodies`, `headers`) and counts the tokens that it reported (`usage`), so
that a client's accounting can be held against the server's own. An exception in `answer` is
answered with status 500 and kept in `errors`, which leaving the `with` block raises.
"""

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Reply = str | dict | Response


def count_tokens(text: str) -> int:
    """The server's own idea of a token: four characters."""
    return -(-len(text) // 4)


def completion(
    text: str | None, model: str = "scripted", finish_reason: str = "stop", **message: Any
) -> dict:
    """A whole reply around a text.

    Further names go into its message (reasoning_content=..., refusal=...).
    """
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
    }


def stream_of(reply: dict) -> list[str]:
    """The server-sent events of a whole reply.

    Its texts in pieces, how it ended, its usage, the end.
    """
    rest = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    choice = reply["choices"][0]
    deltas = [{"role": "assistant", "content": ""}]
    for name, value in (choice.get("message") or {}).items():
        pieces = [value[:5], value[5:9], value[9:]] if isinstance(value, str) else [value]
        deltas += [{name: piece} for piece in pieces if name != "role"]
    choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason")}])
    chunks = [rest | {"object": "chat.completion.chunk", "choices": each} for each in choices]
    if "usage" in reply:
        chunks.append(chunks[0] | {"choices": [], "usage": reply["usage"]})
    return [f"data: {text}\n\n" for text in (*map(json.dumps, chunks), "[DONE]")]


def refusal(
    status: int, message: str, headers: dict[str, str] | None = None, **error: Any
) -> Response:
    """An error reply as OpenAI's API gives it.

    Further names go into the error (code=..., param=...).
    """
    text = json.dumps(
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": None,
                **error,
            }
        }
    )
    return Response(text, status=status, headers=headers, content_type="application/json")


class QuickServer(HTTPServer):
    """An HTTPServer that stops at once, not after half a second."""

    def thread_target(self) -> None:
        self.server.serve_forever(poll_interval=0.01)


class FakeOpenAI:
    """An endpoint like OpenAI's on 127.0.0.1.

    answer: what to reply to the number-th request. models: what is served. usage: whether replies
    report tokens.

    port: for a server that comes back where it was; 0 is any free one.
    """

    def __init__(
        self,
        answer: Callable[[dict, int], Reply],
        models: Sequence[str] = ("scripted",),
        usage: bool = True,
        port: int = 0,
    ) -> None:
        self.answer, self.models, self.reports_usage = answer, list(models), usage
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []  # of every request, those for the models too
        self.usage = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self.errors: list[BaseException] = []
        self.closing = threading.Event()  # an answer that stalls waits for this
        self.server = QuickServer(host="127.0.0.1", port=port, threaded=True)
        self.server.expect_request("/v1/models", method="GET").respond_with_handler(self._list)
        self.server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(
            self._complete
        )
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.server.url_for("/v1")

    def __enter__(self) -> "FakeOpenAI":
        self.server.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.closing.set()
        self.server.stop()
        if kind is None and self.errors:
            raise self.errors[0]

    def _note(self, request: Request) -> None:
        self.paths.append(request.path)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})

    def _list(self, request: Request) -> Response:
        self._note(request)
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "test"}
            for name in self.models
        ]
        return Response(
            json.dumps({"object": "list", "data": data}), content_type="application/json"
        )

    def _complete(self, request: Request) -> Response:
        body = json.loads(request.get_data(as_text=True))
        with self._lock:
            self._note(request)
            self.bodies.append(body)
            number = len(self.bodies)
        try:
            reply = self.answer(body, number)
        except BaseException as error:  # noqa: BLE001 - kept for the test, which sees it when the server closes
            self.errors.append(error)
            return refusal(500, f"the test's answer failed: {error!r}")
        if isinstance(reply, Response):
            return reply
        if isinstance(reply, str):
            reply = completion(reply, body["model"])
        if self.reports_usage and "usage" not in reply:
            reply = reply | {"usage": self._usage(body, reply)}
        with self._lock:
            self.usage["requests"] += 1
            for name in ("prompt_tokens", "completion_tokens"):
                reported = (reply.get("usage") or {}).get(name, 0)
                self.usage[name] += reported if isinstance(reported, int) else 0
        if body.get("stream") and isinstance(reply.get("choices"), list) and reply["choices"]:
            return Response(stream_of(reply), content_type="text/event-stream")
        return Response(json.dumps(reply), content_type="application/json")

    @staticmethod
    def _usage(body: dict, reply: dict) -> dict[str, int]:
        prompt = sum(count_tokens(message["content"]) for message in body["messages"])
        generated = sum(
            count_tokens(choice["message"]["content"] or "") for choice in reply.get("choices", [])
        )
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }
