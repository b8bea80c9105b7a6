"""Reasoning is told from the answer in each of the forms in which servers send it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.search.llm.reasoning import message_parts, split_reasoning

ANSWER = (
    "Title: wider MLP\n\n<<<<<<< SEARCH\nMLP_RATIO = 4\n=======\nMLP_RATIO = 5\n>>>>>>> REPLACE"
)
THOUGHT = "The MLP is narrow.\n\nMaybe 5?"
DRAFT = f"{THOUGHT}\n<<<<<<< SEARCH\nMLP_RATIO = 4\n=======\nMLP_RATIO = 8\n>>>>>>> REPLACE\nNo, 5."
HALF_DRAFT = f"{THOUGHT}\n<<<<<<< SEARCH\nMLP_RATIO = 4\n=======\nno, other"

FORMS = {
    "think": "<think>{thought}</think>{answer}",
    "think on lines of its own": "<think>\n{thought}\n</think>\n\n{answer}",
    "think, in capitals": "<THINK>\n{thought}\n</THINK>\n{answer}",
    "thinking": "<thinking>\n{thought}\n</thinking>\n{answer}",
    "thought": "<thought>{thought}</thought>{answer}",
    "reasoning": "<reasoning>{thought}</reasoning>\n{answer}",
    "twice": "<think>First.</think>\n<think>{thought}</think>\n{answer}",
    "only the closing tag": "{thought}\n</think>\n\n{answer}",
    "only the closing tag, no line": "{thought}</think>{answer}",
    "quoting its own tag": "<think>I am in a\n<think> block. {thought}</think>\n{answer}",
    "an answer in a tag too": "<think>{thought}</think>\n<answer>\n{answer}\n</answer>",
    "Mistral": "[THINK]{thought}[/THINK]{answer}",
    "Seed-OSS": "<seed:think>{thought}</seed:think>{answer}<|im_end|>",
    "Kimi": "◁think▷{thought}◁/think▷{answer}",
    "Cohere": (
        "<|START_THINKING|>{thought}<|END_THINKING|><|START_RESPONSE|>{answer}<|END_RESPONSE|>"
    ),
    "OpenThinker": (
        "<|begin_of_thought|>{thought}<|end_of_thought|>\n<|begin_of_solution|>{answer}<|end_of_solution|>"
    ),
    "Gemma 4": "<|channel>thought\n{thought}<channel|>{answer}",
    "Granite": "Here is my thought process: {thought}\n\nHere is my response: {answer}",
    "Harmony": (
        "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    ),
    "Harmony, its start eaten": (
        "{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}"
    ),
    "Harmony with a commentary": (
        "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>commentary"
        " to=functions.x <|constrain|>json<|message|>{{}}<|call|><|start|>assistant<|channel|>final"
        " <|constrain|>text<|message|>{answer}<|return|>"
    ),
    "Harmony without its tokens": "analysis{thought}assistantfinal{answer}",
}


@pytest.mark.parametrize(
    "thought", [THOUGHT, DRAFT, HALF_DRAFT], ids=["thought", "with a draft", "with half a draft"]
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form(form, thought):
    answer, reasoning = split_reasoning(form.format(thought=thought, answer=ANSWER))
    assert answer.strip() == ANSWER
    assert thought in reasoning


@pytest.mark.parametrize(
    "cut",
    [
        "<think>\n" + DRAFT,
        "<|channel|>analysis<|message|>" + DRAFT,
        "[THINK]" + DRAFT,
        "<|channel>thought\n" + DRAFT,
    ],
)
def test_a_thought_that_was_cut_off_is_no_answer(cut):
    assert split_reasoning(cut) == ("", DRAFT)


def test_tags_inside_an_edit_are_code():
    block = '<<<<<<< SEARCH\nx = 1\n=======\nPROMPT = """\n<think>\na</think>\n"""\n>>>>>>> REPLACE'
    assert split_reasoning(block) == (block, "")
    assert split_reasoning(f"<think>{THOUGHT}</think>\n{block}") == (block, THOUGHT)


def test_a_tag_named_in_a_sentence_is_a_word():
    assert split_reasoning("Title: a <think> tag\nx") == ("Title: a <think> tag\nx", "")


# Patterns that look at each of so many blanks once for each of them take ten minutes and more.
SIZE = 250_000
DEGENERATE = ["\n", " ", " \n", "```\n", "...\n", "Title: x\n", "<think>\n", "=======\n"]


@pytest.mark.parametrize("unit", DEGENERATE, ids=repr)
def test_a_text_that_never_ends_is_read_once(unit):
    text = unit * (SIZE // len(unit))
    if unit.startswith("<think>"):
        assert split_reasoning(f"a\n{text}b") == ("a", (text[len("<think>") :] + "b").strip())
    else:
        assert split_reasoning(f"a{text}b") == (f"a{text}b", "")
        assert split_reasoning(f"<think>x</think>a{text}</s>") == (f"a{text}".rstrip(), "x")


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>x</think>a" + "</answer> \n" * 20_000, "a", "x"),
        ("a" + "</s> <|im_end|>\n" * 20_000, "a", ""),
        ("a" + "</answer>" + " \n" * 100_000 + "b", "a</answer>" + " \n" * 100_000 + "b", ""),
        ("<|channel|>" + "a" * SIZE, "<|channel|>" + "a" * SIZE, ""),
        ("x</think>" * 25_000 + "a", "a", "x" * 25_000),
        ("<think>x</think>" * 15_000 + "a", "a", "x" * 15_000),
    ],
    ids=["answers", "ends", "an answer, blanks", "a channel's name", "closing tags", "thoughts"],
)
def test_tags_that_never_end_are_read_once(text, answer, reasoning):
    found, thought = split_reasoning(text)
    assert (found, thought.replace("<think>", "")) == (answer, reasoning)


@given(st.text(alphabet="abc <>/|=\n[]", max_size=200))
def test_a_text_without_any_form_stays_whole(text):
    assert split_reasoning(text) == (text.strip("\n"), "")


MESSAGES = [
    {"content": ANSWER, "reasoning_content": THOUGHT},
    {"content": ANSWER, "reasoning": THOUGHT},
    {"content": ANSWER, "thinking": THOUGHT},
    # One thought, under both names.
    {"content": ANSWER, "reasoning": THOUGHT, "reasoning_content": THOUGHT},
    {"content": ANSWER, "reasoning": {"content": THOUGHT}},
    {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
            {"type": "text", "text": ANSWER},
        ]
    },
    {"content": [{"type": "reasoning", "text": THOUGHT}, {"type": "output_text", "text": ANSWER}]},
    {"content": [{"text": f"<think>{THOUGHT}</think>"}, ANSWER]},
]


@pytest.mark.parametrize("message", MESSAGES)
def test_fields_and_typed_parts(message):
    assert message_parts({"role": "assistant"} | message) == (ANSWER, THOUGHT, "")


def test_refusals():
    assert message_parts({"content": None, "refusal": "I cannot."}) == ("", "", "I cannot.")
    assert message_parts({"content": [{"type": "refusal", "refusal": "No."}]}) == ("", "", "No.")


@pytest.mark.parametrize("content", [None, "", 3, [], [None], [{"type": "image"}], {"odd": 1}])
def test_nothing_to_read_is_an_empty_text(content):
    assert message_parts({"content": content}) == ("", "", "")


def test_a_content_in_nested_lists_is_one_text():
    assert message_parts({"content": [[[{"text": ["x", "y"]}]]]}) == ("xy", "", "")
