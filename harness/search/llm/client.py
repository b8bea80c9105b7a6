"""A chat with a language model: messages in, an answer or a reason out, under one deadline.

In: an endpoint, options, a model's name, a list of messages. Out: an Answer; one that is empty,
refused or cut off is an Answer too, and says so. Or an LlmError.

One retry policy, here; the SDK has none of its own. Tried again while the deadline leaves time: 429
(after its Retry-After), 5xx, broken connections, replies that are no reply; never what took the
request and fell silent. Answers are streamed where the server can, so that nothing between here and
there takes a slow one for a dead one. A parameter that a server does not take is left out once and
remembered until the night is started again. Nothing is sent that a budget has no room for, nothing
is read before it is saved, and a reply that was saved before a kill is not asked for again.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.search.llm.endpoint import Endpoint, LlmOptions
from harness.search.llm.exchanges import Exchanges, estimate_tokens
from harness.search.llm.failures import (
    BASE_URL,
    LIMITS,
    OPTIONAL,
    RETRIED,
    UNREADABLE,
    LlmError,
    error_in,
    failure_of,
    failure_of_status,
    page_text,
    quoted_line,
)
from harness.search.llm.quoting import without_chat_marks
from harness.search.llm.reasoning import message_parts
from harness.search.llm.response_limits import parse_json
from harness.search.llm.stream import BrokenStream, whole_reply

MOST_TRIES = 4
FIRST_WAIT_SECONDS = 1.0  # then twice as long each time
CONNECT_SECONDS = 10.0
LEAST_SECONDS = 1.0  # with less than this left nothing is begun
MOST_TOKENS = 10**9  # that a reply may say it took; more is no count
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
# Of a deadline that a stream, once begun, may be silent; some models think without a word.
SILENT_SHARE = 0.5
# What is left out where a model knows no such role: its message goes into the user's first one.
SYSTEM = "system"
ROOM = "room"  # left out for one prompt only: any limit of the answer
CUT_CONTEXT = 0.4  # a server that counts less than this share of the prompt has cut it

# How an answer ends, and the words of servers for it in small letters. Any other end is unknown and
# refused: what it means for the text would be a guess; `tool_calls` and `function_call` too, since
# some servers take what looks like a call out of the text.
ENDS = {
    "finished": """
        stop none null stop_sequence eos eos_token end_turn complete completed endoftext done
    """,
    "cut off": """
        length max_tokens max_output_tokens max_length model_length incomplete token_limit
        model_context_window_exceeded context_length_exceeded
    """,
    "broken": """
        error cancelled canceled abort aborted failed timeout network_error engine_error
        insufficient_system_resource
    """,
    "filtered": """
        content_filter content_filtered safety sensitive blocklist blocked spii prohibited_content
        guardrail_intervened refusal
    """,
}
END_OF = {word: end for end, words in ENDS.items() for word in words.split()}
FINISH_CHARACTERS = 60


@dataclass(frozen=True)
class Answer:
    """What a model said. end: one of ENDS, or unknown; finish_reason: the server's word for it.

    refusal: the model's words, "" when it did not refuse. warning: what a person should know, ""
    for nothing.
    """

    text: str
    reasoning: str
    end: str
    finish_reason: str
    refusal: str
    warning: str


class Chat:
    """Questions to one model, all under one deadline that begins with the first of them."""

    def __init__(
        self, endpoint: Endpoint, options: LlmOptions, model: str, exchanges: Exchanges
    ) -> None:
        self.endpoint, self.options, self.exchanges = endpoint, options, exchanges
        self.model = self.answered_by = model
        self._ends: float | None = None
        self._last: LlmError | None = None  # it says more than that a deadline is over

    def seconds_left(self) -> float:
        """What is left of the deadline."""
        seconds = self.options.deadline_seconds
        return seconds if self._ends is None else self._ends - time.monotonic()

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """Return the model's answer to a chat of {"role", "content"}. Raises LlmError.

        The same messages asked again in one folder get the same answer, without a request.
        """
        if self._ends is None:
            self._ends = time.monotonic() + self.options.deadline_seconds
        messages = [
            # train.py stands in them to the letter, comments of edited code included
            {"role": m["role"], "content": self._clean(without_chat_marks(m["content"]))}
            for m in messages
        ]
        known = self.exchanges.dropped(self.model)
        left_out: dict[str, bool] = {}  # what is left out, and whether for the whole run
        while True:
            body = self._body(messages, known | left_out.keys())
            self._check_limit(body)
            try:
                answer = self._ask_patiently(body)
            except LlmError as error:
                name = self._to_leave_out(error, body)
                if not name or name in known | left_out.keys():
                    raise
                # One broken stream is no server without streams.
                left_out[name] = name != ROOM and error.kind != "stalled"
            else:
                return self._remember(answer, [name for name in left_out if left_out[name]])

    def _remember(self, answer: Answer, refused: Sequence[str]) -> Answer:
        for name in sorted(refused):
            self.exchanges.drop(self.model, name)
        told = sorted(set(refused) - {*LIMITS, *STREAM, SYSTEM})
        if not told:
            return answer
        warning = f"the server does not take {', '.join(told)}: left out from now on"
        return replace(answer, warning="; ".join(filter(None, (answer.warning, warning))))

    def _body(self, messages: list[dict[str, str]], left_out: set[str]) -> dict[str, Any]:
        if SYSTEM in left_out and messages[0]["role"] == "system" and len(messages) > 1:
            joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            messages = [messages[1] | {"content": joined}, *messages[2:]]
        wanted = {
            "temperature": self.options.temperature,
            "reasoning_effort": self.options.reasoning_effort or None,
        }
        limit = next((name for name in LIMITS if not left_out & {name, ROOM}), None)
        if limit:
            wanted[limit] = self.options.max_output_tokens
        if "stream" not in left_out:
            wanted |= STREAM
        sent = {
            name: value
            for name, value in wanted.items()
            if value is not None and name not in left_out
        }
        return {"model": self.model, "messages": messages} | sent

    def _check_limit(self, body: Mapping[str, Any]) -> None:
        """Raise LlmError for an answer of any length, where a budget depends on its length."""
        if self._counts_tokens and not body.keys() & set(LIMITS):
            raise LlmError(
                "budget",
                f"the server takes no limit of an answer's length ({' or '.join(LIMITS)} of "
                f"{self.options.max_output_tokens:,}), so that budget_tokens and budget_usd cannot "
                "be kept: set a smaller max_output_tokens, or budget_requests or budget_hours "
                "instead",
            )

    @property
    def _counts_tokens(self) -> bool:
        return bool(self.options.budget_tokens or self.options.budget_usd)

    def _to_leave_out(self, error: LlmError, body: Mapping[str, Any]) -> str:
        """What a request may be tried again without, "" for nothing."""
        limited = body.keys() & set(LIMITS)
        if error.kind == "context_too_long" and limited and not self._counts_tokens:
            return ROOM  # some add the room for the answer to the prompt: the prompt alone may fit
        known = {SYSTEM} | body.keys() & {*OPTIONAL, *STREAM}
        return error.parameter if error.parameter in known else ""

    def _ask_patiently(self, body: dict[str, Any]) -> Answer:
        for number, text in self.exchanges.saved_replies(body):
            with contextlib.suppress(LlmError):  # no reply in it: it is asked for again below
                return self._read(number, body, text)
        for attempt in itertools.count(1):
            try:
                return self._send(body)
            except LlmError as error:
                wait = error.retry_after
                if wait is None:
                    wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
                too_late = self.seconds_left() < wait + LEAST_SECONDS
                if error.kind not in RETRIED or too_late or attempt >= MOST_TRIES:
                    raise
            time.sleep(wait)

    def _send(self, body: dict[str, Any]) -> Answer:
        if self.seconds_left() < LEAST_SECONDS:
            raise self._late()
        number = self.exchanges.begin(body)
        try:
            status, text = self._post(number, body)
            self.exchanges.save_reply(number, status, text)
            return self._read(number, body, text)
        except LlmError as error:
            self.exchanges.failed(number, error)
            self._last = error
            raise

    def _post(self, number: int, body: dict[str, Any]) -> tuple[int, str]:
        """Return (status, reply as it came, without the key) of one request. Raises LlmError."""
        import httpx2
        import openai

        seconds = self.seconds_left()  # a slow answer is no dead one
        timeout = httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds), pool=seconds)
        silence = SILENT_SHARE * self.options.deadline_seconds
        try:
            with self.endpoint.open_client(self.seconds_left, silence) as client:
                completions = client.chat.completions.with_raw_response
                response = completions.create(**body, timeout=timeout).http_response
                response.read()  # of a stream only its head is there
                return response.status_code, self.endpoint.redact(whole_reply(response.text))
        except BrokenStream as error:
            raise LlmError("stalled", str(error), parameter="stream", billed=True) from None
        except (openai.APIError, httpx2.HTTPError) as error:
            if isinstance(error, openai.APIStatusError):
                refusal = self.endpoint.redact(error.response.text)
                self.exchanges.save_reply(number, error.status_code, refusal)
            failure = failure_of(error, self.endpoint.redact)
            if failure.kind == "stalled" and self.seconds_left() < LEAST_SECONDS:
                failure = self._late()
            raise failure from None

    def _late(self) -> LlmError:
        before = f"; before that: {self._last}" if self._last else ""
        seconds = f"deadline_seconds={self.options.deadline_seconds:g}"
        return LlmError("deadline", f"no complete answer within {seconds}{before}", billed=True)

    def _read(self, number: int, body: Mapping[str, Any], text: str) -> Answer:
        """Return the answer in a reply that is saved, and count what it took.

        Raises LlmError where there is none, or none that can be read.
        """
        try:
            return self._answer_in(number, body, text)
        except UNREADABLE as error:
            what = f"the reply cannot be read ({type(error).__name__})"
            raise LlmError("server", what, billed=True) from None

    def _answer_in(self, number: int, body: Mapping[str, Any], text: str) -> Answer:
        reply = self._reply_in(text)
        choice = reply["choices"][0]
        said, thought, refusal = (self._clean(part) for part in message_parts(choice["message"]))
        usage = reply.get("usage") if isinstance(reply.get("usage"), Mapping) else {}
        prompt_tokens = _count(usage.get("prompt_tokens")) or None  # no prompt is empty
        completion_tokens = _count(usage.get("completion_tokens"))
        whole = said + thought + refusal
        if whole:
            completion_tokens = completion_tokens or None
        taken = self.exchanges.answered(number, prompt_tokens, completion_tokens, whole)
        finish = " ".join(self._clean(str(choice.get("finish_reason") or "")).split())
        finish = finish[:FINISH_CHARACTERS]
        end = END_OF.get(finish.casefold() or "stop", "unknown")
        if end == "filtered" and not refusal:
            refusal = "the server's content filter held the answer back"
        tokens = f"{taken.prompt_tokens:,} + {taken.completion_tokens:,} tokens"
        first = f"{self.model}: {tokens}, ended with {finish or 'no reason'}"
        parts = {"reasoning": thought, "answer": said, "refusal": refusal}
        self.exchanges.write_readable(number, first, parts)
        if end == "broken":
            raise LlmError("server", f"the answer ended with {finish}", billed=True)
        warnings = [_cut_context(body, prompt_tokens), self._other_model(reply)]
        warning = "; ".join(filter(None, warnings))
        return Answer(said, thought, end, finish, refusal, warning)

    def _reply_in(self, text: str) -> dict[str, Any]:
        """Return the chat completion in a text. Raises LlmError."""
        try:
            reply = parse_json(text)
            if isinstance(reply["choices"][0]["message"], Mapping):
                return reply
        except (ValueError, LookupError, TypeError):
            pass
        error, clean = error_in(text), self.endpoint.redact
        code = error.get("code")
        if isinstance(code, int) and 400 <= code < 600 and "choices" not in error:
            raise failure_of_status(code, text, clean)  # OpenRouter: 200, and the status inside
        shown = quoted_line(error.get("message") or page_text(text) or "nothing", clean)
        page = re.search(r"\Aa web page|unexpected endpoint", shown, re.IGNORECASE)
        advice = f" {BASE_URL}" if page else ""
        raise LlmError("server", f"no chat completion in the reply: {shown}{advice}", billed=True)

    def _other_model(self, reply: Mapping[str, Any]) -> str:
        """What a person should know where another model answers than was asked, "" where none."""
        name = reply.get("model")
        answered = " ".join(self._clean(name).split())[:80] if isinstance(name, str) else ""
        here, there = (each.rpartition("/")[2].casefold() for each in (self.model, answered))
        same = not there or here.startswith(there) or there.startswith(here)
        self.answered_by = self.model if same else answered
        return "" if same else f"{answered} answered, where {self.model} was asked"

    def _clean(self, text: str) -> str:
        """A part of a reply as it may be kept: without the key, which JSON can write in more ways
        than one, and without lone surrogates, which JSON may hold and UTF-8 may not.
        """
        return self.endpoint.redact(text.encode("utf-8", "replace").decode("utf-8"))


def _cut_context(body: Mapping[str, Any], prompt_tokens: int | None) -> str:
    """What a person should know where a server seems to have cut the prompt."""
    expected = estimate_tokens(body["messages"])
    if not prompt_tokens or expected < 2000 or prompt_tokens > CUT_CONTEXT * expected:
        return ""
    return (
        f"the server counts {prompt_tokens:,} tokens in a prompt of about {expected:,}: it may cut "
        "what does not fit its context (Ollama: set OLLAMA_CONTEXT_LENGTH)"
    )


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MOST_TOKENS else None
