"""For every source, every change and every way to write it: the text that was meant or an error.

EXAMPLES=1000 in the environment looks longer and at other examples than the usual ones.
"""

import ast
import difflib
import os

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from proposing import edits_in

from harness.search.constants import BEGIN, END
from harness.search.llm.reply import ReplyError, apply_reply, parse_reply
from harness.search.patch import Edit, PatchError, apply_edits, join_lines, make_diff

# Of a line that is put in a text.
pytestmark = pytest.mark.filterwarnings("ignore:.*invalid escape sequence")

always = settings(
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    # The same in every usual run: a failure is the change's, not the dice's.
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

AWKWARD = (
    *("", "    ", "a", "    a", "\ta", "a  ", "        a", "b", "\x0cc", "c\u2028d"),
    *("def f():", "    def f():", "...", "# rest unchanged", "Title: a", "# Idea 2: a"),
    *("```", "```python", "    ```", "~~~", "=======", "====", "  ======="),
    *("<<<<<<<", "<<<<<<< SEARCH", ">>>>>>>", ">>>>>>> REPLACE", "    >>>>>>> REPLACE"),
    *("------- SEARCH", "+++++++ REPLACE", "@@ -1 +1 @@", "--- a/train.py", "+++ b/train.py"),
    *("> a", "- a", "+ a", "-- a", "++ a", "\\ No newline at end of file"),
)
AROUND = ("%s", "```python\n%s```\n", "1. so:\n\n%s\n")


@st.composite
def changes(draw, most=10):
    """Awkward lines and what becomes of them: kept, dropped, replaced, or one put before."""
    lines = st.sampled_from(AWKWARD)
    source, target = draw(st.lists(lines, max_size=most)), []
    for line in source:
        fate = draw(st.sampled_from(("keep", "keep", "keep", "drop", "replace", "insert")))
        target += [draw(lines)] if fate in ("replace", "insert") else []
        target += [line] if fate in ("keep", "insert") else []
    assume(source != target)
    return source, target


@st.composite
def distinct_changes(draw):
    """The same of lines of which no two are alike, at any indentation, some of them blank."""
    indents = st.sampled_from(("", "    ", "        ", "\t"))
    numbers = draw(st.lists(st.integers(0, 30), unique=True, min_size=2, max_size=10))
    source = [f"{draw(indents)}line {number}" for number in numbers]
    target = []
    for line in source:
        fate = draw(st.sampled_from(("keep", "keep", "keep", "drop", "replace")))
        if fate == "replace":
            target.append(f"{draw(indents)}new {len(target)}")
        elif fate == "keep":
            target.append(line)
    assume(source != target)
    return source, target


def edits_between(source, target, context):
    """The edits that lead from source to target, each with so many lines of context."""
    matcher = difflib.SequenceMatcher(None, source, target, autojunk=False)
    for group in matcher.get_grouped_opcodes(context):
        (_, a, _, c, _), (_, _, b, _, d) = group[0], group[-1]
        yield Edit(join_lines(source[a:b]), join_lines(target[c:d]))


def blocks(edits):
    form = "<<<<<<< SEARCH\n{0.search}=======\n{0.replace}>>>>>>> REPLACE\n"
    return "".join(form.format(edit) for edit in edits)


def moved(text, by):
    return join_lines(by + line if line.strip() else line for line in text.split("\n")[:-1])


def indented(edit, by="    "):
    return Edit(moved(edit.search, by), moved(edit.replace, by))


def trimmed(edit):
    """The edit without the indentation of its first line, if that is a line of context."""
    search, replace = edit.search.split("\n"), edit.replace.split("\n")
    if search[0] != replace[0]:
        return edit
    return Edit(edit.search.lstrip(" \t"), edit.replace.lstrip(" \t"))


def like_a_marker(line):
    return any(mark in line for mark in ("<<<", ">>>", "===", "---", "+++"))


def applied(source, edits):
    """The result, or None for an error."""
    try:
        return apply_edits(source, edits)
    except PatchError:
        return None


@always
@given(changes(), st.integers(0, 3), st.sampled_from(("\n", "\r\n", "\r")), st.booleans())
def test_edits_give_the_target_or_an_error(change, context, newline, closed):
    texts = [newline.join(lines) + (newline if closed and lines else "") for lines in change]
    # An empty last line without an end is no line.
    assume(closed or len(change[0]) > 1 and change[0][-1])
    assert applied(texts[0], list(edits_between(*change, context))) in (texts[1], None)


@always
@given(distinct_changes(), st.integers(1, 3), st.sampled_from(("\n", "\r\n")))
def test_edits_of_lines_that_stand_once_apply(change, context, newline):
    source, target = (newline.join([*lines, ""]) for lines in change)
    assert applied(source, list(edits_between(*change, context))) == target


@always
@given(distinct_changes(), st.integers(1, 3), st.sampled_from(("  ", "    ", "\t")))
def test_edits_that_are_indented_too_much_are_moved_back(change, context, by):
    source, target = map(join_lines, change)
    edits = [indented(edit, by) for edit in edits_between(*change, context)]
    assert applied(source, edits) == target


@always
@given(changes(), st.integers(0, 3), st.sampled_from(("  ", "    ", "\t")))
def test_moved_edits_give_the_target_or_an_error(change, context, by):
    source, target = map(join_lines, change)
    edits = [indented(edit, by) for edit in edits_between(*change, context)]
    # What stands there to the letter is what is meant.
    assume(not any(edit.search in source for edit in edits))
    assert applied(source, edits) in (target, None)


@always
@given(changes(), st.integers(0, 3))
def test_blocks_are_read_as_they_are_written_or_refused(change, context):
    edits = list(edits_between(*change, context))
    try:
        read = edits_in(blocks(edits))
    except PatchError:
        return
    plain = [
        [line for line in blocks(each).split("\n") if not like_a_marker(line)]
        for each in (read, edits)
    ]
    assert plain[0] == plain[1]
    if not any(map(like_a_marker, sum(change, []))):
        assert read == edits


@always
@given(distinct_changes(), st.integers(1, 3), st.sampled_from(AROUND))
def test_blocks_of_plain_lines_are_always_read(change, context, around):
    edits = list(edits_between(*change, context))
    assert edits_in(around % blocks(edits)) == edits


TAIL = [
    *(BEGIN, END, "def build_model(vocab_size, max_seq_len):"),
    *("    return None", 'if __name__ == "__main__":', "    pass"),
]


def python(lines, number=1):
    """A train.py with these lines in a text of it."""
    return ['"""A text.', *lines, '"""', f"number = {number}", *TAIL]


def written(form, source, target, context):
    if form == "whole":
        return f"```python\n{join_lines(target)}```\n"
    if form == "bare whole":
        return join_lines(target)
    if form == "blocks":
        return f"```\n{blocks(edits_between(source, target, context))}```\n"
    if form in ("indented blocks", "trimmed blocks"):
        edits = list(edits_between(source, target, context))
        changed = [indented(edit) if form == "indented blocks" else trimmed(edit) for edit in edits]
        new = [edit for edit in changed if edit not in edits]
        # What stands there to the letter is what is meant.
        assume(not any(edit.search in join_lines(source) for edit in new))
        return blocks(changed)
    if form == "blocks in a list":
        return moved(blocks(edits_between(source, target, context)), "   ")
    diff = make_diff(join_lines(source), join_lines(target))
    return f"```diff\n{diff}```\n" if form == "diff" else diff + "\nThat is all.\n"


FORMS = ("whole", "bare whole", "blocks", "indented blocks", "trimmed blocks", "blocks in a list")
FORMS += ("diff", "bare diff")


@pytest.mark.parametrize("form", FORMS)
@always
@given(changes(most=6), st.integers(0, 3), st.sampled_from((1, 2)), st.sampled_from(("\n", "\r\n")))
def test_a_reply_gives_the_target_or_an_error(form, change, context, number, newline):
    source, target = python(change[0]), python(change[1], number)
    text = "Title: T\n\n" + written(form, source, target, context)
    try:
        result = apply_reply(parse_reply(text.replace("\n", newline)), join_lines(source))
    except (ReplyError, PatchError):
        return
    assert result == join_lines(target)


@pytest.mark.parametrize("form", FORMS)
@always
@given(distinct_changes(), st.sampled_from((1, 2)))
def test_a_reply_of_plain_lines_is_never_refused(form, change, number):
    source, target = python(change[0]), python(change[1], number)
    text = "Title: T\n\n" + written(form, source, target, 3)
    assert apply_reply(parse_reply(text), join_lines(source)) == join_lines(target)


HEADERS = ("Title: T", "**Category:** tune", "Expected delta: -1")
SNIPPETS = ("```diff", "+b", "-a", " a", "x = 1", '"""', *python(["a"]))
PIECES = st.sampled_from((*AWKWARD, *HEADERS, *SNIPPETS))


@always
@given(st.lists(PIECES, max_size=25), st.sampled_from(("\n", "\r\n")))
def test_any_text_is_read_or_refused_and_the_present_file_is_never_the_answer(lines, newline):
    source = join_lines(python(["a", "b"]))
    try:
        result = apply_reply(parse_reply(newline.join(lines)), source)
    except (ReplyError, PatchError) as refusal:
        assert str(refusal)
    else:
        assert result != source
        ast.parse(result)
