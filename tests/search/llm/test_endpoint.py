"""Options, the key and the model: what is taken, what is refused and in which words.

A real server, the real SDK.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkout import ROOT
from fake_openai import FakeOpenAI, QuickServer, completion, refusal
from werkzeug import Response

from harness.search.llm import endpoint as endpoint_module
from harness.search.llm import response_limits
from harness.search.llm.endpoint import (
    Endpoint,
    check_model,
    choose_model,
    list_models,
    main,
    open_endpoint,
)
from harness.search.llm.failures import EndpointError, LlmError, redact
from harness.search.llm.options import DEFAULT_BASE_URL, LlmOptions, parse_options

KEY = "sk-planted-0123456789abcdef"


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_options_are_read_and_the_environment_fills_in():
    assert parse_options("", environment={}) == LlmOptions(base_url=DEFAULT_BASE_URL)
    options = parse_options(
        "temperature=0.7, budget_tokens=1e6 price_input=1 price_output=0", environment={}
    )
    assert (options.temperature, options.budget_tokens, options.price_output) == (0.7, 1_000_000, 0)
    environment = {
        "AUTORESEARCH_MODEL": "from-environment",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1/",
    }
    assert parse_options("", environment=environment) == LlmOptions(
        "from-environment", "http://127.0.0.1:1/v1"
    )
    options = parse_options("model=option base_url=https://other/v1", environment=environment)
    assert (options.model, options.base_url) == ("option", "https://other/v1")
    assert (
        parse_options("model=option", model="argument", environment=environment).model == "argument"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temprature=1", "there is no option temprature: there is temperature"),
        ("budget=3", "budget_usd"),
        (f"api_key={KEY}", "set OPENAI_API_KEY"),
        (KEY, "NAME=VALUE"),
        (f"{KEY}=1", "NAME=VALUE"),
        ("temperature", "NAME=VALUE"),
        ("temperature=warm", "temperature must be a number"),
        ("temperature=nan", "temperature must be a number"),
        ("budget_requests=1.5", "whole number"),
        ("budget_usd=-1", "0 or more"),
        ("max_output_tokens=0", "1 or more"),
        ("deadline_seconds=10 deadline_seconds=20", "given twice"),
        ("budget_usd=5", "price_input"),
        (f"base_url=https://user:{KEY}@host/v1", "OPENAI_API_KEY"),
        (f"base_url=https://{KEY}@host/v1", "OPENAI_API_KEY"),
        (f"base_url=https://host/v1?key={KEY}", "OPENAI_API_KEY"),
        ("base_url=https://x.openai.azure.com/openai?api-version=2024-10-21", "/openai/v1"),
        ("base_url=host/v1", "http://127.0.0.1:8000/v1"),
        ("base_url=ftp://host/v1", "http://"),
        ("base_url=http://host:port/v1", "http://127.0.0.1:8000/v1"),
        ("base_url=http://host/v1/chat/completions", "ends before /chat/completions"),
    ],
)
def test_what_is_refused_is_said_without_a_secret(text, says):
    with pytest.raises(EndpointError) as error:
        parse_options(text, environment={})
    assert says in str(error.value)
    assert KEY not in str(error.value)
    assert error.value.kind == "setup" and not error.value.passing


def test_a_key_is_read_from_the_file_else_the_environment_and_shown_nowhere(tmp_path):
    options = parse_options("base_url=http://127.0.0.1:1/v1", environment={})
    (tmp_path / "key").write_text(f"{KEY}\n")
    for endpoint in (
        open_endpoint(options, tmp_path / "key", {"OPENAI_API_KEY": "another"}),
        open_endpoint(options, "", {"OPENAI_API_KEY": f" {KEY}\n"}),
    ):
        assert "with a key" in repr(endpoint)
        assert KEY not in repr(endpoint) + str(endpoint)
        echo = json.dumps({"authorization": f"Bearer {KEY}"})
        assert endpoint.redact(echo) == '{"authorization": "Bearer [key removed]"}'
    assert "without a key" in repr(open_endpoint(options, "", {}))


def test_a_key_that_is_a_word_is_no_secret():
    assert Endpoint("http://x/v1", "ollama").redact("ask ollama") == "ask ollama"


def test_a_key_is_redacted_as_json_and_urls_write_it():
    endpoint = Endpoint("http://x/v1", 'a/b"c\\d+12345')
    for echo in (json.dumps({"k": 'a/b"c\\d+12345'}), "k=a%2Fb%22c%5Cd%2B12345"):
        assert "12345" not in endpoint.redact(echo)


@pytest.mark.parametrize("key", [KEY, 'sk-a/b"c\\d+12345'])
def test_a_key_is_redacted_whichever_of_its_characters_are_escaped(key):
    endpoint = Endpoint("http://x/v1", key)
    escape = {
        "lower": lambda c: f"\\u{ord(c):04x}",
        "upper": lambda c: f"\\u{ord(c):04X}",
        "json in json": lambda c: f"\\\\u{ord(c):04x}",
        "url": lambda c: f"%{ord(c):02X}",
        "url, lower": lambda c: f"%{ord(c):02x}",
        "url in url": lambda c: f"%25{ord(c):02x}",
        "backslashes": lambda c: c if c.isalnum() else f"\\{c}",
        "json": lambda c: json.dumps(c)[1:-1],
    }
    for form in escape.values():
        for every in (1, 2, 3):
            echo = "".join(form(c) if n % every == 0 else c for n, c in enumerate(key))
            assert endpoint.redact(f'["{echo}", "x\\n"]') == '["[key removed]", "x\\n"]'
    backslashes = "\\" * 250_000  # a pattern that tries all ways to begin would take hours
    assert endpoint.redact(backslashes) == backslashes


@pytest.mark.parametrize("before", [b"", b"B", b"Bearer "])
def test_a_key_is_redacted_in_base64_and_hex_and_by_halves(before):
    key = "sk-proj-4f6c0d6bA9-_xYz/+q"
    endpoint = Endpoint("http://x/v1", key)
    whole = before + key.encode() + b"}"
    for echo in (
        base64.b64encode(whole).decode(),
        base64.urlsafe_b64encode(whole).decode(),
        whole.hex(),
        whole.hex().upper(),
    ):
        cleaned = endpoint.redact(f"you sent {echo}.")
        assert (
            "[key removed]" in cleaned
            and len(cleaned) < len("you sent [key removed].") + 2 * len(before) + 8
        ), cleaned
    for half in (key[:13], key[13:]):
        assert endpoint.redact(f"...{half}") == "...[key removed]"


@pytest.mark.parametrize(
    "write",
    [
        lambda key: key[::-1],
        lambda key: "\n".join(key),
        lambda key: "\r\n".join([key[:7], key[7:20], key[20:]]),
        lambda key: key[:9] + "\\\\n" + key[9:],
        lambda key: "\u200b".join(key),
        lambda key: "".join(f"%{ord(c):02X}" for c in key),
        lambda key: "".join(f"&#{ord(c)};" for c in key),
        lambda key: "".join(f"&#x{ord(c):X};" for c in key),
        lambda key: key.encode().hex(":").upper(),
        lambda key: key.encode().hex()[:21].upper() + "\n" + key.encode().hex()[21:],
        lambda key: ", ".join(f"0x{ord(c):02x}" for c in key),
        lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
        lambda key: base64.encodebytes(key.encode() * 3).decode(),
    ],
)
def test_a_key_is_redacted_however_it_is_broken_or_turned(write):
    key = "sk-proj-4f6c0d6bA9-_xYz/+q"
    cleaned = Endpoint("http://x/v1", key).redact(f"you sent {write(key)}.")
    assert "[key removed]" in cleaned and len(cleaned) < len("you sent [key removed].") * 4


def test_what_looks_like_a_key_is_redacted_though_nobody_knows_it():
    told = redact(
        "Incorrect API key provided: sk-abcd****wxyz."
        " Authorization: Bearer abc.def; proxy http://me:pw@host/"
    )
    for secret in ("abcd", "wxyz", "abc.def", "me:pw"):
        assert secret not in told
    assert (
        redact("a risk-adjusted task-switching bearer") == "a risk-adjusted task-switching bearer"
    )


def test_keys_that_cannot_be_used(tmp_path):
    local = parse_options("base_url=http://127.0.0.1:1/v1", environment={})
    with pytest.raises(EndpointError, match="no key: set OPENAI_API_KEY, or base_url="):
        open_endpoint(parse_options("", environment={}), "", {})
    with pytest.raises(EndpointError, match="copy it again") as error:
        open_endpoint(local, "", {"OPENAI_API_KEY": "sk-planted\nInjected: header"})
    assert "planted" not in str(error.value)
    with pytest.raises(EndpointError, match="start again with OPENAI_API_KEY"):
        open_endpoint(local, tmp_path / "gone", {"OPENAI_API_KEY": KEY})


def served(models: list[str], options: str = "", key: str = KEY):
    server = FakeOpenAI(lambda body, number: "Hi", models)
    return server, lambda: parse_options(f"base_url={server.url} {options}", environment={})


def test_a_server_with_one_model_needs_no_name():
    server, options = served(["only"])
    with server:
        assert choose_model(Endpoint(server.url), options()) == "only"
        assert "authorization" not in server.headers[0]  # no key, no header
        assert choose_model(Endpoint(server.url, KEY), options()) == "only"
        assert server.headers[1]["authorization"] == f"Bearer {KEY}"


def test_a_named_model_is_taken_without_asking():
    server, options = served(["a", "b"], "model=c")
    with server:
        assert choose_model(Endpoint(server.url), options()) == "c"
        assert not server.paths


def test_a_model_that_nobody_named_stays_while_it_is_served_and_is_looked_for_when_it_is_not():
    server, options = served(["a", "b"])
    with server:
        endpoint = Endpoint(server.url)
        assert choose_model(endpoint, options(), before="b") == "b"  # one more was loaded
        server.models = ["c"]
        assert choose_model(endpoint, options(), before="b") == "c"  # it was swapped
        server.models = ["c", "d"]
        with pytest.raises(EndpointError, match="Served: c, d"):
            choose_model(endpoint, options(), before="b")


def test_several_models_and_no_name_list_what_is_served():
    server, options = served([f"model-{n:02d}" for n in range(50)])
    with server, pytest.raises(EndpointError) as error:
        choose_model(Endpoint(server.url), options())
    for word in (
        *("--model NAME", "AUTORESEARCH_MODEL", "`model`"),
        *("serves 50", "model-00, model-01", "and 10 more"),
    ):
        assert word in str(error.value)


def test_no_models_and_no_list_of_models():
    server, options = served([])
    with server, pytest.raises(EndpointError, match="serves no model yet"):
        choose_model(Endpoint(server.url), options())
    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_response(Response("no", status=404))
        server.expect_request("/odd/models").respond_with_data("<html>welcome</html>")
        for url in (server.url_for("/v1"), server.url_for("/odd")):
            with pytest.raises(EndpointError, match="lists no models: name one with --model NAME"):
                choose_model(Endpoint(url), parse_options(f"base_url={url}", environment={}))


def test_nobody_there_and_a_key_that_is_refused():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with pytest.raises(LlmError) as error:
        choose_model(Endpoint(url), LlmOptions(base_url=url))
    assert (
        error.value.kind == "unreachable"
        and error.value.passing
        and url.removesuffix("/v1") in str(error.value)
    )
    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_response(
            refusal(401, f"Incorrect API key provided: {KEY}")
        )
        with pytest.raises(LlmError) as error:
            choose_model(Endpoint(server.url_for("/v1"), KEY), LlmOptions())
    assert error.value.kind == "unauthorised" and not error.value.passing
    assert "planted" not in str(error.value)


def test_a_key_that_the_server_quotes_in_part_is_not_shown():
    with QuickServer() as server:
        masked = refusal(
            401, "Incorrect API key provided: sk-plan****cdef. Get one at https://host/keys.\x1b[2J"
        )
        server.expect_request("/v1/models").respond_with_response(masked)
        with pytest.raises(LlmError) as error:
            choose_model(Endpoint(server.url_for("/v1"), KEY), LlmOptions())
    assert "plan" not in str(error.value) and "cdef" not in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", f"socks5://me:{KEY}@127.0.0.1:1"),
        ("HTTPS_PROXY", f"me:{KEY}@:::"),
        ("HTTP_PROXY", f"ftp://me:{KEY}@x"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(EndpointError, match="a proxy .* cannot be used") as error:
        choose_model(Endpoint("https://192.0.2.1/v1"), LlmOptions())
    assert "planted" not in str(error.value)


def test_a_model_that_is_not_listed_is_tried_with_one_token():
    def answer(body, number):
        assert body["max_tokens"] == 1
        known = body["model"] == "alias"
        return (
            "Hi"
            if known
            else refusal(404, f"The model `{body['model']}` does not exist", code="model_not_found")
        )

    with FakeOpenAI(answer, ["listed"]) as server:
        endpoint = Endpoint(server.url)
        check_model(endpoint, "listed")
        assert not server.bodies
        check_model(endpoint, "alias")
        with pytest.raises(EndpointError, match="does not exist.* Served: listed"):
            check_model(endpoint, "lsited")


def test_a_list_of_models_and_a_probe_without_end_are_not_read(monkeypatch):
    monkeypatch.setattr(response_limits, "MOST_BYTES", 100_000)
    sent = []

    def endless():
        while len(sent) < 10_000:
            sent.append(1)
            yield b" " * 10_000

    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_handler(lambda _: Response(endless()))
        with pytest.raises(LlmError, match="longer than 100,000 bytes") as error:
            list_models(Endpoint(server.url_for("/v1")))
        assert error.value.kind == "server"
    with FakeOpenAI(lambda body, number: Response(endless()), ["listed"]) as server:
        sent.clear()
        check_model(Endpoint(server.url), "other")  # what is no refusal is no trouble
    assert len(sent) < 10_000


def test_a_server_that_drips_its_list_of_models_is_left(monkeypatch):
    monkeypatch.setattr(endpoint_module, "LIST_SECONDS", 0.3)
    over = threading.Event()

    def drip():
        while not over.wait(0.02):
            yield b" "

    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_handler(lambda _: Response(drip()))
        with pytest.raises(LlmError) as error:
            list_models(Endpoint(server.url_for("/v1")))
        over.set()
    assert error.value.kind == "stalled"


@pytest.mark.parametrize(
    "listed",
    ["[" * 200_000, '{"data": [{"id": 3}]}', '{"data": [{"id": []}]}', '{"data": {"id": "x"}}'],
)
def test_a_list_of_models_that_is_none(listed):
    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_data(
            listed, content_type="application/json; charset=zlib_codec"
        )
        assert list_models(Endpoint(server.url_for("/v1"), KEY)) is None


@pytest.mark.parametrize(
    "said", ["[" * 200_000, "", "{}", "<html>Welcome</html>", '{"choices": []}']
)
def test_a_probe_that_is_answered_without_a_completion_is_refused(said):
    with FakeOpenAI(
        lambda body, number: Response(said, content_type="application/json"), ["listed"]
    ) as server:
        with pytest.raises(EndpointError, match=r"no completion: .*is it the base URL"):
            check_model(Endpoint(server.url), "other")
        assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [404, 405, 308])
def test_a_probe_of_a_path_that_is_not_there_is_refused(status):
    with (
        FakeOpenAI(lambda body, number: Response("no route", status=status), ["listed"]) as server,
        pytest.raises(LlmError, match=str(status)),
    ):
        check_model(Endpoint(server.url), "other")


def test_what_else_refuses_a_probe_is_the_nights_to_find_out():
    with FakeOpenAI(
        lambda body, number: refusal(400, "use max_completion_tokens"), ["listed"]
    ) as server:
        check_model(Endpoint(server.url), "other")


def test_a_redirect_takes_the_key_nowhere():
    with FakeOpenAI(lambda body, number: "Hi") as elsewhere, QuickServer() as server:
        moved = Response(status=307, headers={"Location": f"{elsewhere.url}/models"})
        server.expect_request("/v1/models").respond_with_response(moved)
        with pytest.raises(LlmError, match="is it the base URL") as error:
            choose_model(Endpoint(server.url_for("/v1"), KEY), LlmOptions())
        assert error.value.kind == "bad_request"
        assert not elsewhere.paths


def test_a_server_on_this_machine_is_asked_without_the_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    server, options = served(["only"])
    with server:
        assert choose_model(Endpoint(server.url), options()) == "only"
    with pytest.raises(LlmError) as error:  # others through it
        choose_model(Endpoint("http://192.0.2.1/v1"), LlmOptions())
    assert error.value.kind == "unreachable"


def write_request(tmp_path: Path, llm: dict) -> str:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"llm": llm}))
    return str(path)


def test_the_command_for_a_nights_start(tmp_path):
    (tmp_path / "key").write_text(KEY)
    with FakeOpenAI(lambda body, number: completion("Hi"), ["a", "b"]) as server:
        llm = {"model": "", "options": f"base_url={server.url}", "key_file": str(tmp_path / "key")}
        command = [
            sys.executable,
            "-m",
            "harness.search.llm.endpoint",
            write_request(tmp_path, llm),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AUTORESEARCH_MODEL": "b",
        }
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, json.loads(done.stdout)["model"], done.stderr) == (0, "b", "")
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_how_the_command_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("AUTORESEARCH_MODEL", raising=False)
    with FakeOpenAI(lambda body, number: completion("Hi"), ["a", "b"]) as server:
        llm = {"model": "", "options": f"base_url={server.url}", "key_file": ""}
        assert main([write_request(tmp_path, llm)]) == 1
        assert "Served: a, b" in capsys.readouterr().err
    assert main([write_request(tmp_path, llm)]) == 2
    printed = capsys.readouterr()
    assert (
        "nobody answers" in printed.err
        and printed.err.count("\n") == 1
        and KEY not in printed.err
        and not printed.out
    )
    for status, code in ((429, 2), (503, 2), (408, 2), (401, 1), (402, 1), (400, 1)):
        with QuickServer() as server:
            server.expect_request("/v1/models").respond_with_response(refusal(status, "not now"))
            url = server.url_for("/v1")
            assert (
                main(
                    [
                        write_request(
                            tmp_path, {"options": f"base_url={url}", "model": "a", "key_file": ""}
                        )
                    ]
                )
                == code
            )
        assert "not now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "listed, chosen",
    [
        ([{"id": "qwen3"}, {"id": "text-embedding-nomic-embed-text-v1.5"}], "qwen3"),
        (
            [{"id": "a/bge-m3"}, {"id": "b/chat"}, {"id": "jina-reranker-v2"}, {"id": "whisper-1"}],
            "b/chat",
        ),
        (
            [
                {"id": "x", "status": {"value": "loaded"}},
                {"id": "y", "status": {"value": "unloaded"}},
            ],
            "x",
        ),
        (
            [
                {"id": "x", "state": "loaded", "type": "llm"},
                {"id": "y", "type": "embeddings"},
                {"id": "z", "state": "not-loaded"},
            ],
            "x",
        ),
        (
            [
                {"id": "x", "object": "model", "capabilities": ["completion", "tools"]},
                {"id": "a", "capabilities": ["embedding"]},
                {"id": "b", "loaded": False},
                {"id": "c", "status": {"value": "sleeping"}},
                {"id": "d", "pipeline_tag": "feature-extraction"},
                {"id": "e", "model_type": "reranker"},
                {"id": "f", "capabilities": {"completion_chat": False}},
                {"id": "g", "archived": True},
                {"id": "org/stable-diffusion-xl"},
                {"id": "sentence-transformers/all-mpnet-base-v2"},
                {"id": "gpt-image-1"},
            ],
            "x",
        ),
        ([{"id": "speechless-13b"}, {"id": "xtts"}], "speechless-13b"),
        ([{"name": "x", "model": "x"}, {"name": "nomic-embed-text"}], "x"),
        (["x", "bge-m3"], "x"),
        ([{"id": "y", "status": {"value": "unloaded"}}], "y"),  # loaded when it is asked
    ],
)
def test_what_cannot_chat_is_no_choice(listed, chosen):
    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_json({"object": "list", "data": listed})
        assert choose_model(Endpoint(server.url_for("/v1")), parse_options("")) == chosen


@pytest.mark.parametrize(
    "name", ["max_model_len", "context_window", "context_length", "loaded_context_length"]
)
def test_how_long_a_context_is_is_read_where_a_list_says_so(name):
    listed = [{"id": "x", name: 8192, "max_context_length": 131072}, {"id": "y", name: "long"}]
    with QuickServer() as server:
        server.expect_request("/v1/models").respond_with_json({"object": "list", "data": listed})
        endpoint = Endpoint(server.url_for("/v1"))
        assert (check_model(endpoint, "x"), check_model(endpoint, "y")) == (8192, None)
