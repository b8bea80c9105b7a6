"""A reply that came as a stream of chunks, as the one reply of a server without streams.

In: the text of a reply, server-sent events, chunks one a line, or JSON. Out: JSON text, a chat
completion where it was a stream of one; any other text as it is. Refuses a stream that ends before
its answer does: half an answer must not pass for a whole one. Events are those of
https://platform.openai.com/docs/api-reference/chat-streaming; servers differ in what a delta holds,
so every text in it is joined by name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.search.llm.response_limits import parse_json

DONE = "[DONE]"
# How a stream begins; a line that begins with a colon is a comment.
EVENT = re.compile(r"\A\s*(?:data|event|id|retry|error)?:")
LINE_END = re.compile(r"\r\n|\n|\r")  # not splitlines: an answer may hold other ends of lines


class BrokenStream(ValueError):
    """The stream ended before the answer did, or has a chunk that is no JSON."""


def whole_reply(text: str) -> str:
    """Return the reply in a text. Raises BrokenStream."""
    text = text.removeprefix("\ufeff")
    if not EVENT.match(text) and not _is_bare(text):
        return text
    message: dict[str, Any] = {}
    reply: dict[str, Any] = {}
    finish = None
    for line in LINE_END.split(text):
        if line.startswith("{") and '"choices"' not in line:  # some send an error as it is
            return line.strip()
        name, _, data = ("data", "", line) if line.startswith("{") else line.partition(":")
        data = data.strip()
        if name == "error" and data:
            return data
        if name != "data" or not data:
            continue
        if data.upper() == DONE:
            finish = finish or "stop"
            break
        if not data.startswith("{"):
            continue  # a sign of life in words
        try:
            chunk = parse_json(data)
        except ValueError:
            raise BrokenStream("the stream has a chunk that is no JSON") from None
        if not isinstance(chunk, Mapping):
            continue
        if chunk.get("error") or chunk.get("object") == "error":
            return data
        kept = ("id", "model", "usage")
        reply |= {name: value for name, value in chunk.items() if name in kept and value}
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, Mapping) and not choice.get("index"):
            said = str(choice.get("finish_reason") or "")
            if said.casefold() not in ("", "none", "null"):
                finish = said
            if "delta" in choice:
                _add(message, choice["delta"])
            elif isinstance(choice.get("message"), Mapping):
                message = dict(choice["message"])
    if finish is None:
        raise BrokenStream("the stream ended before the answer did")
    choice = {"index": 0, "message": {"content": None} | message, "finish_reason": finish}
    return json.dumps(reply | {"object": "chat.completion", "choices": [choice]})


def _is_bare(text: str) -> bool:
    """Whether the chunks come as they are, one a line."""
    first, _, rest = text.lstrip().partition("\n")
    return first.startswith("{") and '"delta"' in first and rest.lstrip().startswith("{")


def _add(message: dict[str, Any], delta: Any) -> None:
    """Add a chunk: texts and lists go on; anything else, and the role, is the last one's."""
    for name, value in delta.items() if isinstance(delta, Mapping) else ():
        before = message.get(name)
        if name == "role" or not (isinstance(before, str | list) and isinstance(value, str | list)):
            message[name] = before if value is None else value
        elif isinstance(before, str) and isinstance(value, str):
            message[name] = before + value
        else:  # a thought as parts, then its answer as text
            message[name] = [*_parts(before), *_parts(value)]


def _parts(content: str | list) -> list:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]
