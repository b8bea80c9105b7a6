"""Where the language model is asked: the server, its key, and which of its models.

In: LlmOptions, the environment, the file of the key. Out: an Endpoint that holds the key; the
model's name. As a command, `python -m harness.search.llm.endpoint REQUEST.json` prints {"model":
...}, or one line on standard error: exit 2 when the server cannot be reached or is too busy, 1 for
all that a person must change.

Refuses: a key that no header can carry, OpenAI without a key, several models of which nobody named
one. No model is built in. The key is read here and nowhere else; it is in no repr and no message.
"""

import base64
import functools
import ipaddress
import json
import logging
import math
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.ground.files import read_json
from harness.search.llm.failures import (
    BASE_URL,
    UNREADABLE,
    EndpointError,
    LlmError,
    error_in,
    failure_of,
    quoted_line,
    redact,
)
from harness.search.llm.model_list import models_in
from harness.search.llm.options import DEFAULT_BASE_URL, LlmOptions, parse_options
from harness.search.llm.response_limits import limit_reply, parse_json

if TYPE_CHECKING:
    import ssl

    import openai

LIST_SECONDS = 20.0  # a list of models is short work
NO_PATH = (301, 302, 307, 308, 404, 405)  # nothing answers chats at this address
SHOWN_MODELS = 40
REMOVED = "[key removed]"
# Characters; a shorter "key", as local servers take, is no secret and may be a word of an answer.
SECRET_LENGTH = 8
# What may stand between the characters of a key that was broken over lines, or of its bytes in hex.
GAP = r"(?:\s|\\{1,8}[nr]|[\u200b-\u200d\ufeff]){0,4}"
HEX_GAP = r"(?:[\s:,]|0x|\\{1,8}[xnr]){0,4}"


class Endpoint:
    """A server and the key for it. Shows the key to nobody but the SDK's client."""

    def __init__(self, base_url: str, key: str = "") -> None:
        self.base_url, self._key = base_url, key

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r}, {'with' if self._key else 'without'} a key)"

    @property
    def is_local(self) -> bool:
        host = urllib.parse.urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def redact(self, text: str) -> str:
        """The text without the key or half of it, as it is, in base64 or hex, or as JSON or a URL
        may write it: a server may echo what it was sent.
        """
        return self._forms.sub(REMOVED, text) if len(self._key) >= SECRET_LENGTH else text

    @functools.cached_property
    def _forms(self) -> re.Pattern[str]:
        half = len(self._key) // 2
        parts = [
            self._key,
            *(part for part in (self._key[:half], self._key[half:]) if len(part) >= SECRET_LENGTH),
        ]
        written = [GAP.join(map(_forms_of, word)) for part in parts for word in (part, part[::-1])]
        coded = [text for part in parts for text in _coded(part.encode())]
        return re.compile("|".join([*written, *coded]))

    def open_client(
        self, seconds_left: Callable[[], float], silence: float = math.inf
    ) -> "openai.OpenAI":
        """The SDK's client: no retries of its own, no redirects (the key goes to this server only),
        no proxy to this machine itself.

        seconds_left: until when a reply must be there, asked again and again while it comes.
        silence: seconds that a stream may send nothing.
        """
        import httpx2
        import openai

        hooks = {
            "request": [],
            "response": [
                functools.partial(limit_reply, seconds_left=seconds_left, silence=silence)
            ],
        }
        if not self._key:  # the SDK insists on a key; this takes the word back out
            hooks["request"].append(lambda request: request.headers.pop("Authorization", None))
        # Debug lines would quote a server's headers, which may echo ours.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            trusted = _certificates()
            http = httpx2.Client(
                headers={"Accept-Encoding": "identity"},
                verify=trusted,
                follow_redirects=False,
                trust_env=not self.is_local,
                event_hooks=hooks,
            )
        except (ImportError, ValueError, OSError, httpx2.InvalidURL):
            # Not quoted: a proxy's URL may hold a password.
            raise EndpointError(
                "a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) or the certificates (SSL_CERT_FILE,"
                " SSL_CERT_DIR) that the environment names cannot be used"
            ) from None
        key = self._key or "none"
        return openai.OpenAI(api_key=key, base_url=self.base_url, max_retries=0, http_client=http)


def _forms_of(character: str) -> str:
    """The pattern of a character of a key: raw, as \\u00XX, %XX or &#N;; JSON inside JSON has more
    backslashes, a URL in a URL %25XX.
    """
    code, before = f"{ord(character):02x}", "" if character.isalnum() else r"\\{0,8}"
    html = rf"&\#0{{0,4}}(?:{ord(character)}|x0{{0,4}}{code});"
    coded = rf"(?i:\\{{1,8}}u00{code}|%(?:25){{0,4}}{code}|{html})"
    return rf"(?:{before}{re.escape(character)}|{coded})"


def _coded(part: bytes) -> set[str]:
    """Patterns of how hex, and base64 at any place in a longer text, write these bytes; the
    characters that others share are left out.
    """
    hexes = {f"(?i:{HEX_GAP.join(f'{byte:02x}' for byte in part)})"}
    found = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + part).decode().rstrip("=")
        core = text[math.ceil(before * 8 / 6) :][: len(part) * 8 // 6 - 1]
        found |= {core, core.replace("+", "-").replace("/", "_")}
    return hexes | {GAP.join(map(re.escape, text)) for text in found}


@functools.cache
def _certificates() -> "ssl.SSLContext":
    """Whom to trust, read once: that takes a tenth of a second."""
    import httpx2

    return httpx2.create_ssl_context()


def open_endpoint(
    options: LlmOptions,
    key_file: str | os.PathLike[str] = "",
    environment: Mapping[str, str] | None = None,
) -> Endpoint:
    """The endpoint with its key: the file's, else OPENAI_API_KEY, else none, which only another
    server than OpenAI's takes. Raises EndpointError.
    """
    environment = os.environ if environment is None else environment
    if key_file:
        try:
            key = Path(key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise EndpointError(
                "the file that held the key cannot be read: start again with OPENAI_API_KEY in the"
                " environment"
            ) from None
    else:
        key = environment.get("OPENAI_API_KEY", "").strip()
    # What no header can carry would be quoted in an error far from here.
    if not re.fullmatch(r"[!-~]*", key):
        raise EndpointError(
            "the key in OPENAI_API_KEY has blanks or characters outside of ASCII: copy it again"
        )
    if not key and options.base_url == DEFAULT_BASE_URL:
        raise EndpointError(
            "no key: set OPENAI_API_KEY, or base_url=http://127.0.0.1:8000/v1 for a server that"
            " needs none"
        )
    return Endpoint(options.base_url, key)


def list_models(endpoint: Endpoint) -> dict[str, int | None] | None:
    """{name: tokens of its context or None} of the models that are served, sorted; None where the
    server has no such list. Raises LlmError.
    """
    import openai

    try:
        with endpoint.open_client(_seconds_left(LIST_SECONDS)) as client:
            raw = client.models.with_raw_response.list(timeout=LIST_SECONDS).http_response.text
        served = models_in(parse_json(raw)).items()
        named = {redact(endpoint.redact(name)): tokens for name, tokens in served}
        return {name: named[name] for name in sorted(named) if name.isprintable()}
    except openai.APIError as error:
        if getattr(error, "status_code", 0) in (404, 405, 501):
            return None
        raise failure_of(error, endpoint.redact) from None
    except UNREADABLE:
        return None


def _seconds_left(seconds: float) -> Callable[[], float]:
    ends = time.monotonic() + seconds
    return lambda: ends - time.monotonic()


def choose_model(endpoint: Endpoint, options: LlmOptions, before: str = "") -> str:
    """The model that was named, else the one that the run asked before, while it is served, else
    the only one there is. Raises EndpointError, which lists what is served; LlmError when nobody
    answers.
    """
    if options.model:
        return options.model
    models = list_models(endpoint)
    if before and (models is None or before in models):
        return before
    if models and len(models) == 1:
        return next(iter(models))
    how = (
        "name one with --model NAME, with AUTORESEARCH_MODEL, or with the parameter `model` of"
        " notebook 03"
    )
    if models is None:
        raise EndpointError(
            f"{endpoint.base_url} lists no models: {how} (is it the base URL? It usually ends in"
            " /v1)"
        )
    if not models:
        raise EndpointError(f"{endpoint.base_url} serves no model yet: load one there, then {how}")
    raise EndpointError(
        f"no model is named, and {endpoint.base_url} serves {len(models)}: {how}. Served:"
        f" {_listed(models)}"
    )


def reach_model(llm: Mapping[str, str]) -> tuple[LlmOptions, Endpoint, str]:
    """The options, the endpoint and the model that a request's `llm` asks for. Raises LlmError."""
    options = parse_options(llm["options"], llm["model"])
    endpoint = open_endpoint(options, llm["key_file"])
    return options, endpoint, choose_model(endpoint, options, llm.get("before", ""))


def _listed(models: Mapping[str, int | None]) -> str:
    more = len(models) - SHOWN_MODELS
    return ", ".join(list(models)[:SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")


def check_model(endpoint: Endpoint, model: str) -> int | None:
    """Return how many tokens the model's context has, None unsaid. Raise LlmError when the server
    cannot be reached, refuses the key, has no such model or no chat.

    Some servers take names that they do not list (aliases, deployments): such a one is tried with a
    request for one token.
    """
    import openai

    models = list_models(endpoint)
    if models is not None and model in models:
        return models[model]
    try:
        with endpoint.open_client(_seconds_left(LIST_SECONDS)) as client:
            reply = client.chat.completions.with_raw_response.create(
                model=model,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=1,
                timeout=LIST_SECONDS,
            ).http_response.text
    except openai.APITimeoutError:
        return None  # it is at work: a name that is unknown is refused at once
    except openai.APIError as error:
        failure = failure_of(error, endpoint.redact)
        if failure.kind == "unknown_model":
            served = f". Served: {_listed(models)}" if models else ""
            raise EndpointError(f"{failure}{served}", "unknown_model") from None
        nothing_there = getattr(error, "status_code", 0) in NO_PATH
        if failure.kind in ("unauthorised", "unreachable") or nothing_there:
            raise failure from None
    else:
        if not _has_choice(reply):
            shown = quoted_line(
                error_in(reply).get("message") or reply or "nothing", endpoint.redact
            )
            raise EndpointError(
                f"{endpoint.base_url} answers a chat with no completion: {shown} {BASE_URL}"
            )
    return None


def _has_choice(reply: str) -> bool:
    try:
        return isinstance(parse_json(reply)["choices"][0], Mapping)
    except UNREADABLE:
        return False


def main(arguments: Sequence[str]) -> int:
    """Choose and check the model of a request; return the exit status."""
    llm = read_json(arguments[0])["llm"]
    try:
        _, endpoint, model = reach_model(llm)
        context = check_model(endpoint, model)
    except LlmError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2 if error.passing else 1
    print(json.dumps({"model": model, "base_url": endpoint.base_url, "context": context}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
