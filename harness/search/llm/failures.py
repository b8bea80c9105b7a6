"""What goes wrong between us and a language model's server, in words and in kinds that a caller can act on.

In: an exception of the SDK, or a reply with an error in it. Out: an LlmError. Refuses to quote more of a server's message than a line, and none of
it before the key is out of it.
"""

import email.utils
import re
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.search.llm.response_limits import parse_json

if TYPE_CHECKING:
    import httpx2
    import openai

KINDS = (
    "setup", "unauthorised", "unknown_model", "rate_limited", "server", "stalled", "unreachable", "context_too_long", "bad_request",
    "budget", "deadline",
)  # fmt: skip
RETRIED = ("rate_limited", "server", "unreachable")  # not what took the request and is at work on it
# What stands between here and a model says that it waited too long for it.
PROXIES = dict.fromkeys((504, 524), "something between here and the model, such as a proxy, waits no longer than that:") | {
    502: "something between here and the model, such as a proxy, got no answer from it; if that is after a while:"
}
BASE_URL = "(is it the base URL? It usually ends in /v1)"
_ABOUT_A_KEY = re.compile(r"\A\W*\Z|\bkey\b|token|authori[sz]|authenticat|credential|forbidden", re.IGNORECASE)
SHOWN_CHARACTERS = 300  # of a server's own message
READ_CHARACTERS = 4000  # of it, to find out what it is about
UNREADABLE = (
    RecursionError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AttributeError,
    MemoryError,
)  # what a reply that is like no other can make of code that reads it

_SECRETS = re.compile(r"\b(Bearer\s+)\S+|\b(sk-)[\w*.-]{6,}|(://)[^/\s@]+(?=@)", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context[ _-]?(length|window|size|limit)|maximum context|prompt is too long|input is too long|too many (input )?tokens"
    r"|exceeds? the (available|maximum|model)|reduce the length|request too large|must be reduced|max_new_tokens` must be",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model(?:[^.]|\.(?=\S)){0,200}?(not found|does ?n[o']t exist|not exist|not available|is not supported|not a valid)|not a valid model"
    r"|unknown model|invalid model|no such model|model_not_(found|supported)|not a chat model|DeploymentNotFound|no endpoints found",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|insufficient (credit|balance|fund)|exceeded your current quota|billing|key limit exceeded", re.IGNORECASE
)
_RETRY_IN = re.compile(r"\bretry in ([\d.]+) ?s", re.IGNORECASE)  # Google's, whose words on a limit a minute speak of billing too
_UNSAID = ("", "none", "null")


class LlmError(RuntimeError):
    """The model gave no answer. kind: one of KINDS; passing: it may go away by itself; retry_after: seconds the server asks for, None unsaid.

    parameter: the name of the one parameter that the server says it does not take, "" when it names none.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        passing: bool,
        retry_after: float | None = None,
        parameter: str = "",
        billed: bool = False,
    ) -> None:
        assert kind in KINDS, kind
        super().__init__(message)
        self.kind, self.passing, self.retry_after, self.parameter = kind, passing, retry_after, parameter
        self.billed = billed  # the request was sent and no answer came back: it may be paid for all the same

    @property
    def worth_a_retry(self) -> bool:
        return self.passing and self.kind in RETRIED


class EndpointError(LlmError):
    """A person must change something before this endpoint can be used; the message says what."""


def redact(text: str) -> str:
    """The text without whatever looks like a key: after Bearer, after sk-, or before the host in a URL."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[2] or found[3]}[removed]", text)


def failure_of(error: "openai.APIError | httpx2.HTTPError", clean: Callable[[str], str]) -> LlmError:
    """Return the LlmError for an exception of the SDK, or of the connection under it. clean: takes the key out of a text."""
    import httpx2
    import openai

    cause = error if isinstance(error, httpx2.HTTPError) else error.__cause__
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError | httpx2.UnsupportedProtocol):
        where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
        return LlmError("unreachable", f"nobody answers at {where}: {quoted_line(cause, clean)}", passing=True)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return LlmError(
            "stalled",
            "the server took the request and then sent nothing in time (deadline_seconds gives it longer)",
            passing=True,
            billed=True,
        )
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return failure_of_status(response.status_code, response.text, clean, retry_after(response.headers))
    if isinstance(cause, httpx2.DecodingError):
        return LlmError("server", f"the reply is not taken: {quoted_line(cause, clean)}", passing=True, billed=True)
    return LlmError("server", f"the connection broke off: {quoted_line(cause or error, clean)}", passing=True, billed=True)


def failure_of_status(status: int, text: str, clean: Callable[[str], str], wait: float | None = None) -> LlmError:
    """Return the LlmError for a reply's status and text."""
    error = error_in(text)
    message = clean(str(error.get("message") or ""))[:READ_CHARACTERS]
    code = str(error.get("code") or error.get("type") or error.get("status") or "")[:READ_CHARACTERS]
    said = f"the server answers {status}: {quoted_line(message or text or 'nothing more', clean)}"
    if wait is None and (found := _RETRY_IN.search(message)):
        wait = float(found[1])
    no_model = "model_not_found" in code or (status in (400, 403, 404, 422) and _NO_MODEL.search(f"{code} {message}"))
    if status == 403 and no_model:
        return LlmError("unknown_model", said, passing=False)
    if status in (402, 403) and _NO_CREDIT.search(f"{code} {message}"):
        return LlmError("unauthorised", f"{said} (the account or the key has no credit left)", passing=False)
    if status == 403 and not _ABOUT_A_KEY.search(message):
        return LlmError("unauthorised", said, passing=False)
    if status in (401, 403) or (status == 400 and "API key not valid" in message):
        return LlmError(
            "unauthorised",
            f"{said} (the key is refused: set OPENAI_API_KEY to one that this server knows)",
            passing=False,
        )
    if status == 402 or (status == 429 and wait is None and _NO_CREDIT.search(f"{code} {message}")):
        return LlmError("unauthorised", f"{said} (the account has no credit left)", passing=False)
    if status == 429 and not re.search("request too large", message, re.IGNORECASE):
        asked = f"; it asks to wait {wait:.0f} s" if wait is not None else ""
        return LlmError("rate_limited", said + asked, passing=True, retry_after=wait)
    if status in PROXIES:
        said = f"{said} ({PROXIES[status]} raise its limit, or let the model write less: max_output_tokens, reasoning_effort)"
    if status in (408, 409, 425) or status >= 500:
        failure = LlmError("server", said, passing=True, retry_after=wait, billed=status in (408, 504, 524))
    elif status in (413, 429) or "context_length" in code or "exceed_context_size" in code or _CONTEXT.search(message):
        failure = LlmError(
            "context_too_long", f"{said} (set a smaller context_tokens or max_output_tokens)", passing=False
        )
    elif no_model:
        failure = LlmError("unknown_model", said, passing=False)
    elif status in (404, 405) or 300 <= status < 400:
        told = message and not re.fullmatch(r"(?i)\W*not found\W*|.*(path|route|url|endpoint).*", message)
        failure = LlmError("bad_request", said if told else f"{said} {BASE_URL}", passing=False)
    else:
        failure = LlmError("bad_request", said, passing=False)
    failure.parameter = _parameter(error | {"message": message})
    return failure


def error_in(text: str) -> dict[str, Any]:
    """The error in a reply, as {"message", "code", "param", ...}, from the shapes that servers give it; {} when there is none."""
    try:
        body = parse_json(text)
    except ValueError:
        return {}
    if isinstance(body, list):  # Google's
        body = next((each for each in body if isinstance(each, Mapping)), None)
    if not isinstance(body, Mapping):
        return {}
    found = body.get("error", body.get("detail", body))
    if isinstance(found, str):
        return {"message": found}
    if isinstance(found, list):  # FastAPI's: [{"loc": ["body", "temperature"], "msg": "..."}]
        first = found[0] if found and isinstance(found[0], Mapping) else {}
        place = first.get("loc") if isinstance(first.get("loc"), list) else []
        return {"message": str(first.get("msg", "")), "param": str(place[-1]) if place else None}
    return dict(found) if isinstance(found, Mapping) else {}


def _parameter(error: Mapping[str, Any]) -> str:
    """The parameter that an error is about: the one it names as such, else the first one quoted in its message."""
    named = error.get("param")
    if isinstance(named, str) and named.casefold() not in _UNSAID:
        return "system" if "role" in named else named
    message = str(error.get("message") or "")
    if re.search(r"system.{0,20} role|role.{0,30}system|System message", message, re.IGNORECASE):
        return "system"
    quoted = re.search(r"\b(max_completion_tokens|max_tokens|temperature|reasoning_effort|stream_options)\b", message)
    if quoted:
        return quoted[1]
    return "stream" if re.search(r"\bstream(ing)?\b(?! (reset|closed|error|terminated))", message, re.IGNORECASE) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a reply asks to wait, from Retry-After (seconds or a date) or retry-after-ms; None where it says nothing usable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) * unit
        if text:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
            except (ValueError, OverflowError, OSError):
                continue
    return None


def quoted_line(text: object, clean: Callable[[str], str]) -> str:
    """One line of a server's words, without the key, without control characters, and not too long."""
    said = clean(str(text))[:READ_CHARACTERS]  # the key first: half of it would not be known as one
    plain = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in said)
    plain = " ".join(redact(plain).split())
    return plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]} ..."
