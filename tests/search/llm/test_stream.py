"""Streams as servers send them, read as one reply."""

import json

import pytest

from harness.search.llm.reasoning import message_parts
from harness.search.llm.stream import BrokenStream, whole_reply


def events(
    *deltas: dict,
    finish: str | None = "stop",
    end: str = "\n\n",
    more: tuple[str, ...] = ("data: [DONE]",),
) -> str:
    chunks = [
        {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    if finish:
        chunks.append(
            {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        )
    return end.join([*(f"data: {json.dumps(chunk)}" for chunk in chunks), *more, ""])


def message(text: str) -> dict:
    return json.loads(whole_reply(text))["choices"][0]["message"]


def test_what_is_no_stream_stays_as_it_is():
    for text in ("", "{}", '{"data": 1}', "<html>data: x</html>", "[1]"):
        assert whole_reply(text) == text


@pytest.mark.parametrize("end", ["\n\n", "\n", "\r\n\r\n", "\r\r"])
def test_texts_are_joined_by_name(end):
    deltas = (
        {"role": "assistant", "content": ""},
        {"reasoning_content": "h"},
        {"reasoning_content": "m"},
    )
    found = message(
        events(
            *deltas, {"content": "Tit", "role": "assistant"}, {"content": "le\u2028: x"}, end=end
        )
    )
    assert found == {"role": "assistant", "content": "Title\u2028: x", "reasoning_content": "hm"}


def test_comments_and_other_lines_are_passed_over():
    text = ": OPENROUTER PROCESSING\n\nevent: ping\ndata: {}\n\nid: 7\n" + events({"content": "x"})
    assert message(text)["content"] == "x"
    words = "data: heartbeat\n\n" + events({"content": "x"}, finish=None, more=("data: [done]",))
    assert message(words)["content"] == "x"


def test_chunks_as_they_are_and_a_byte_order_mark():
    text = events({"content": "Tit"}, {"content": "le"}, more=())
    for said in ("\ufeff" + text, text.replace("data: ", ""), text.replace("data: ", "", 2)):
        assert message(said)["content"] == "Title"
    cut = events({"content": "Tit"}, {"content": "le"}, finish=None, more=()).replace("data: ", "")
    with pytest.raises(BrokenStream):
        whole_reply(cut)


def test_a_thought_in_parts_and_an_answer_as_text():
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    assert message_parts(
        message(events({"content": thought}, {"content": "Title"}, {"content": ": x"}))
    )[:2] == ("Title: x", "hm")


def test_how_it_ended_and_what_it_took():
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    last = f"data: {json.dumps({'choices': [], 'usage': usage})}"
    reply = json.loads(
        whole_reply(events({"content": "x"}, finish="length", more=(last, "data: [DONE]")))
    )
    assert (reply["choices"][0]["finish_reason"], reply["usage"], reply["model"]) == (
        "length",
        usage,
        "m",
    )


def test_other_choices_are_none_of_ours():
    other = 'data: {"choices": [{"index": 1, "delta": {"content": "second"}}]}\n\n'
    assert message(other + events({"content": "first"}))["content"] == "first"


def test_an_end_that_is_only_said_is_an_end():
    assert (
        json.loads(whole_reply(events({"content": "x"}, finish=None)))["choices"][0][
            "finish_reason"
        ]
        == "stop"
    )


@pytest.mark.parametrize(
    "text",
    [events({"content": "x"}, finish=None, more=()), "data: {", ": nothing but a comment\n\n"],
)
def test_a_stream_without_its_end_is_no_reply(text):
    with pytest.raises(BrokenStream):
        whole_reply(text)


@pytest.mark.parametrize(
    "error", [{"error": {"message": "no"}}, {"object": "error", "message": "no", "code": 400}]
)
def test_an_error_is_the_reply(error):
    assert (
        json.loads(
            whole_reply(events({"content": "x"}, finish=None, more=(f"data: {json.dumps(error)}",)))
        )
        == error
    )


def test_kinds_of_chunks_that_servers_have():
    whole = (
        'data: {"choices": [{"message": {"role": "assistant",'
        ' "content": "hello"}, "finish_reason": "stop"}]}\n\n'
    )
    assert message(events({"content": "hello"}, finish=None, more=()) + whole)["content"] == "hello"
    assert message("data:\n\n" + events({"content": "x"}))["content"] == "x"
    assert (
        message(events({"content": "x"}).replace('"model": "m"', '"model": "m", "error": null'))[
            "content"
        ]
        == "x"
    )
    with pytest.raises(BrokenStream):
        whole_reply(events({"content": "x"}, finish="null", more=()))


@pytest.mark.parametrize(
    "line", ['error: {"code": 400, "message": "no"}', '{"error": {"message": "no"}}']
)
def test_an_error_beside_the_data_is_the_reply(line):
    assert "no" in whole_reply(events({"content": "x"}, finish=None, more=(line,)))
