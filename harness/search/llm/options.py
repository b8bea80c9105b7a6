"""The options of the language model: what a person may set with `--llm NAME=VALUE`.

In: the options as text, a model's name, the environment. Out: LlmOptions. Refuses an unknown name (with the close ones), a value of the wrong kind,
a key or a password in a URL or an option: that goes in OPENAI_API_KEY, and no message quotes what may be one.
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


@dataclass(frozen=True)
class LlmOptions:
    """What a person may set with --llm NAME=VALUE. Budgets are of the whole run; 0: no limit. Prices: USD per million tokens, None: unknown."""

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


def parse_options(text: str, model: str = "", environment: Mapping[str, str] | None = None) -> LlmOptions:
    """Return the options in `NAME=VALUE ...` (blanks or commas between them). Raises EndpointError.

    A model: the argument, else the option, else AUTORESEARCH_MODEL. A base URL: the option, else OPENAI_BASE_URL, else OpenAI's.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for item in text.replace(",", " ").split():
        name, equals, value = item.partition("=")
        _check_name(name, bool(equals))
        if name in values:
            raise refused(f"{name} is given twice")
        values[name] = _read_value(name, value)
    values["model"] = model.strip() or values.get("model") or environment.get("AUTORESEARCH_MODEL", "").strip()
    url = values.get("base_url") or environment.get("OPENAI_BASE_URL", "").strip() or DEFAULT_BASE_URL
    values["base_url"] = _checked_url(url)
    options = LlmOptions(**values)
    if options.budget_usd and None in (options.price_input, options.price_output):
        raise refused(
            "budget_usd needs price_input=... and price_output=..., in USD per million tokens: no price is built in"
        )
    return options


def _check_name(name: str, has_value: bool) -> None:
    known = [field.name for field in dataclasses.fields(LlmOptions)]
    if name in known and has_value:
        return
    if "key" in name.lower() or name.lower() == "token":
        raise refused("a key is no option: set OPENAI_API_KEY in the environment")
    if name in known or not re.fullmatch(r"[A-Za-z_]{1,40}", name) or not has_value:  # never quoted: it may be a key
        raise refused("every option is NAME=VALUE, for instance temperature=0.7")
    close = difflib.get_close_matches(name, known, 3, 0.5) or known
    raise refused(f"there is no option {name}: there is {', '.join(close)}")


def _read_value(name: str, text: str) -> Any:
    if name in ("model", "base_url", "reasoning_effort"):
        return text
    whole = name in ("max_output_tokens", "context_tokens", "budget_tokens", "budget_requests")
    try:
        value = float(text)
    except ValueError:
        raise refused(f"{name} must be a number") from None
    least = 1 if name in ("max_output_tokens", "context_tokens", "deadline_seconds") else 0
    if not math.isfinite(value) or value < least or (whole and value != int(value)):
        raise refused(f"{name} must be {'a whole number' if whole else 'a number'} of {least} or more")
    return int(value) if whole else value


def _checked_url(url: str) -> str:
    """The base URL without a last slash. It is never quoted where it may hold a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise refused("the base URL is not a URL: it looks like http://127.0.0.1:8000/v1") from None
    if parts.query.startswith("api-version="):
        raise refused(
            "the base URL of an Azure resource has no ?api-version=...: it ends in /openai/v1"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise refused("the base URL must have no user, password or query: a key goes in OPENAI_API_KEY")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not url.isascii()
        or not url.isprintable()
    ):
        raise refused(
            "the base URL must begin with http:// or https:// and a host: it looks like http://127.0.0.1:8000/v1"
        )
    if parts.path.rstrip("/").endswith(("/chat/completions", "/models")):
        raise refused("the base URL ends before /chat/completions or /models: it looks like http://127.0.0.1:8000/v1")
    return url.rstrip("/")


def refused(message: str) -> EndpointError:
    """An EndpointError for something that a person must change."""
    return EndpointError("setup", message, passing=False)
