"""What is read out of a model's reply: the change that was meant, to the letter, or a reason.

The model can act on the reason.
"""

import contextlib
import re
import textwrap

import pytest
from checkout import TEMPLATE as SOURCE
from proposing import block

from harness.search.llm import reply as reply_module
from harness.search.llm.reply import ReplyError, apply_reply, parse_reply
from harness.search.patch import PatchError, make_diff

RATE = "MATRIX_LR = 0.04           # per step, 0.004..0.3 log: Muon, hidden matrices"
NEW_RATE = RATE.replace("0.04 ", "0.05 ")
FORWARD = """\
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.relu(self.expand(x)).square())"""
NEW_FORWARD = """\
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.expand(x)
        return self.contract(F.gelu(x))"""
WANTED = SOURCE.replace(RATE, NEW_RATE).replace(FORWARD, NEW_FORWARD)
HEADER = """\
Title: GELU and a higher rate
Hypothesis: A smooth gate lets small activations through.
Category: architecture
Expected delta: -0.003
"""


def numbered(text: str, form: str) -> str:
    return "\n".join(form % n + line for n, line in enumerate(text.split("\n"), 52))


def indented_with(sign: str, text: str) -> str:
    return "".join(sign + line for line in text.splitlines(keepends=True))


def indented(text: str, by: str) -> str:
    return textwrap.indent(text, by)


RATE_BLOCK, FORWARD_BLOCK = block(RATE, NEW_RATE), block(FORWARD, NEW_FORWARD)
BLOCKS = RATE_BLOCK + "\n" + FORWARD_BLOCK
DIFF = make_diff(SOURCE, WANTED)
HUNKS = "".join(
    line for line in DIFF.splitlines(keepends=True) if not line.startswith(("---", "+++"))
)


def patch_of(body: str, kind: str = "Update") -> str:
    return f"*** Begin Patch\n*** {kind} File: train.py\n{body}*** End Patch"


def diff_with(head: str) -> str:
    """The fenced diff with another first line of each hunk."""
    return "```diff\n" + re.sub(r"(?m)^@@.*", head, DIFF) + "```"


FIRST_HUNK, SECOND_HUNK = (f"{part}" for part in re.split(r"(?m)^@@.*\n", HUNKS)[1:])
PATCH = patch_of(re.sub(r"(?m)^@@.*", "@@", HUNKS)) + "\n"
DEDENTED = RATE_BLOCK + block(textwrap.dedent(FORWARD), textwrap.dedent(NEW_FORWARD))
RECOVERED = {
    "as asked": BLOCKS,
    "prose between and after": (
        "First the rate.\n" + BLOCKS.replace("\n\n", "\n\nThen the gate:\n\n") + "\nThis is cheap."
    ),
    "one fence": f"```python\n{BLOCKS}```\n",
    "a fence each": "".join(f"```\n{part}\n```\n" for part in BLOCKS.split("\n\n")),
    "nested fences": f"````markdown\n```python\n{BLOCKS}```\n````\n",
    "fences inside": (
        block(f"```python\n{RATE}\n```", f"```python\n{NEW_RATE}\n```") + FORWARD_BLOCK
    ),
    "fences across": (
        f"```\n<<<<<<< SEARCH\n{RATE}\n```\n=======\n```\n{NEW_RATE}\n>>>>>>> REPLACE\n```\n"
        + FORWARD_BLOCK
    ),
    "CRLF": BLOCKS.replace("\n", "\r\n"),
    "trailing blanks": (
        block(f"{RATE}  ", NEW_RATE) + block(FORWARD.replace("\n", " \t\n"), NEW_FORWARD)
    ),
    "short markers": re.sub("<{7}|={7}|>{7}", lambda marker: marker[0][:5], BLOCKS),
    "long markers": BLOCKS.replace("<<<<<<< ", "<<<<<<<<<").replace(">>>>>>>", ">>>>>>>>>"),
    "markers with blanks": (
        BLOCKS.replace("<<<<<<< SEARCH", " <<<<<<<  SEARCH: ").replace("=======", "======= ")
    ),
    "markers with the file": BLOCKS.replace("SEARCH", "SEARCH train.py"),
    "bold markers": BLOCKS.replace("<<<<<<< SEARCH", "**<<<<<<< SEARCH**"),
    "other markers": BLOCKS.replace("<<<<<<<", "-------").replace(">>>>>>>", "+++++++"),
    "dedented": DEDENTED,
    "indented": (
        block(indented(RATE, "  "), indented(NEW_RATE, "  "))
        + block(indented(FORWARD, "  "), indented(NEW_FORWARD, "  "))
    ),
    "first line trimmed": RATE_BLOCK + block(FORWARD.strip(), NEW_FORWARD.strip()),
    "in a list": (
        "1. the rate\n"
        + indented(RATE_BLOCK, "   ")
        + "2. the gate\n"
        + indented(FORWARD_BLOCK, "   ")
    ),
    "blank lines at the edges": block(f"\n{RATE}\n\n", f"\n{NEW_RATE}\n\n") + FORWARD_BLOCK,
    "a block twice": BLOCKS + "To sum up:\n" + BLOCKS,
    "file name above": "train.py\n" + BLOCKS,
    "whole file": f"```python\n{WANTED}```\n",
    "whole file, no language": f"```\n\n{WANTED}\n```\nIt ends here.",
    "whole file, nested": f"````markdown\n```python\n{WANTED}```\n````\n",
    "whole file, not closed": f"```python\n{WANTED}",
    "whole file, no fence": WANTED,
    "whole file, CRLF": f"```python\n{WANTED}```\n".replace("\n", "\r\n"),
    "diff": f"```diff\n{DIFF}```\n",
    "diff in a plain fence": f"```\n{DIFF}```\n- cheap\n- simple\n",
    "diff, no fence": DIFF,
    "diff, no fence, prose after": f"{DIFF}\nThat should help.",
    "diff with git's lines": (
        "```diff\ndiff --git a/train.py b/train.py\nindex 1234567..89abcde 100644\n" + DIFF + "```"
    ),
    "diff, wrong counts": diff_with("@@ -1,9 +7,2 @@"),
    "diff, no counts": diff_with("@@ ... @@"),
    "diff, blanks lost": f"```diff\n{DIFF}```\n".replace("\n \n", "\n\n"),
    "diff, CRLF": f"```diff\n{DIFF}```\n".replace("\n", "\r\n"),
    "patch": PATCH,
    "patch in a fence": f"```patch\n{PATCH}```\n- cheap\n",
    "patch in a plain fence": f"```\n{PATCH}```\n",
    "patch in a shell's command": f"```bash\napply_patch <<'EOF'\n{PATCH}EOF\n```\n",
    "patch, prose after": PATCH + "That should help.\n- cheap\n",
    "patch, no headers of hunks": patch_of(
        f"{FIRST_HUNK}*** End of File\n*** Update File: ./train.py\n{SECOND_HUNK}"
    ),
    "patch, not ended": PATCH.replace("*** End Patch\n", ""),
    "patch, no begin": PATCH.replace("*** Begin Patch\n", ""),
    "patch, class and function": patch_of(
        f"@@\n{FIRST_HUNK}@@ class FeedForward\n@@     def forward\n"
        "-        return self.contract(F.relu(self.expand(x)).square())\n"
        "+        x = self.expand(x)\n+        return self.contract(F.gelu(x))\n"
    ),
    "patch, CRLF": PATCH.replace("\n", "\r\n"),
    "patch, whole file": patch_of(indented_with("+", WANTED), kind="Add") + "\n",
    "patch, deleted and added": (
        "*** Begin Patch\n*** Delete File: train.py\n*** Add File: train.py\n"
        + indented_with("+", WANTED)
        + "*** End Patch\n"
    ),
    "other words in markers": BLOCKS.replace("SEARCH", "ORIGINAL").replace("REPLACE", "UPDATED"),
    "markers of git": BLOCKS.replace("SEARCH", "HEAD").replace("REPLACE", "NEW"),
    "the line above the search": BLOCKS.replace("SEARCH\n", "SEARCH\n:start_line:44\n-------\n"),
    "line numbers": (
        block(numbered(RATE, "%5d | "), numbered(NEW_RATE, "%5d | "))
        + block(numbered(FORWARD, "%d\t"), numbered(NEW_FORWARD, "%d\t"))
    ),
    "signs of a diff": (
        block(f"-{RATE}", f"+{NEW_RATE}")
        + block(indented_with("-", FORWARD), indented_with("+", NEW_FORWARD))
    ),
    "tabs": re.sub("(?m)^( {4})+", lambda at: "\t" * (len(at[0]) // 4), BLOCKS),
    "blanks between words": (
        block(RATE.replace(" = ", "="), NEW_RATE)
        + block(FORWARD.replace("(F.relu(", " ( F.relu ( ").replace(": ", ":"), NEW_FORWARD)
    ),
    "a comment for the annotation": (
        block("MATRIX_LR = 0.04  # the rate", "MATRIX_LR = 0.05           # higher")
        + block(FORWARD, NEW_FORWARD)
    ),
    "a block of nothing, elsewhere": block("import nowhere", "import nowhere") + BLOCKS,
    "marks without width": BLOCKS.replace("MATRIX", "\u200eMA\u00adTRIX"),
    "byte-order mark": "\ufeff" + BLOCKS,
    "no-break spaces": BLOCKS.replace("    ", "\u00a0   "),
    "wide blanks and no width": BLOCKS.replace("  #", "\u3000 #").replace("return", "\u200breturn"),
}


@pytest.mark.parametrize("name", RECOVERED)
def test_what_was_meant_is_recovered_to_the_letter(name):
    reply = parse_reply(HEADER + "\n" + RECOVERED[name])
    assert apply_reply(reply, SOURCE) == WANTED
    assert (reply.title, reply.category, reply.expected_delta) == (
        "GELU and a higher rate",
        "architecture",
        -0.003,
    )
    assert reply.hypothesis == "A smooth gate lets small activations through."


OPEN = BLOCKS.removesuffix(">>>>>>> REPLACE\n")
# What the reason says (a regular expression) -> name -> reply.
REFUSED = {
    "holds no change": {
        "no change": "I would raise the rate.",
        "a piece in a fence": f"```python\n{NEW_FORWARD}\n```",
    },
    "not closed: was the reply cut off": {"cut off in a block": OPEN},
    "whole train.py this one lacks 'def build_model.*', '__main__'": {
        "cut off in a file": f"```python\n{WANTED[:9000]}"
    },
    "not be valid Python": {
        "file with a line broken": f"```python\n{WANTED.replace('F.gelu(x)', 'F.gelu(x')}```",
        "indentation of a line lost": block(FORWARD, NEW_FORWARD.replace("        x =", "x =")),
    },
    "stands for code left out": {
        "dots in the search": block("class FeedForward(nn.Module):\n    ...\n" + FORWARD, "pass"),
        "dots in the replacement": block(FORWARD, NEW_FORWARD + "\n    # ... existing code ..."),
        "rest unchanged": f"```python\n{WANTED}\n# rest of the file unchanged\n```",
        "the same below": block(
            FORWARD, NEW_FORWARD + "\n\n# (the remaining methods stay the same)"
        ),
    },
    "not in the source|stand . times": {
        "two places": block("        x = norm(x)", "        x = x"),
        "patch in two places": patch_of("@@\n-        x = norm(x)\n+        x = x\n"),
    },
    r"stand \d+ times \(lines": {"ambiguous": block('    """', "    pass")},
    "stand 2 times": {
        "in a list, so that the indentation tells nothing": indented(
            block("        loss.backward()", "        pass"), "    "
        )
    },
    "edit 3 of 3: .* did you mean": {
        "one of two is missing": BLOCKS + block("import numpy as np", "import numpy")
    },
    "changes nothing": {
        "the same twice over": block(FORWARD, FORWARD),
        "whole, unchanged": f"```python\n{SOURCE}```",
    },
    "they part at line": {
        "first lines trimmed that differ": block(
            FORWARD.strip(), NEW_FORWARD.strip().replace("x:", "y:")
        ),
        "uneven indentation": block(FORWARD.replace("        return", "      return"), NEW_FORWARD),
    },
    "at another indentation": {"indentation lost": block(FORWARD, textwrap.dedent(NEW_FORWARD))},
    "blocks and as a whole file: give it once": {
        "blocks and a file": BLOCKS + f"```python\n{WANTED}```"
    },
    "blocks and as a diff: give it once": {"blocks and a diff": BLOCKS + f"```diff\n{DIFF}```"},
    "two different whole files": {"two files": f"```python\n{WANTED}```\n```python\n{SOURCE}```"},
    "no line =======": {"no divider": RATE_BLOCK.replace("=======\n", "")},
    "second =======": {"two dividers": block(RATE, NEW_RATE + "\n=======")},
    "no line <<<<<<< SEARCH began": {
        "no head": RATE_BLOCK.replace("<<<<<<< SEARCH\n", "") + FORWARD_BLOCK
    },
    "is no marker": {"code on a marker": RATE_BLOCK.replace("SEARCH\n", "SEARCH ")},
    "only train.py": {
        "diff of the harness": f"```diff\n{DIFF.replace('train.py', 'harness/lab/loop.py')}```",
        "patch of the harness": PATCH.replace("train.py", "harness/lab/loop.py"),
    },
    "only train.py may be changed": {"patch that adds a piece": patch_of(f"+{RATE}\n", kind="Add")},
    "stands inside of a diff": {
        "diff with a hole": f"```diff\n{DIFF}```".replace("\n ", "\n...\n ", 5)
    },
    "stays where it is": {
        "patch that deletes": patch_of("", kind="Delete"),
        "patch that renames": PATCH.replace("@@\n", "*** Move to: train2.py\n@@\n", 1),
    },
    "find its place by": {
        "patch with nothing to find": patch_of("@@ class FeedForward\n+    x = 1\n"),
        "diff with nothing to find": "```diff\n@@ -10,0 +11,1 @@\n+import os\n```",
    },
}


@pytest.mark.parametrize(
    "text, why",
    [
        pytest.param(text, why, id=name)
        for why, replies in REFUSED.items()
        for name, text in replies.items()
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_the_reason(text, why):
    with pytest.raises((ReplyError, PatchError), match=rf"(?s){why}"):
        apply_reply(parse_reply(HEADER + "\n" + text), SOURCE)


def test_code_that_cannot_be_read_is_refused():
    for deep in ("-" * 100_000 + "1", "1" + " + 1" * 40_000, "not " * 9000 + "x"):
        with pytest.raises(ReplyError, match="nest something too deeply|not be valid Python"):
            apply_reply(
                parse_reply(f"{HEADER}\n{block(FORWARD, NEW_FORWARD + chr(10) + 'x = ' + deep)}"),
                SOURCE,
            )


@pytest.mark.parametrize("form", ["blocks", "one block", "one SEARCH", "whole file", "growing"])
def test_a_file_that_the_gate_would_find_too_long_is_refused_before_anything_reads_it(
    form, monkeypatch
):
    reads = []
    monkeypatch.setattr(reply_module.ast, "parse", lambda *_, **__: reads.append(1))
    long = "\n".join(f"TABLE_{number} = [{'1, ' * 60}]" for number in range(4500))
    text = {
        "blocks": "".join(
            block(RATE, f"{RATE}\n{part}") for part in (long[:150_000], long[150_000:300_000])
        ),
        "one block": block(FORWARD, f"{NEW_FORWARD}\n{long}"),
        "one SEARCH": block(long, "pass"),
        "whole file": f"```python\n{WANTED}{long}\n```",
        "growing": block(FORWARD, f"{NEW_FORWARD}\n{long[:190_000]}"),
    }[form]
    with pytest.raises(
        ReplyError, match=r"would have [\d,]+ bytes or more, and 200,000 are allowed"
    ):
        apply_reply(parse_reply(f"{HEADER}\n{text}"), SOURCE)
    assert not reads


ONE, TWO = block(RATE, NEW_RATE), block(FORWARD, NEW_FORWARD)


@pytest.mark.parametrize(
    "text",
    [
        f"Title: A\nHypothesis: a\n{ONE}\nTitle: B\nHypothesis: b\n{TWO}",
        f"## Idea 1: A\n{ONE}\n## Idea 2: B\n{TWO}",
        f"Title: Both\nOption A: the rate\n{ONE}\n\nOption B: the gate\n{TWO}",
        f"Idea 1\nTitle: A\n{ONE}\nIdea 2\nTitle: B\n```diff\n{DIFF}```",
    ],
)
def test_two_ideas_are_sent_back(text):
    with pytest.raises(ReplyError, match="2 ideas, .* send one"):
        parse_reply(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"Title: A\n{ONE}\nTitle: A\n{TWO}", "gives 'A' 2 times, with a different change"),
        (f"**Title:** A\n{ONE}\nOn reflection:\n\n# Title: a\n{ONE}{TWO}", "gives 'A' 2 times"),
        (
            f"Title: A\n```python\n{WANTED}```\nTitle: A\n```python\n{SOURCE}```",
            "gives 'A' 2 times",
        ),
        (
            f"I could do this:\n{ONE}\nNo.\n{HEADER}\n{TWO}",
            "nobody can tell whether the first ones are a draft",
        ),
        (f"{ONE}\nOption A: x\n{TWO}", "draft"),
        (
            f"{HEADER}\n{ONE}\nAlternatively (second idea), the gate:\n\n{TWO}",
            "reads as if a second idea followed",
        ),
        (f"{HEADER}\n{ONE}\n**Alternatively:**\n\n{TWO}", "second idea"),
        (f"{HEADER}\n{ONE}\n## Second idea\n\n{TWO}", "second idea"),
        (f"{HEADER}\n{ONE}\n2. Another option: the gate\n\n{TWO}", "second idea"),
        (f"{HEADER}\n{ONE}\nOr, alternatively\n{TWO}", "second idea"),
    ],
)
def test_two_readings_of_one_reply_are_sent_back(text, why):
    with pytest.raises(ReplyError, match=why):
        parse_reply(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{BLOCKS}\n{HEADER}\n{BLOCKS}",  # the same twice over
        f"{BLOCKS}\n{HEADER}",
        f"# GELU\n{ONE}\nRationale: smooth.\n\n{TWO}",
        f"{BLOCKS}\n{HEADER}\nTo sum up:\n{BLOCKS}",
        (
            "Alternatively one could wait.\n"
            f"{HEADER}\n"
            f"{BLOCKS}\n"
            "Alternatively, try the optimizer next time."
        ),
        (
            f"{HEADER}\n"
            f"{ONE}\n"
            "The second change: the gate. Another idea would be to widen it.\n\n"
            f"{TWO}"
        ),
        f"{HEADER}\n{ONE}\nAnother approach would be slower, so:\n\n{TWO}",
    ],
)
def test_one_change_that_is_talked_about_is_one(text):
    assert apply_reply(parse_reply(text), SOURCE) == WANTED


@pytest.mark.parametrize(
    ("text", "title", "category"),
    [
        (
            (
                "Title: A\n"
                "Category: tune\n"
                "Hypothesis: a\n\n"
                "Title: B\n"
                "Category: schedule\n"
                "Hypothesis: b\n"
                f"{ONE}"
            ),
            "B",
            "schedule",
        ),
        (
            f"Title: A\nCategory: tune\n{ONE}\nTitle: Next time, B\nCategory: schedule\n",
            "A",
            "tune",
        ),
        (f"Idea 1: A\nIdea 2: B\n{ONE}", "B", ""),
        (f"Option 1: A\nOption 2: B\nTitle: B\nCategory: tune\n{ONE}", "B", "tune"),
        (f"Title: A\nCategory: tune\n{ONE}\n**Title: A**\n", "A", "tune"),
    ],
)
def test_the_one_idea_with_a_change_is_taken(text, title, category):
    reply = parse_reply(text)
    assert (reply.title, reply.category) == (title, category)
    assert apply_reply(reply, SOURCE) == SOURCE.replace(RATE, NEW_RATE)


@pytest.mark.parametrize(
    "header",
    [
        "**Title:** T\n**Hypothesis:** H one.\n**Category:** tune\n**Expected delta:** -0.002",
        (
            "**Title**: T\n"
            "**Hypothesis**: H one.\n"
            "**Category**: Hyperparameter tuning\n"
            "**Expected delta**: −0.002 bpb"
        ),
        "# Title\nT\n\n# Hypothesis\nH one.\n\n# Category\ntune\n\n# Expected delta\n-0.002\n",
        "## Title: T\n## Hypothesis: H\none.\n## Category: `tune`\n## Expected Delta: ~-0.002",
        (
            "- Title - T\n"
            "- Hypothesis - H one.\n"
            "- Category - tune\n"
            "- Expected delta in val_bpb: 0.002 lower"
        ),
        (
            "1. **Title:** T\n"
            "2. **Hypothesis:** H one.\n"
            "3. **Category:** tune\n"
            "4. **Expected delta (bpb):** -0.001 to -0.003"
        ),
        "TITLE: T\nHYPOTHESIS: H one.\nCATEGORY: Tune\nEXPECTED_DELTA: -2e-3",
        'title: "T"\nhypothesis: "H one."\ncategory: "tune"\nexpected_delta: -0.002',
        "```\nTitle: T\nHypothesis: H one.\nCategory: tune\nExpected improvement: 0.002\n```",
        "标题：T\n假设：H one.\n类别：tune\n预期变化：-0.002",
        "Название: T\nГипотеза: H one.\nКатегория: tune\nОжидаемое изменение: −0,002".replace(
            "0,", "0."
        ),
        "**Titel:** T\n**Hypothese:** H one.\n**Kategorie:** tune\n**Erwartet:** -0.002",
        "Τίτλος: T\nΥπόθεση: H\none.\n\nΚατηγορία: tune\nΑναμενόμενο: −0.002",
        "שלום: כן\n\nכותרת: T\n\nהשערה: H one.\n\nקטגוריה: tune\n\nצפוי: -0.002",
        "1. Tiêu đề: T\n2. Giả thuyết: H one.\n3. Phân loại: tune\n4. Kỳ vọng: -0.002",
        "**Título:** T\n**Hipótesis:** H one.\n**Categoría:** tune\n**Esperado:** -0.002",
        "タイトル：T\n仮説：H one.\nカテゴリ：tune\n期待される変化：-0.002",
        "Ｔｉｔｌｅ：T\n𝗛𝘆𝗽𝗼𝘁𝗵𝗲𝘀𝗶𝘀: H one.\nCategory：tune\nExpected delta：-0.002",
        "\ufeffTitle:\u00a0T\nHypothesis: H one.\nCategory: tune\nExpected: -0.002",
        "Title: T\x1b[31m\x07\nHypothesis: H\x00one.\nCategory: tune\nExpected delta: -0.002",
    ],
)
def test_a_header_in_the_spellings_of_models(header):
    reply = parse_reply(header + "\n\n" + ONE)
    assert (reply.title.removesuffix(" [31m"), reply.hypothesis) == ("T", "H one.")
    assert reply.category == "tune"
    assert reply.expected_delta == pytest.approx(-0.002)


@pytest.mark.parametrize(
    ("text", "delta"),
    [
        ("-0.5%", None),
        ("-0.004 (0.4%)", -0.004),
        ("a little", None),
        ("+0.001", 0.001),
        ("0.0", 0.0),
        ("about -.004", -0.004),
        ("gain of 0.002", -0.002),
        ("nan", None),
        ("-1e300", None),
        ("1e999", None),
        ("0.002 ниже", None),
    ],
)
def test_a_delta_that_is_not_stated_is_not_made_up(text, delta):
    assert parse_reply(f"Title: T\nExpected delta: {text}\n{ONE}").expected_delta == delta


def test_dots_that_the_file_has_are_lines_like_any_other():
    own = "        # ... existing code ..."
    head, tail = FORWARD.split("\n")
    source = SOURCE.replace(FORWARD, f"{head}\n{own}\n{tail}")
    edit = block(f"{head}\n{own}", f"{head}\n{own}\n        x = x")
    assert apply_reply(parse_reply(f"Title: T\n{edit}"), source) == source.replace(
        own, f"{own}\n        x = x"
    )


def test_typographic_quotes_in_a_copied_line_are_plain_ones():
    line = next(line for line in SOURCE.split("\n") if line.startswith("WINDOW_PATTERN"))
    edit = block("WINDOW_PATTERN = “L”", "WINDOW_PATTERN = “SL”")
    wanted = SOURCE.replace(line, line.replace('"L" ', '"SL" ', 1))
    assert apply_reply(parse_reply(f"Title: T\n{edit}"), SOURCE) == wanted


def test_a_title_is_found_or_asked_for():
    assert parse_reply(f"# Raise the rate\n{ONE}").title == "Raise the rate"
    assert (
        parse_reply(f"Hypothesis: Faster is better. So there.\n{ONE}").title == "Faster is better"
    )
    assert len(parse_reply(f"Title: {'long ' * 99}\n{ONE}").title) <= 160
    with pytest.raises(ReplyError, match="begin it with a line 'Title"):
        parse_reply(ONE)
    with pytest.raises(ReplyError, match="begin it with a line 'Title"):
        parse_reply(f"So this is it: faster.\n{ONE}")
    with pytest.raises(ReplyError, match="holds 2 ideas, 'T' and 'U'"):
        parse_reply(f"Titel: T\nHypothese: x\n{ONE}Titel: U\nHypothese: y\n{BLOCKS}")


@pytest.mark.timeout(60)  # patterns that try all ways to read such a line would take hours
@pytest.mark.parametrize(
    "line",
    [
        "# " + "rest the same " * 20000,
        "Expected " + "a " * 50000,
        "- " * 50000,
        "Expected: " + "1e-" * 30000,
        "*" * 100000,
    ],
)
def test_a_reply_that_never_ends_is_read_too(line):
    for text in (
        line,
        block(RATE, line),
        "import os\n" * 3000 + WANTED + "(",
        f"```\n{block(RATE, NEW_RATE) * 300}",
    ):
        with contextlib.suppress(ReplyError, PatchError):
            apply_reply(parse_reply(f"Title: T\n{line}\n{text}"), SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "Idea" + " " * 250_000,
        "Hypothesis:\n" * 80_000,
        "Title:\n" * 70_000 + "\n" * 500_000,
        "```diff\n" + "\n" * 900_000,
        "Title: x\n" * 100_000,
        " \n" * 250_000,
        "```\n" * 60_000,
        "...\n" * 60_000,
        "=======\n" * 30_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_lines_without_end_are_read_once(text):
    with pytest.raises((ReplyError, PatchError)):
        apply_reply(parse_reply(text), SOURCE)
    with pytest.raises((ReplyError, PatchError)):
        apply_reply(parse_reply(f"{HEADER}\n{block(text, text)}"), SOURCE)


def test_more_edits_than_any_idea_needs_are_refused():
    blocks = "".join(block(RATE, f"{NEW_RATE}\n# {number}") for number in range(201))
    with pytest.raises(ReplyError, match="201 edits, 200 are applied"):
        apply_reply(parse_reply(f"{HEADER}\n{blocks}"), SOURCE)
    repeated = parse_reply(f"{HEADER}\n{ONE * 5000}")
    assert apply_reply(repeated, SOURCE) == SOURCE.replace(RATE, NEW_RATE)


def test_a_reply_longer_than_any_is_not_read():
    with pytest.raises(ReplyError, match="has 1,000,001 characters, 1,000,000 are read"):
        parse_reply("x" * 1_000_001)


def test_a_reply_that_only_mends_its_change_keeps_the_header_of_the_last():
    last = f"{HEADER}\n{block(RATE + '?', NEW_RATE)}"
    mended = parse_reply(f"Here is the block again:\n{ONE}", before=last)
    assert (mended.title, mended.category, mended.expected_delta) == (
        "GELU and a higher rate",
        "architecture",
        -0.003,
    )
    assert parse_reply(f"Title: Another\n{ONE}", before=last).title == "Another"


def test_a_file_with_fences_of_its_own_is_edited_to_the_letter():
    source = SOURCE.replace("This is the only file", "```\nThis is the only file", 1)
    line = next(line for line in SOURCE.splitlines() if line.startswith("This is the only file"))
    edit = block(f"```\n{line}", "```")
    assert apply_reply(parse_reply("Title: T\n" + edit), source).count("```") == 1
    # Taken off its fences it would find the line, which is not what it says.
    with pytest.raises(PatchError):
        apply_reply(
            parse_reply("Title: T\n" + block(f"```\n{RATE}\n```", f"```\n{NEW_RATE}\n```")), source
        )
