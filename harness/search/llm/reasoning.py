"""The answer of a model apart from its reasoning.

In: the assistant's message as a server sent it (a plain dict). Out: its text, its reasoning and its
refusal, each "" when there is none. Reasoning comes in fields of its own, in parts of a typed list,
between tags (closed, never closed since the reply was cut off, or with the opening tag left behind
in the prompt) or in Harmony's channels, whole or with their special tokens lost. What stands inside
a SEARCH/REPLACE block is code and stays as it is. Refuses nothing: a text without any of these is
all answer.
"""

import bisect
import re
from collections.abc import Mapping
from typing import Any

# DeepSeek and older vLLM; vLLM, OpenRouter, Ollama; Ollama's own API.
FIELDS = ("reasoning_content", "reasoning", "thinking")
# Of tags; the last two are Seed-OSS's and MiniMax's.
NAMES = "think|thinking|thought|thoughts|reasoning|seed:think|mm:think"
TAG = re.compile(
    rf"^[ \t]*(?P<open><(?:{NAMES})>|\[THINK\]|◁think▷|<\|START_THINKING\|>"
    r"|<\|begin_of_thought\|>|<\|channel>(?:thought)?)"
    rf"|(?P<close></(?:{NAMES})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>"
    r"|<\|end_of_thought\|>|<channel\|>)",
    re.MULTILINE | re.IGNORECASE,
)
SEARCH = r"^[ \t]*<{5,}[ \t]*SEARCH\b"
EDIT = re.compile(rf"{SEARCH}(?:(?!{SEARCH}).)*?^[ \t]*>{{5,}}[ \t]*REPLACE\b", re.M | re.S)
CHANNEL = re.compile(
    r"<\|channel\|>\s*+(\w++)[^<]*+(?:<\|constrain\|>[^<]*+)?+<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.S,
)
# "analysisWe need ...assistantfinalTitle: ..."
LOST_CHANNELS = re.compile(r"\Aanalysis(?P<thought>.*)assistant\s*final(?P<answer>.*)\Z", re.S)
GRANITE = re.compile(
    r"\A\s*Here(?: is|'s) my thought process:(?P<thought>.*?)"
    r"Here(?: is|'s) my response:(?P<answer>.*)\Z",
    re.S,
)
BEFORE = re.compile(r"\A\s*(?:<answer>|<\|START_RESPONSE\|>|<\|begin_of_solution\|>)\s*")
BEHIND = ("</answer>", "<|END_RESPONSE|>", "<|end_of_solution|>")
ENDS = (
    *(f"<|{name}|>" for name in ("im_end", "eot_id", "end", "return", "endoftext", "end_of_text")),
    "<end_of_turn>",
    "</s>",
)


def message_parts(message: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return (text, reasoning, refusal) of an assistant's message."""
    text, thoughts, refusals = _content(message.get("content"))
    text, inside = split_reasoning(text)
    fields = dict.fromkeys(_text(message.get(name)) for name in FIELDS)  # some send two names
    reasoning = "\n".join(filter(None, (*fields, thoughts, inside)))
    return text, reasoning, _text(message.get("refusal")) or refusals


def split_reasoning(text: str) -> tuple[str, str]:
    """Return (answer, reasoning) of a text."""
    for form in (_split_channels, _split_sentences, _split_tags):
        answer, reasoning = form(text)
        if answer != text:  # tags around a thought may have a counterpart around the answer
            answer = _without_last(BEFORE.sub("", answer), BEHIND)
            break
    return _without_last(answer, ENDS).strip("\n"), reasoning.strip()


def _without_last(text: str, marks: tuple[str, ...]) -> str:
    """The text without the marks that it ends with and the blanks around them.

    No pattern: one for that looks at every blank of a text again and again.
    """
    stop = len(text)
    while True:
        end = _bare(text, stop)
        mark = next((mark for mark in marks if text.endswith(mark, 0, end)), "")
        if not mark:
            return text[:stop]
        stop = _bare(text, end - len(mark))


def _bare(text: str, stop: int) -> int:
    """Where the text up to `stop` ends but for blanks."""
    while stop and text[stop - 1].isspace():
        stop -= 1
    return stop


def _split_channels(text: str) -> tuple[str, str]:
    channels = list(CHANNEL.finditer(text))
    if not channels:
        return text, ""
    before = text[: channels[0].start()].removesuffix("<|start|>assistant")
    parts = [("analysis", before)] + [(channel[1], channel[2]) for channel in channels]
    answer = "".join(body for name, body in parts if name == "final")
    return answer, "\n".join(body for name, body in parts if name != "final" and body.strip())


def _split_sentences(text: str) -> tuple[str, str]:
    found = LOST_CHANNELS.match(text) or GRANITE.match(text)
    return (found["answer"], found["thought"]) if found else (text, "")


def _split_tags(text: str) -> tuple[str, str]:
    edits = [found.span() for found in EDIT.finditer(text)]
    answer, reasoning, end, thinking = [], [], 0, False
    for tag in TAG.finditer(text):
        place = tag.start()
        edit = bisect.bisect_left(edits, (place,)) - 1  # the last one that begins above the tag
        in_code = edit >= 0 and place < edits[edit][1]
        quoted = tag["open"] if thinking else in_code
        if quoted:
            continue
        before = text[end:place]
        if tag["open"]:
            answer.append(before)
        elif thinking:
            reasoning.append(before)
        else:  # its opening tag was in the prompt: all so far was thought
            reasoning += [*answer, before]
            answer = []
        thinking, end = bool(tag["open"]), tag.end()
    (reasoning if thinking else answer).append(text[end:])
    return "".join(answer), "".join(reasoning)


def _content(content: Any) -> tuple[str, str, str]:
    """Return (text, reasoning, refusal) of a content: a text, nothing, or a list of typed parts."""
    if not isinstance(content, list):
        return _text(content), "", ""
    texts, thoughts, refusals = [], [], []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in ("text", "output_text"):
            texts.append(_text(part))
        elif kind == "refusal":
            refusals.append(_text(part.get("refusal")))
        elif kind in ("thinking", "reasoning", "reasoning_text", "summary_text"):
            thoughts.append(_text(part))
    return "".join(texts), "\n".join(thoughts), "\n".join(refusals)


def _text(value: Any) -> str:
    """The text in a value of unknown shape: itself, its parts', or what has a usual name."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        names = ("text", "content", "thinking", "reasoning", "summary")
        return next((_text(value[name]) for name in names if name in value), "")
    return ""
