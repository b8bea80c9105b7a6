"""What goes wrong between us and a language model's server, in words and in kinds to act on.

In: an exception of the SDK, or a reply with an error in it. Out: an LlmError. Refuses to quote more
of a server's message than a line, and none of it before the key is out of it.
"""

import email.utils
import html
import re
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.search.llm.response_limits import parse_json

if TYPE_CHECKING:
    import httpx2
    import openai

# The kinds of failure: those that may go away by themselves, and those that a person must mend.
PASSING = ("rate_limited", "server", "stalled", "unreachable", "deadline")
LASTING = ("setup", "unauthorised", "unknown_model", "context_too_long", "bad_request", "budget")
RETRIED = ("rate_limited", "server", "unreachable")  # not what may still be at work on it
BASE_URL = "(is it the base URL? It usually ends in /v1)"
SHOWN_CHARACTERS = 300  # of a server's own message
READ_CHARACTERS = 4000  # of it, to find out what it is about
MOST_OF_A_PAGE = 20_000
# What a reply that is like no other can make of code that reads it.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)


class LlmError(RuntimeError):
    """The model gave no answer. kind: one of PASSING or LASTING.

    retry_after: seconds the server asks for, None unsaid. parameter: the one that the server says
    it does not take, "" when it names none. billed: it may be paid for, though no answer came back.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        retry_after: float | None = None,
        parameter: str = "",
        billed: bool = False,
    ) -> None:
        assert kind in PASSING + LASTING, kind
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after
        self.parameter, self.billed = parameter, billed

    @property
    def passing(self) -> bool:
        return self.kind in PASSING


class EndpointError(LlmError):
    """A person must change something before this endpoint can be used; the message says what."""

    def __init__(self, message: str, kind: str = "setup") -> None:
        super().__init__(kind, message)


def failure_of(
    error: "openai.APIError | httpx2.HTTPError", clean: Callable[[str], str]
) -> LlmError:
    """Return the LlmError for an exception of the SDK, or of the connection under it.

    clean: takes the key out of a text.
    """
    import httpx2
    import openai

    cause = error if isinstance(error, httpx2.HTTPError) else error.__cause__
    not_reached = httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError
    if isinstance(cause, not_reached | httpx2.UnsupportedProtocol):
        where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
        said = f"nobody answers at {where}: {quoted_line(cause, clean)}"
        plain = " (it seems to speak http://, without the s)" * ("WRONG_VERSION" in said)
        return LlmError("unreachable", said + plain)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        silent = "the server took the request and then sent nothing in time"
        return LlmError("stalled", f"{silent} (deadline_seconds gives it longer)", billed=True)
    if isinstance(error, openai.APIStatusError):
        response = error.response
        wait = retry_after(response.headers)
        return failure_of_status(response.status_code, response.text, clean, wait)
    ended = "the connection broke off"
    if isinstance(cause, httpx2.DecodingError):
        ended = "the reply is not taken"
    return LlmError("server", f"{ended}: {quoted_line(cause or error, clean)}", billed=True)


_ANY_STATUS, _ANY_WORDS = range(1000), re.compile("")
_NO_MODEL = re.compile(
    r"model(?:[^.]|\.(?=\S)){0,200}?(not found|does ?n[o']t exist|not exist|not available"
    r"|is not supported|not a valid)|not a valid model|unknown model|invalid model|no such model"
    r"|model_not_(found|supported)|not a chat model|DeploymentNotFound|no endpoints found",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|insufficient (credit|balance|fund)|exceeded your current quota|billing"
    r"|key limit exceeded|credit balance is too low",
    re.IGNORECASE,
)
_PAGE = re.compile(r"\Aa web page")  # as page_text has it
_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_FILTERED = re.compile(r"content[_ ](filter|management)|flagged|moderat", re.IGNORECASE)
_ABOUT_A_KEY = re.compile(
    r"\A\W*\Z|\bkey\b|token|authori[sz]|authenticat|credential|forbidden", re.IGNORECASE
)
_INVALID_KEY = re.compile("API key not valid")
_TOO_LARGE = re.compile("request too large", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context[ _-]?(length|window|size|limit)|maximum (context|model length)|prompt is too long"
    r"|input is too long|too many (input )?tokens|exceeds? the (available|maximum|model)"
    r"|reduce the length|request too large|must be reduced|max_new_tokens` must be",
    re.IGNORECASE,
)
_NO_PATH = re.compile(r"\A(?!.*\bmodel)", re.IGNORECASE | re.DOTALL)

_CREDIT = "(the account or the key has no credit left, or too little for this)"
_KEY = "(the key is refused: set OPENAI_API_KEY to one that this server knows)"
_SMALLER = (
    "(give the server a larger context, or set a smaller context_tokens or max_output_tokens)"
)
_RAISE = "raise its limit, or let the model write less: max_output_tokens, reasoning_effort)"
_BETWEEN = "(something between here and the model, such as a proxy,"
_SILENCE = f"{_BETWEEN} got no answer from it; if that is after a while: {_RAISE}"
_PATIENCE = f"{_BETWEEN} waits no longer than that: {_RAISE}"
_NO_API = f"{_BETWEEN} answers with a web page and lets no request through)"
_REWORD = "(reword program.md, or ask another model)"
LATE = (408, 504, 524)  # from who waited for the model: the answer may be paid for
UNANSWERED = (502, 520, 521, 522, 523, 525, 526, 530)  # Cloudflare's, beside the common 502

# What an answer that is an error means: the first row that has its status, and words of its message
# or its code, tells its kind and what a person can do about it.
_MEANINGS = (
    ((403,), _NO_MODEL, "unknown_model", ""),
    ((402,), _ANY_WORDS, "unauthorised", _CREDIT),
    ((400, 403, 429), _NO_CREDIT, "unauthorised", _CREDIT),
    ((400, 403), _FILTERED, "bad_request", _REWORD),
    ((403,), _PAGE, "bad_request", _NO_API),
    ((401,), _ANY_WORDS, "unauthorised", _KEY),
    ((403,), _ABOUT_A_KEY, "unauthorised", _KEY),
    ((403,), _ANY_WORDS, "unauthorised", ""),
    ((400,), _INVALID_KEY, "unauthorised", _KEY),
    ((429,), _TOO_LARGE, "context_too_long", _SMALLER),
    ((429,), _ANY_WORDS, "rate_limited", ""),
    (UNANSWERED, _ANY_WORDS, "server", _SILENCE),
    (LATE, _ANY_WORDS, "stalled", _PATIENCE),
    ((409, 425, *range(500, 1000)), _ANY_WORDS, "server", ""),
    ((413,), _ANY_WORDS, "context_too_long", _SMALLER),
    (_ANY_STATUS, _CONTEXT, "context_too_long", _SMALLER),
    (_ANY_STATUS, _NO_MODEL, "unknown_model", ""),
    ((404, 405, *range(300, 400)), _NO_PATH, "bad_request", BASE_URL),
    (_ANY_STATUS, _ANY_WORDS, "bad_request", ""),
)
_PIECE = r"(\d+(?:\.\d+)?) ?(ms|[hms])[a-z]*,? ?"  # of "14m24.1s", "30 seconds"
_RETRY_IN = re.compile(rf"\b(?:re)?try (?:again )?in ((?:{_PIECE})+)", re.IGNORECASE)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def failure_of_status(
    status: int, text: str, clean: Callable[[str], str], wait: float | None = None
) -> LlmError:
    """Return the LlmError for a reply's status and text. wait: seconds that its headers ask for."""
    error = error_in(text)
    message = clean(str(error.get("message") or page_text(text)))[:READ_CHARACTERS]
    code = str(error.get("code") or error.get("type") or error.get("status") or "")
    words = f"{message} {code[:READ_CHARACTERS]}".strip()
    if wait is None and (found := _RETRY_IN.search(message)):
        wait = sum(float(n) * _SECONDS[unit] for n, unit in re.findall(_PIECE, found[1]))
    kind, advice = next(
        (kind, advice)
        for statuses, pattern, kind, advice in _MEANINGS
        if status in statuses and pattern.search(words)
    )
    if status == 429 and kind == "unauthorised" and wait is not None:
        kind, advice = "rate_limited", ""  # Google's words on a limit a minute speak of billing too
    said = f"the server answers {status}: {quoted_line(message or 'nothing more', clean)}"
    if kind == "rate_limited" and wait is not None:
        said += f"; it asks to wait {wait:.0f} s"
    return LlmError(
        kind,
        f"{said} {advice}".strip(),
        retry_after=wait,
        parameter="" if kind in ("unauthorised", "rate_limited") else _parameter(error, message),
        billed=status in LATE,
    )


def page_text(text: str) -> str:
    """What a reply says that is no JSON: itself, or what a web page shows."""
    if not re.match(r"\s*<", text):
        return text
    shown = html.unescape(_TAG.sub("\n", text[:MOST_OF_A_PAGE])).split("\n")
    lines = dict.fromkeys(" ".join(line.split()) for line in shown)
    return f"a web page, '{' '.join(filter(None, lines))}'"


def error_in(text: str) -> dict[str, Any]:
    """The error in a reply, {"message", "code", "param", ...} in any shape; {} for none."""
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


# Of an answer's length; the old name first: some servers ignore the new one, none ignores a name
# that it refuses.
LIMITS = ("max_tokens", "max_completion_tokens")
OPTIONAL = ("temperature", "reasoning_effort", "stream_options", *LIMITS)
_PARAMETER_NAMES = {name.replace("_", ""): name for name in OPTIONAL}
_PARAMETERS = re.compile(  # also as reasoningEffort or reasoning.effort
    rf"\b({'|'.join(name.replace('_', '[_.]?') for name in OPTIONAL)})\b", re.IGNORECASE
)


def _parameter(error: Mapping[str, Any], message: str) -> str:
    """The parameter that an error is about: as it says, else the first in its message."""
    named = error.get("param")
    if isinstance(named, str) and named.casefold() not in ("", "none", "null"):
        return "system" if "role" in named else named
    no_system = r"system.{0,20} role|role.{0,30}system|System message|roles must alternate"
    if re.search(no_system, message, re.IGNORECASE):
        return "system"
    if quoted := _PARAMETERS.search(message):
        return _PARAMETER_NAMES[re.sub(r"[_.]", "", quoted[0]).lower()]
    streams = r"\bstream(ing)?\b(?! (reset|closed|error|terminated))"
    return "stream" if re.search(streams, message, re.IGNORECASE) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a reply asks to wait (or until a date); None where it says none."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) * unit
        if text:
            try:
                date = email.utils.parsedate_to_datetime(text)
                return max(0.0, date.timestamp() - time.time())
            except (ValueError, OverflowError, OSError):
                continue
    return None


_SECRETS = re.compile(r"\b(Bearer\s+)\S+|\b(sk-)[\w*.-]{6,}|(://)[^/\s@]+(?=@)", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without what looks like a key: after Bearer or sk-, or before a URL's host."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[2] or found[3]}[removed]", text)


def quoted_line(text: object, clean: Callable[[str], str]) -> str:
    """One line of a server's words: no key, no control characters, and not too long."""
    said = clean(str(text))[:READ_CHARACTERS]  # the key first: half of it would not be known as one
    plain = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in said)
    plain = " ".join(redact(plain).split())
    return plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]} ..."
