"""The options of the language model: what a person may set with `--llm NAME=VALUE`.

In: the options as text, a model's name, the environment. Out: LlmOptions. Refuses an unknown name
(with the close ones), a value of the wrong kind, a key or a password in a URL or an option: that
goes in OPENAI_API_KEY, and no message quotes what may be one.
"""

import dataclasses
import difflib
import math
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.search.llm.failures import EndpointError

DEFAULT_BASE_URL = "https://api.openai.com/v1"
EXAMPLE_URL = "it looks like http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class LlmOptions:
    """What a person may set with --llm NAME=VALUE.

    Budgets are of the whole run; 0: no limit. Prices: USD per million tokens, None: unknown.
    """

    model: str = ""
    base_url: str = ""
    temperature: float | None = None  # None: the server's own
    reasoning_effort: str = ""  # for models that know it: low, medium, high; "": the server's own
    max_output_tokens: int = 16000  # reasoning included
    context_tokens: int = 48000  # of a proposal's first request; each correction adds to it
    deadline_seconds: float = 900.0  # of one proposal, all its requests together
    budget_tokens: int = 0
    budget_usd: float = 0.0
    budget_requests: int = 0
    budget_hours: float = 0.0  # since the run's first request
    price_input: float | None = None
    price_output: float | None = None


KINDS = {field.name: field.type for field in dataclasses.fields(LlmOptions)}
NEVER_ZERO = ("max_output_tokens", "context_tokens", "deadline_seconds")


def parse_options(
    text: str, model: str = "", environment: Mapping[str, str] | None = None
) -> LlmOptions:
    """Return the options in `NAME=VALUE ...` (blanks or commas between). Raises EndpointError.

    A model: the argument, else the option, else AUTORESEARCH_MODEL. A base URL: the option, else
    OPENAI_BASE_URL, else OpenAI's.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for item in text.replace(",", " ").split():
        name, equals, value = item.partition("=")
        _check_name(name, bool(equals))
        if name in values:
            raise EndpointError(f"{name} is given twice")
        values[name] = value if KINDS[name] is str else _number(name, value)
    named = environment.get("AUTORESEARCH_MODEL", "").strip()
    values["model"] = model.strip() or values.get("model") or named
    url = values.get("base_url") or environment.get("OPENAI_BASE_URL", "").strip()
    values["base_url"] = _checked_url(url or DEFAULT_BASE_URL)
    options = LlmOptions(**values)
    if options.budget_usd and None in (options.price_input, options.price_output):
        raise EndpointError(
            "budget_usd needs price_input=... and price_output=..., in USD per million tokens: no "
            "price is built in"
        )
    return options


def _check_name(name: str, has_value: bool) -> None:
    if name in KINDS and has_value:
        return
    if "key" in name.lower() or name.lower() == "token":
        raise EndpointError("a key is no option: set OPENAI_API_KEY in the environment")
    if name in KINDS or not has_value or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
        # Not quoted: it may be a key.
        raise EndpointError("every option is NAME=VALUE, for instance temperature=0.7")
    close = difflib.get_close_matches(name, KINDS, 3, 0.5) or KINDS
    raise EndpointError(f"there is no option {name}: there is {', '.join(close)}")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise EndpointError(f"{name} must be a number") from None
    whole, least = KINDS[name] is int, int(name in NEVER_ZERO)
    if not math.isfinite(value) or value < least or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise EndpointError(f"{name} must be {kind} of {least} or more")
    return int(value) if whole else value


def _checked_url(url: str) -> str:
    """The base URL without a last slash. It is never quoted where it may hold a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise EndpointError(f"the base URL is not a URL: {EXAMPLE_URL}") from None
    if parts.query.startswith("api-version="):
        raise EndpointError(
            "the base URL of an Azure resource has no ?api-version=...: it ends in /openai/v1"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EndpointError(
            "the base URL must have no user, password or query: a key goes in OPENAI_API_KEY"
        )
    is_web = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not is_web or not url.isascii() or not url.isprintable():
        raise EndpointError(
            f"the base URL must begin with http:// or https:// and a host: {EXAMPLE_URL}"
        )
    if parts.path.rstrip("/").endswith(("/chat/completions", "/models")):
        raise EndpointError(f"the base URL ends before /chat/completions or /models: {EXAMPLE_URL}")
    return url.rstrip("/")
