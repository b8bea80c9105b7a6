"""A chat against a real server through the real SDK: all that a server may do, and its cost."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from checkout import ROOT
from fake_openai import FakeOpenAI, completion, refusal, stream_of
from werkzeug import Response

from harness.search.llm import client, failures, response_limits
from harness.search.llm.client import Answer, Chat
from harness.search.llm.endpoint import Endpoint, parse_options
from harness.search.llm.exchanges import Exchanges, read_ledger
from harness.search.llm.failures import LlmError, failure_of_status

KEY = "sk-planted-0123456789abcdef"
MESSAGES = [
    {"role": "system", "content": "You do research."},
    {"role": "user", "content": "One idea, please."},
]
USED = {"prompt_tokens": 1000, "completion_tokens": 100}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(client, "LEAST_SECONDS", 0.05)


def open_chat(
    server: FakeOpenAI | str, folder: Path, options: str = "", experiment: int = 1
) -> Chat:
    url = server if isinstance(server, str) else server.url
    read = parse_options(f"base_url={url} {options}", environment={})
    place = {"experiment": experiment, "attempt": 0}
    exchanges = Exchanges(
        folder / f"exp-{experiment}" / "exchange", folder / "llm.jsonl", read, place
    )
    return Chat(Endpoint(url, KEY), read, "scripted", exchanges)


def ask(
    answer, folder: Path, options: str = "", messages=MESSAGES, usage: bool = True
) -> tuple[Answer, FakeOpenAI]:
    with FakeOpenAI(answer, usage=usage) as server:
        return open_chat(server, folder, options).ask(messages), server


def ask_in_vain(answer, folder: Path, options: str = "") -> tuple[LlmError, FakeOpenAI]:
    with FakeOpenAI(answer) as server, pytest.raises(LlmError) as error:
        open_chat(server, folder, options).ask(MESSAGES)
    return error.value, server


def saved(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("exp-*/exchange/*.json"))]


# --- Answers --------------------------------------------------------------------------------------


def test_an_answer_is_told_from_its_reasoning(tmp_path):
    answer, server = ask(lambda body, number: "<think>hm</think>Title: x", tmp_path)
    assert (answer.text, answer.reasoning, answer.finish_reason, answer.warning) == (
        "Title: x",
        "hm",
        "stop",
        "",
    )
    assert server.bodies == [
        {"model": "scripted", "messages": MESSAGES, "max_tokens": 16000} | client.STREAM
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_options_are_sent(tmp_path):
    _, server = ask(
        lambda body, number: "x",
        tmp_path,
        "temperature=0.5 reasoning_effort=low max_output_tokens=99",
    )
    assert [
        server.bodies[0][name] for name in ("temperature", "reasoning_effort", "max_tokens")
    ] == [0.5, "low", 99]


@pytest.mark.parametrize(
    ("reply", "text", "finish", "refused"),
    [
        (
            completion("Title: half an id", finish_reason="length"),
            "Title: half an id",
            "length",
            "",
        ),
        (completion("<think>still thinking", finish_reason="length"), "", "length", ""),
        (completion(""), "", "stop", ""),
        (completion(None), "", "stop", ""),
        (
            completion(None, refusal="I cannot help with that."),
            "",
            "stop",
            "I cannot help with that.",
        ),
        (
            completion(None, finish_reason="content_filter"),
            "",
            "content_filter",
            "the server's content filter held the answer back",
        ),
        (completion("a \ud800 b"), "a ? b", "stop", ""),
    ],
)
def test_what_is_no_use_is_an_answer_that_says_so(tmp_path, reply, text, finish, refused):
    answer, server = ask(lambda body, number: reply, tmp_path)
    assert (answer.text, answer.finish_reason, answer.refusal) == (text, finish, refused)
    assert len(server.bodies) == 1


def test_a_server_that_cut_the_prompt_is_noticed(tmp_path):
    long = [{"role": "user", "content": "word " * 4000}]
    reply = completion("x") | {"usage": {"prompt_tokens": 2048, "completion_tokens": 1}}
    assert (
        "OLLAMA_CONTEXT_LENGTH"
        in ask(lambda body, number: reply, tmp_path / "a", messages=long)[0].warning
    )
    assert ask(lambda body, number: "x", tmp_path / "b", messages=long)[0].warning == ""


# --- Failures -------------------------------------------------------------------------------------

PASSING = {
    "429": lambda: refusal(429, "slow down"),
    "429 with Retry-After": lambda: refusal(429, "slow down", {"Retry-After": "0"}),
    "500": lambda: refusal(500, "oops"),
    "503 as a page": lambda: Response("<html>loading</html>", status=503),
    "529": lambda: refusal(529, "overloaded"),
    "broken off": lambda: Response(b'{"choices": [', headers={"Content-Length": "1000"}),
    "an error inside 200": lambda: Response(
        json.dumps({"error": {"code": 429, "message": "upstream is busy"}})
    ),
    "a page inside 200": lambda: Response("<html>log in to the hotel</html>"),
    "nothing inside 200": lambda: Response(""),
    "no choices": lambda: Response(json.dumps({"choices": []})),
    "no message": lambda: Response(json.dumps({"choices": [{"message": None}]})),
    "a list": lambda: Response("[1]"),
    "an answer that ends in an error": lambda: completion("Title: half", finish_reason="ERROR"),
    "an answer that was cancelled": lambda: completion("Title: half", finish_reason="cancelled"),
    "lists without end": lambda: Response("[" * 200_000),
    "a content in too many lists": lambda: Response(json.dumps(completion(nested("x", 600)))),
    "a status with lists without end": lambda: Response('{"error": ' + "[" * 200_000, status=500),
}


def nested(value, deep: int):
    for _ in range(deep):
        value = [value]
    return value


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(tmp_path, fault):
    answer, server = ask(lambda body, number: fault() if number < 3 else "Title: x", tmp_path)
    assert answer.text == "Title: x"
    assert len(server.bodies) == 3
    # The SDK tried nothing again.
    assert {headers["x-stainless-retry-count"] for headers in server.headers} == {"0"}
    assert len(saved(tmp_path)) == 3


@pytest.mark.parametrize(
    "fault", ["429", "500", "broken off", "an error inside 200", "a page inside 200"]
)
def test_what_does_not_pass_is_given_up(tmp_path, fault):
    error, server = ask_in_vain(lambda body, number: PASSING[fault](), tmp_path)
    assert error.kind in ("rate_limited", "server") and error.passing
    assert len(server.bodies) == client.MOST_TRIES


def test_a_saved_reply_that_cannot_be_read_is_asked_for_again(tmp_path, monkeypatch):
    with FakeOpenAI(
        lambda body, number: "Title: x" if number > 1 else Response("[" * 200_000)
    ) as server:
        monkeypatch.setattr(client, "MOST_TRIES", 1)
        with pytest.raises(LlmError, match="no chat completion in the reply"):
            open_chat(server, tmp_path).ask(MESSAGES)
        assert open_chat(server, tmp_path).ask(MESSAGES).text == "Title: x"
        assert len(server.bodies) == 2
        for error in (LookupError, RecursionError, AttributeError, MemoryError, OverflowError):
            monkeypatch.setattr(
                client,
                "message_parts",
                lambda message, error=error: (_ for _ in ()).throw(error("sk-x")),
            )
            with pytest.raises(LlmError) as failure:
                open_chat(server, tmp_path).ask(MESSAGES)
            told = failure.value
            assert (told.kind, told.passing, told.billed) == ("server", True, True)
            assert str(told) == f"the reply cannot be read ({error.__name__})"


@pytest.mark.parametrize("charset", ["zlib_codec", "rot13", "utf-16", "nonsense", "hex"])
def test_a_body_is_utf8_whatever_its_charset_says(tmp_path, charset):
    kind = f"application/json; charset={charset}"
    said = json.dumps(completion("Title: ü"), ensure_ascii=False).encode() + b"\n"
    answer, _ = ask(lambda body, number: Response(said, content_type=kind), tmp_path / "a")
    assert answer.text == "Title: ü"
    broken = said.replace("ü".encode(), b"\xff")
    assert (
        ask(lambda body, number: Response(broken, content_type=kind), tmp_path / "b")[0].text
        == "Title: \ufffd"
    )
    no = json.dumps({"error": {"message": "no"}})
    error, _ = ask_in_vain(
        lambda body, number: Response(no, 400, content_type=kind), tmp_path / "c"
    )
    assert (error.kind, str(error)) == ("bad_request", "the server answers 400: no")


def no_model(name: str) -> Response:
    return refusal(
        404,
        f"The model `{name}` does not exist or you do not have access to it.",
        code="model_not_found",
    )


LASTING = {
    "401": (lambda: refusal(401, "Incorrect API key"), "unauthorised"),
    "403": (lambda: refusal(403, "no"), "unauthorised"),
    "402": (lambda: refusal(402, "Insufficient credits"), "unauthorised"),
    "429, no quota": (
        lambda: refusal(429, "You exceeded your current quota", code="insufficient_quota"),
        "unauthorised",
    ),
    "OpenAI: no model": (lambda: no_model("x"), "unknown_model"),
    "vLLM: no model": (
        lambda: Response(
            json.dumps({"object": "error", "message": "The model `x` does not exist."}), 404
        ),
        "unknown_model",
    ),
    "Ollama: no model": (
        lambda: refusal(404, "model 'x' not found, try pulling it first"),
        "unknown_model",
    ),
    "OpenRouter: no model": (lambda: refusal(400, "x is not a valid model ID"), "unknown_model"),
    "wrong path": (lambda: Response(json.dumps({"detail": "Not Found"}), 404), "bad_request"),
    "400": (lambda: refusal(400, "messages must alternate"), "bad_request"),
}


@pytest.mark.parametrize(("fault", "kind"), LASTING.values(), ids=LASTING)
def test_what_a_person_must_change_is_not_tried_again(tmp_path, fault, kind):
    error, server = ask_in_vain(lambda body, number: fault(), tmp_path)
    assert (error.kind, error.passing, len(server.bodies)) == (kind, False, 1)
    assert saved(tmp_path)[0]["failure"]["kind"] == kind


@pytest.mark.parametrize(
    ("status", "text", "kind", "says", "never"),
    [
        (
            404,
            "The model `Qwen/Qwen2.5-7B-Instruct` does not exist.",
            "unknown_model",
            "Qwen2.5",
            "base URL",
        ),
        (
            404,
            "This is not a chat model and thus not supported in the v1/chat/completions endpoint.",
            "unknown_model",
            "",
            "base URL",
        ),
        (404, "No endpoints found matching your data policy", "unknown_model", "", "base URL"),
        (404, "Not Found", "bad_request", "base URL", ""),
        (
            403,
            "Project x does not have access to model `gpt-5`, code model_not_found",
            "unknown_model",
            "",
            "the key is refused",
        ),
        (
            403,
            "Key limit exceeded (total limit)",
            "unauthorised",
            "no credit left",
            "the key is refused",
        ),
        (403, "This input was moderated", "bad_request", "reword program.md", "the key is refused"),
        (400, "Filtered by the content management policy", "bad_request", "reword program.md", ""),
        (400, "Your credit balance is too low", "unauthorised", "no credit left", ""),
        (404, "Resource not found", "bad_request", "base URL", ""),
        (404, 'Failed to load model "q": no memory', "bad_request", "", "base URL"),
        (521, "", "server", "something between here and the model", ""),
        (408, "litellm.Timeout: Request timed out.", "stalled", "waits no longer", ""),
        (
            429,
            "Limit reached on tokens per day. Please try again in 14m24.1s. Upgrade: /billing",
            "rate_limited",
            "wait 864 s",
            "credit",
        ),
        (
            400,
            "The prompt (length 17000) is longer than the maximum model length of 16384",
            "context_too_long",
            "larger context",
            "",
        ),
        (403, "invalid API key", "unauthorised", "the key is refused", ""),
        (
            429,
            (
                "You exceeded your current quota,"
                " check your plan and billing details. Please retry in 7.5s."
            ),
            "rate_limited",
            "wait 8 s",
            "credit",
        ),
        (
            429,
            "You exceeded your current quota, check your plan and billing details.",
            "unauthorised",
            "credit",
            "",
        ),
        (
            429,
            "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000.",
            "context_too_long",
            "smaller",
            "",
        ),
        (
            422,
            "`inputs` tokens + `max_new_tokens` must be <= 4096",
            "context_too_long",
            "smaller",
            "",
        ),
    ],
)
def test_what_a_status_means_goes_by_its_words(status, text, kind, says, never):
    failure = failure_of_status(status, json.dumps({"error": {"message": text}}), str)
    assert (
        failure.kind == kind and says in str(failure) and (not never or never not in str(failure))
    )


@pytest.mark.parametrize(
    ("status", "page", "kind", "says"),
    [
        (502, "502 Bad Gateway", "server", "got no answer from it"),
        (403, "Just a moment... Enable JavaScript", "bad_request", "lets no request through"),
        (404, "Cannot POST /chat/completions", "bad_request", "base URL"),
        (429, "Slow down. Please try again in 30 seconds.", "rate_limited", "to wait 30 s"),
    ],
)
def test_of_a_web_page_its_words_are_told(status, page, kind, says):
    text = (
        f"<!DOCTYPE html><html><head><title>{page}</title><style>h1 {{ color: red }}</style></head>"
        f"<body>\n<h1>{page}</h1></body></html>"
    )
    failure = failure_of_status(status, text, str)
    told = str(failure)
    assert failure.kind == kind and says in told
    assert told.startswith(f"the server answers {status}: a web page, '{page}'")


def test_a_parameter_is_known_in_other_spellings():
    said = "Model x does not support parameter reasoningEffort."
    assert failure_of_status(400, json.dumps({"error": said}), str).parameter == "reasoning_effort"
    said = "Conversation roles must alternate user/assistant"
    assert failure_of_status(500, json.dumps({"error": said}), str).parameter == "system"


def test_errors_in_a_list_and_parameters_that_are_none(tmp_path):
    google = json.dumps(
        [
            {
                "error": {
                    "code": 400,
                    "message": "Unknown name reasoning_effort",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ]
    )
    assert failure_of_status(400, google, str).parameter == "reasoning_effort"
    litellm = json.dumps(
        {"error": {"message": "temperature is not supported", "param": "None", "code": "400"}}
    )
    assert failure_of_status(400, litellm, str).parameter == "temperature"


@pytest.mark.parametrize(
    "page",
    [
        "null",
        "<!doctype html><html>",
        '{"error": "Unexpected endpoint or method. (POST /chat/completions)"}',
    ],
)
def test_what_is_no_completion_is_no_proxys_fault(tmp_path, monkeypatch, page):
    monkeypatch.setattr(client, "MOST_TRIES", 1)
    error, _ = ask_in_vain(lambda body, number: Response(page), tmp_path)
    assert "proxy" not in str(error) and ("base URL" in str(error)) is (page != "null")


def test_a_wait_longer_than_the_deadline_is_not_waited_for(tmp_path):
    error, server = ask_in_vain(
        lambda body, number: refusal(429, "slow down", {"Retry-After": "3600"}), tmp_path
    )
    assert error.kind == "rate_limited" and "asks to wait 3600 s" in str(error)
    assert len(server.bodies) == 1


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path):
    times = []

    def answer(body, number):
        times.append(time.monotonic())
        return refusal(429, "slow down", {"retry-after-ms": "300"}) if number == 1 else "x"

    ask(answer, tmp_path)
    assert times[1] - times[0] >= 0.3


def test_nobody_there(tmp_path):
    with FakeOpenAI(lambda body, number: "x") as server:
        url = server.url
    with pytest.raises(LlmError, match="nobody answers at http://127.0.0.1:") as error:
        open_chat(url, tmp_path, "price_input=1 price_output=1").ask(MESSAGES)
    assert error.value.kind == "unreachable" and error.value.passing
    usage = read_ledger(tmp_path / "llm.jsonl").usage()
    assert (usage.requests, usage.tokens, usage.cost_usd, usage.estimated) == (0, 0, 0, False)
    assert len(saved(tmp_path)) == client.MOST_TRIES


def test_a_slow_answer_is_waited_for_and_asked_for_once(tmp_path):
    with FakeOpenAI(lambda body, number: (server.closing.wait(1.5), "x")[1]) as server:
        assert open_chat(server, tmp_path, "deadline_seconds=20").ask(MESSAGES).text == "x"
        assert len(server.bodies) == 1


def test_silence_until_the_deadline_is_not_asked_again(tmp_path):
    with FakeOpenAI(lambda body, number: (server.closing.wait(30), "x")[1]) as server:
        with pytest.raises(LlmError, match="no complete answer within deadline_seconds=2") as error:
            open_chat(server, tmp_path, "deadline_seconds=2").ask(MESSAGES)
        assert error.value.kind == "deadline" and len(server.bodies) == 1
    assert read_ledger(tmp_path / "llm.jsonl").usage().estimated  # it may be paid for


def test_what_a_proxy_says_is_told_rather_than_the_clock(tmp_path):
    proxy = "answers 524.*such as a proxy, waits no longer"
    with (
        FakeOpenAI(lambda body, number: refusal(524, "x")) as server,
        pytest.raises(LlmError, match=proxy),
    ):
        open_chat(server, tmp_path).ask(MESSAGES)
    assert len(server.bodies) == 1  # the model may have answered: asked again, it is paid for twice
    answer = lambda body, number: refusal(502, "x") if number == 1 else server.closing.wait(30)  # noqa: E731
    late = "deadline_seconds=2; before that: the server answers 502"
    with FakeOpenAI(answer) as server, pytest.raises(LlmError, match=late):
        open_chat(server, tmp_path / "b", "deadline_seconds=2").ask(MESSAGES)


@pytest.mark.parametrize(
    "named, warned",
    [
        ("scripted", False),
        ("", False),
        ("vendor/Scripted-2026-01-01", False),
        ("scripted:latest", False),
        ("tiny-1b", True),
    ],
)
def test_another_model_that_answers_is_named(tmp_path, named, warned):
    with FakeOpenAI(lambda body, number: completion("x") | {"model": named}) as server:
        chat = open_chat(server, tmp_path)
        assert (
            "tiny-1b answered, where scripted was asked" in chat.ask(MESSAGES).warning
        ) is warned
        assert chat.answered_by == ("tiny-1b" if warned else "scripted")


def test_a_server_that_is_never_silent_is_held_to_the_deadline(tmp_path):
    def drip():
        while not server.closing.wait(0.05):
            yield b" "

    with FakeOpenAI(lambda body, number: Response(drip())) as server:
        chat = open_chat(server, tmp_path, "deadline_seconds=1")
        with pytest.raises(LlmError, match="deadline_seconds=1") as error:
            chat.ask(MESSAGES)
        assert error.value.kind == "deadline" and error.value.passing
        with pytest.raises(LlmError) as error:  # the deadline is the chat's, not the request's
            chat.ask([{"role": "user", "content": "another"}])
        assert error.value.kind == "deadline"
        assert len(server.bodies) == 1


EVENTS = {"content_type": "text/event-stream"}


def test_a_stream_may_take_longer_than_a_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "SILENT_SHARE", 0.05)  # of 20 s

    def slowly():
        for event in stream_of(completion("Title: a slow one") | {"usage": USED}):
            server.closing.wait(0.3)
            yield event

    with FakeOpenAI(lambda body, number: Response(slowly(), **EVENTS)) as server:
        answer = open_chat(server, tmp_path, "deadline_seconds=20").ask(MESSAGES)
    assert (answer.text, len(server.bodies)) == ("Title: a slow one", 1)
    assert read_ledger(tmp_path / "llm.jsonl").usage().prompt_tokens == 1000
    [exchange] = saved(tmp_path)
    assert json.loads(exchange["reply"])["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Title: a slow one",
    }


def test_a_stream_that_falls_silent_is_not_waited_for_nor_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "SILENT_SHARE", 0.02)  # of 20 s

    def silent():
        yield from stream_of(completion("Title: half"))[:2]
        server.closing.wait(30)

    with (
        FakeOpenAI(lambda body, number: Response(silent(), **EVENTS)) as server,
        pytest.raises(LlmError) as error,
    ):
        open_chat(server, tmp_path, "deadline_seconds=20").ask(MESSAGES)
    assert (error.value.kind, error.value.billed, len(server.bodies)) == ("stalled", True, 1)


@pytest.mark.parametrize(
    "events", [stream_of(completion("Title: half"))[:3], ["data: {\n\n"]], ids=["cut", "no JSON"]
)
def test_where_streams_break_an_answer_is_asked_for_whole(tmp_path, events):
    answer = lambda body, number: Response(events, **EVENTS) if "stream" in body else "Title: x"  # noqa: E731
    with FakeOpenAI(answer) as server:
        assert open_chat(server, tmp_path).ask(MESSAGES).text == "Title: x"
        open_chat(server, tmp_path, experiment=2).ask(MESSAGES)
        # One that broke tells nothing of the next.
        assert ["stream" in body for body in server.bodies] == [True, False] * 2


def test_an_error_in_a_stream_is_that_error(tmp_path):
    fault = {"error": {"code": 429, "message": "upstream is busy"}}
    events = [*stream_of(completion("Title: half"))[:2], f"data: {json.dumps(fault)}\n\n"]
    answer = lambda body, number: Response(events, **EVENTS) if number < 3 else "Title: x"  # noqa: E731
    answer, server = ask(answer, tmp_path)
    assert (answer.text, len(server.bodies)) == ("Title: x", 3)


def test_a_server_that_streams_nothing_may_answer_whole(tmp_path):
    answer, _ = ask(lambda body, number: Response(json.dumps(completion("Title: x"))), tmp_path)
    assert answer.text == "Title: x"


def test_a_key_in_pieces_of_a_stream_is_found(tmp_path):
    message = completion(f"the key is {KEY}")
    answer, _ = ask(lambda body, number: message, tmp_path)
    assert answer.text == "the key is [key removed]" and KEY[:12] not in json.dumps(saved(tmp_path))


def test_a_reply_without_end_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(response_limits, "MOST_BYTES", 100_000)

    def flood():
        while not server.closing.is_set():
            yield b" " * 10_000

    with (
        FakeOpenAI(lambda body, number: Response(flood())) as server,
        pytest.raises(LlmError, match="longer than 100,000 bytes"),
    ):
        open_chat(server, tmp_path, "deadline_seconds=5").ask(MESSAGES)


def test_a_compressed_reply_is_not_taken(tmp_path):
    small = gzip.compress(json.dumps(completion("x" * 50_000_000)).encode())
    error, server = ask_in_vain(
        lambda body, number: Response(small, headers={"Content-Encoding": "gzip"}), tmp_path
    )
    assert server.headers[0]["accept-encoding"] == "identity"
    assert (error.kind, error.passing) == ("server", True)
    assert (
        str(error) == "the reply is not taken: it is compressed (Content-Encoding: gzip),"
        " though the request said identity"
    )
    assert all("reply" not in entry for entry in saved(tmp_path))
    packed = gzip.compress(b"no")  # of a refusal the status is enough
    error, _ = ask_in_vain(
        lambda body, number: Response(packed, 401, {"Content-Encoding": "gzip"}), tmp_path / "b"
    )
    assert error.kind == "unauthorised" and "answers 401: nothing more" in str(error)
    plain = Response(json.dumps(completion("x")), headers={"Content-Encoding": "identity"})
    assert ask(lambda body, number: plain, tmp_path / "c")[0].text == "x"


def test_a_long_message_of_a_server_is_cut_before_it_is_looked_at(tmp_path):
    seen = []
    said = KEY + "\x07" * 3_000_000 + "context length"
    failure = failure_of_status(
        500, said, lambda text: seen.append(len(text)) or text.replace(KEY, "[key removed]")
    )
    # The key first.
    assert str(failure) == "the server answers 500: [key removed]" and max(seen) == len(said)
    calls = []
    category = failures.unicodedata.category
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures.unicodedata, "category", lambda c: calls.append(c) or category(c))
        failure_of_status(500, said, lambda text: text)
    assert len(calls) <= failures.READ_CHARACTERS


def test_a_context_that_is_too_long(tmp_path):
    error, server = ask_in_vain(
        lambda body, number: refusal(
            400,
            "This model's maximum context length is 4096 tokens.",
            code="context_length_exceeded",
        ),
        tmp_path,
    )
    assert (error.kind, error.passing) == ("context_too_long", False) and "context_tokens" in str(
        error
    )
    # Tried once without asking for room to answer.
    assert ["max_tokens" in body for body in server.bodies] == [True, False]


def test_a_prompt_that_fits_alone_is_asked_without_a_limit(tmp_path):
    def answer(body, number):
        said = (
            "This model's maximum context length is 8192 tokens. However, you requested 20100"
            " tokens (4100 in the messages, 16000 in the completion)."
        )
        return refusal(400, said) if "max_tokens" in body else "x"

    with FakeOpenAI(answer) as server:
        open_chat(server, tmp_path).ask(MESSAGES)
        open_chat(server, tmp_path, experiment=2).ask(MESSAGES)
        # Of this prompt: not remembered.
        assert ["max_tokens" in body for body in server.bodies] == [True, False, True, False]


# --- Parameters -----------------------------------------------------------------------------------


def refuse_openai(name: str) -> Response:
    hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    said = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
    return refusal(400, said, param=name, code="unsupported_parameter")


def refuse_fastapi(name: str) -> Response:
    return Response(
        json.dumps({"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"}]}),
        422,
    )


def refuse_in_words(name: str) -> Response:
    return refusal(400, f"unknown field {name}")


@pytest.mark.parametrize("refuse", [refuse_openai, refuse_fastapi, refuse_in_words])
def test_a_parameter_that_is_not_taken_is_left_out_once_and_remembered(tmp_path, refuse):
    def answer(body, number):
        for name in ("max_tokens", "temperature", "reasoning_effort", "stream_options", "stream"):
            if name in body:
                return refuse(name)
        return "x"

    with FakeOpenAI(answer) as server:
        options = "temperature=0.5 reasoning_effort=low"
        first = open_chat(server, tmp_path, options).ask(MESSAGES)
        assert len(server.bodies) == 6
        assert server.bodies[-1] == {
            "model": "scripted",
            "messages": MESSAGES,
            "max_completion_tokens": 16000,
        }
        assert "reasoning_effort, temperature: left out" in first.warning
        second = open_chat(server, tmp_path, options, experiment=2).ask(MESSAGES)
        assert (
            len(server.bodies) == 7
            and server.bodies[-1] == server.bodies[-2]
            and second.warning == ""
        )
        other = Chat(
            Endpoint(server.url),
            parse_options(f"base_url={server.url}", environment={}),
            "other",
            second_exchanges(server, tmp_path),
        )
        other.ask(MESSAGES)
        assert len(server.bodies) == 11  # of another model nothing is known


def second_exchanges(server: FakeOpenAI, folder: Path) -> Exchanges:
    return open_chat(server, folder, experiment=3).exchanges


@pytest.mark.parametrize(
    "said",
    [
        ("System role not supported", {}),
        ("Unsupported value", {"param": "messages[0].role", "code": "unsupported_value"}),
    ],
)
def test_a_model_without_a_system_role_gets_it_in_the_first_message(tmp_path, said):
    def answer(body, number):
        return refusal(400, said[0], **said[1]) if body["messages"][0]["role"] == "system" else "x"

    with FakeOpenAI(answer) as server:
        open_chat(server, tmp_path).ask(MESSAGES)
        assert server.bodies[-1]["messages"] == [
            {"role": "user", "content": "You do research.\n\nOne idea, please."}
        ]
        open_chat(server, tmp_path, experiment=2).ask(MESSAGES)
        assert len(server.bodies) == 3


def test_a_parameter_that_was_not_the_trouble_is_not_remembered(tmp_path):
    error, server = ask_in_vain(
        lambda body, number: refusal(400, f"number {number}: bad temperature, bad max_tokens"),
        tmp_path,
        "temperature=1",
    )
    assert error.kind == "bad_request" and len(server.bodies) < 5
    assert not read_ledger(tmp_path / "llm.jsonl").dropped


# --- What it costs --------------------------------------------------------------------------------


def test_the_count_is_the_servers_own(tmp_path):
    faults = {
        2: refusal(429, "slow"),
        5: refusal(500, "oops"),
        6: refusal(500, "oops"),
        8: refusal(401, "no"),
    }

    def answer(body, number):
        return faults.get(number, f"<think>{'hm ' * number}</think>Title: " + "word " * number)

    with FakeOpenAI(answer) as server:
        for experiment in range(1, 6):
            chat = open_chat(server, tmp_path, "price_input=2.5 price_output=10", experiment)
            for extra in range(experiment % 3 + 1):
                try:
                    chat.ask([*MESSAGES, {"role": "user", "content": "again " * extra}])
                except LlmError as error:
                    assert error.kind == "unauthorised"
            proposal = chat.exchanges.usage()
            assert proposal == vars(
                read_ledger(tmp_path / "llm.jsonl").usage(experiment=experiment, attempt=0)
            )
        usage = read_ledger(tmp_path / "llm.jsonl").usage()
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            server.usage["prompt_tokens"],
            server.usage["completion_tokens"],
        )
        assert usage.requests == len(server.bodies) == server.usage["requests"] + len(faults)
        expected = (
            server.usage["prompt_tokens"] * 2.5 + server.usage["completion_tokens"] * 10
        ) / 1e6
        assert usage.cost_usd == pytest.approx(expected, abs=1e-6) and usage.cost_usd > 0
        assert not usage.estimated


@pytest.mark.parametrize(
    "reported",
    [
        None,
        {},
        [],
        {"prompt_tokens": None, "completion_tokens": "7"},
        {"prompt_tokens": 7},
        {"prompt_tokens": -1, "completion_tokens": True},
        {"prompt_tokens": 10**400, "completion_tokens": 10**10},
    ],
)
def test_usage_that_is_missing_is_estimated_and_flagged(tmp_path, reported):
    reply = completion("Title: " + "x" * 300, reasoning_content="y" * 300) | {"usage": reported}
    ask(lambda body, number: reply, tmp_path, "price_input=1 price_output=1", usage=False)
    usage = read_ledger(tmp_path / "llm.jsonl").usage()
    assert usage.estimated and usage.completion_tokens >= 200 and usage.cost_usd > 0
    known = isinstance(reported, dict) and reported.get("prompt_tokens") == 7
    assert usage.prompt_tokens == (7 if known else len("You do research.One idea, please.") // 3)


def test_a_count_of_nothing_is_unsaid(tmp_path):
    nothing = {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    for folder, reply in (
        ("a", completion("y" * 300)),
        ("b", completion("", reasoning_content="y" * 300)),
    ):
        ask(lambda body, number, reply=reply: reply | nothing, tmp_path / folder)
        usage = read_ledger(tmp_path / folder / "llm.jsonl").usage()
        assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (11, 100, True)
    half = {"usage": {"prompt_tokens": 9, "completion_tokens": 0}}
    ask(lambda body, number: completion("") | half, tmp_path / "c")
    usage = read_ledger(tmp_path / "c" / "llm.jsonl").usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (9, 0, False)
    ask(lambda body, number: completion(""), tmp_path / "d", usage=False)
    usage = read_ledger(tmp_path / "d" / "llm.jsonl").usage()
    assert (usage.completion_tokens, usage.estimated) == (0, True)


@pytest.mark.parametrize(
    "budget", ["budget_tokens=100000", "budget_usd=9 price_input=1 price_output=1"]
)
def test_what_a_budget_of_tokens_depends_on_is_never_left_out(tmp_path, budget):
    def answer(body, number):
        return refuse_openai(next(name for name in body if name.startswith("max_")))

    error, server = ask_in_vain(answer, tmp_path / "a", budget)
    assert (error.kind, error.passing, len(server.bodies)) == ("budget", False, 2)
    for word in ("no limit of an answer's length", "16,000", "budget_requests", "budget_hours"):
        assert word in str(error)
    said = (
        "This model's maximum context length is 8192 tokens, you requested 20100 (4100 in the"
        " messages, 16000 in the completion)."
    )
    error, server = ask_in_vain(lambda body, number: refusal(400, said), tmp_path / "b", budget)
    assert error.kind == "context_too_long" and [
        "max_tokens" in body for body in server.bodies
    ] == [True]


def test_a_price_that_nobody_gave_is_not_guessed(tmp_path):
    ask(lambda body, number: "x", tmp_path)
    assert read_ledger(tmp_path / "llm.jsonl").usage().cost_usd is None


def test_nothing_is_sent_that_the_budget_has_no_room_for(tmp_path):
    reply = completion("x") | {"usage": USED}
    with FakeOpenAI(lambda body, number: reply) as server:
        for experiment in range(1, 4):
            chat = open_chat(server, tmp_path, "budget_requests=2", experiment)
            if experiment < 3:
                chat.ask(MESSAGES)
        with pytest.raises(LlmError, match="all 2 requests of budget_requests") as error:
            chat.ask(MESSAGES)
        assert error.value.kind == "budget"
        assert len(server.bodies) == 2
        assert not chat.exchanges.folder.exists()


# --- What is saved --------------------------------------------------------------------------------


def test_every_request_and_reply_is_saved_as_it_was(tmp_path):
    answers = [refusal(500, "oops"), Response("<html>half"), "Title: x"]
    _, server = ask(lambda body, number: answers[number - 1], tmp_path)
    entries = saved(tmp_path)
    assert [entry["request"] for entry in entries] == server.bodies
    assert [entry["status"] for entry in entries] == [500, 200, 200]
    assert "oops" in entries[0]["reply"] and entries[1]["reply"] == "<html>half"
    assert json.loads(entries[2]["reply"])["choices"][0]["message"]["content"] == "Title: x"
    assert not {"headers", "authorization"} & {name.lower() for entry in entries for name in entry}


def test_the_answer_is_saved_for_people_without_what_a_terminal_obeys(tmp_path):
    ask(
        lambda body, number: "<think>hm\x1b[2J</think>Title: x\n\ty\x1b]0;owned\x07\u202e", tmp_path
    )
    text = (tmp_path / "exp-1/exchange/01.txt").read_text()
    assert (
        text == "scripted: 9 + 11 tokens, ended with stop\n\n"
        "--- reasoning ---\n"
        "hm[2J\n\n"
        "--- answer ---\n"
        "Title: x\n"
        "\ty]0;owned\n"
    )


def test_a_request_is_saved_before_it_is_sent(tmp_path):
    def answer(body, number):
        entries = saved(tmp_path)
        assert [entry["request"] for entry in entries] == [body] and "reply" not in entries[0]
        # The most it can take.
        assert read_ledger(tmp_path / "llm.jsonl").usage().completion_tokens == 16000
        return "x"

    ask(answer, tmp_path)


CHILD = """
import sys
sys.path[:0] = ["tests/support", "tests/search/llm"]
from pathlib import Path
from test_client import MESSAGES, open_chat
chat = open_chat(sys.argv[1], Path(sys.argv[2]))
first = chat.ask(MESSAGES)
said, again = {"role": "assistant", "content": first.text}, {"role": "user", "content": "again"}
second = chat.ask([*MESSAGES, said, again])
print(first.text, second.text)
"""


def test_what_was_answered_before_a_kill_is_not_paid_again(tmp_path):
    def answer(body, number):
        if number == 2:  # the second question of the first process
            os.kill(child.pid, signal.SIGKILL)
            server.closing.wait(1)
        return f"reply {number}"

    with FakeOpenAI(answer) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(tmp_path)]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(command, cwd=ROOT, env=environment)
        assert child.wait(60) == -signal.SIGKILL
        unanswered = read_ledger(tmp_path / "llm.jsonl").usage()
        assert (
            unanswered.requests == 2
            and unanswered.estimated
            and unanswered.completion_tokens == 16000 + 2
        )
        chat = open_chat(server, tmp_path)
        assert chat.ask(MESSAGES).text == "reply 1"
        assert len(server.bodies) == 2
        messages = [
            *MESSAGES,
            {"role": "assistant", "content": "reply 1"},
            {"role": "user", "content": "again"},
        ]
        assert chat.ask(messages).text == "reply 3"
        assert chat.ask(messages).text == "reply 3"  # and again, from the disk
        assert len(server.bodies) == 3
    usage = read_ledger(tmp_path / "llm.jsonl").usage()
    assert usage.requests == 3
    # The killed one counts as the most it can have cost.
    assert usage.completion_tokens == 16000 + 2 * 2


def test_a_reply_that_was_saved_but_not_counted_is_counted_once(tmp_path):
    with FakeOpenAI(lambda body, number: completion("x") | {"usage": USED}) as server:
        open_chat(server, tmp_path).ask(MESSAGES)
        ledger = tmp_path / "llm.jsonl"
        lines = ledger.read_text().splitlines(keepends=True)
        assert json.loads(lines.pop())["event"] == "answered"
        ledger.write_text("".join(lines))  # as if killed between the two
        for _ in range(2):
            open_chat(server, tmp_path).ask(MESSAGES)
        assert len(server.bodies) == 1
    assert read_ledger(ledger).usage().tokens == 1100
    assert len(ledger.read_text().splitlines()) == 2


# --- The key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_server_that_echoes_the_key_gets_it_nowhere(tmp_path, status, caplog, capfd):
    caplog.set_level("DEBUG")

    def answer(body, number):
        echo = f"you sent {server.headers[-1]['authorization']}"
        if status == 200:
            return completion(
                echo,
                reasoning_content=echo,
                refusal=echo,
                finish_reason="stop",
                extra={"echo": echo},
            )
        return refusal(status, echo, {"X-Echo": echo})

    with FakeOpenAI(answer) as server:
        chat = open_chat(server, tmp_path)
        told = ""
        try:
            told = repr(chat.ask(MESSAGES))
        except LlmError as error:
            told = "".join(traceback.format_exception(error)) + repr(vars(error))
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2 and "removed" in "".join(written) + told
    printed = capfd.readouterr()
    for text in (*written, told, repr(chat.endpoint), caplog.text, printed.out, printed.err):
        assert "planted" not in text


def test_a_key_in_a_prompt_is_not_sent(tmp_path):
    _, server = ask(
        lambda body, number: "x",
        tmp_path,
        messages=[{"role": "user", "content": f"my key is {KEY}"}],
    )
    assert server.bodies[0]["messages"][0]["content"] == "my key is [key removed]"
