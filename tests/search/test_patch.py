"""SEARCH/REPLACE edits and diffs."""

import random
import shutil
import subprocess

import pytest
from proposing import block, edits_in

from harness.search.patch import Edit, PatchError, apply_edits, make_diff

SOURCE = """\
import math


class A:
    def f(self):
        x = 1
        return x

    def g(self):
        x = 1
        return x + math.pi
"""


def test_blocks_are_read_between_prose():
    text = "I would try this:\n" + block("a\nb", "c") + "\nand\n" + block("d", "") + "done"
    assert edits_in(text) == [Edit("a\nb\n", "c\n"), Edit("d\n", "\n")]


@pytest.mark.parametrize(
    "text",
    ["<<<<<<< SEARCH\na\n=======\nb\n", "<<<<<<< SEARCH\na\n" + block("a", "b")],
)
def test_a_cut_block_is_an_error(text):
    with pytest.raises(PatchError):
        edits_in(text)


def test_exact_edit():
    after = apply_edits(SOURCE, [Edit("        return x + math.pi", "        return x + math.e")])
    assert after == SOURCE.replace("math.pi", "math.e")


def test_deleting_and_inserting():
    assert apply_edits("a\nb\nc\n", [Edit("b", "")]) == "a\nc\n"
    assert apply_edits("a\nb\nc\n", [Edit("b", "b\nnew")]) == "a\nb\nnew\nc\n"
    assert apply_edits("a\nb", [Edit("b", "c")]) == "a\nc"  # no final newline is made up


def test_uniform_indent_shift_moves_the_replacement_too():
    g = "def g(self):\n    x = 1\n    return x + math.pi"
    after = apply_edits(SOURCE, [Edit(g, "def g(self):\n    return 2")])
    assert after.endswith("    def g(self):\n        return 2\n")
    after = apply_edits(SOURCE, [Edit("            return x + math.pi", "            return 0")])
    assert after.endswith("        return 0\n")


def test_an_uneven_indent_is_no_match():
    with pytest.raises(PatchError, match="did you mean"):
        apply_edits(SOURCE, [Edit("def g(self):\n  x = 1\n    return x + math.pi", "pass")])


def test_two_places_are_an_error_that_names_them():
    with pytest.raises(PatchError, match=r"2 times \(lines 6, 10\)"):
        apply_edits(SOURCE, [Edit("        x = 1", "        x = 2")])


def test_a_miss_shows_the_nearest_lines():
    with pytest.raises(PatchError, match="edit 2 of 2") as caught:
        miss = Edit("        return x - math.pi", "")
        apply_edits(SOURCE, [Edit("import math", "import cmath"), miss])
    assert "11 |         return x + math.pi" in str(caught.value)


def test_edits_without_effect_are_errors():
    with pytest.raises(PatchError, match="changes nothing"):
        apply_edits(SOURCE, [Edit("import math", "import math")])
    with pytest.raises(PatchError, match="change nothing"):
        there, back = Edit("import math", "import cmath"), Edit("import cmath", "import math")
        apply_edits(SOURCE, [there, back])
    with pytest.raises(PatchError, match="empty"):
        apply_edits(SOURCE, [Edit("  \n", "x = 1")])


def test_later_edits_see_earlier_ones_and_all_or_none_apply():
    assert "B" in apply_edits(SOURCE, [Edit("class A:", "class C:"), Edit("class C:", "class B:")])
    with pytest.raises(PatchError):
        apply_edits(SOURCE, [Edit("class A:", "class C:"), Edit("class A:", "class B:")])


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("seed", range(5))
def test_git_applies_the_diff(tmp_path, seed):
    rng = random.Random(seed)
    lines = rng.choices(("line 1", "line 2", "", "\x0c", "line\u20283", "    \\"), k=40)
    changed = [line for line in lines if rng.random() > 0.1] + ["tail"] * rng.randrange(2)
    old, new = ("\n".join(each) + "\n" * rng.randrange(2) for each in (lines, changed))
    (tmp_path / "train.py").write_bytes(old.encode())
    command = ["git", "apply", "--unidiff-zero", "-"]
    subprocess.run(command, cwd=tmp_path, input=make_diff(old, new).encode(), check=True)
    assert (tmp_path / "train.py").read_bytes() == new.encode()
    assert make_diff(old, old) == ""


COMMENTED = """a = 1  # the first
# about b
b = 2  # '#' is no comment here
def f(x):
    y = x + 1  # up

    return y  # back
"""


@pytest.mark.parametrize(
    "search, replace, wanted",
    [
        ("a = 1\n", "a = 3\n", COMMENTED.replace("a = 1  # the first", "a = 3")),
        (
            "y = x + 1\nreturn y\n",
            "y = x + 2\nreturn y\n",
            COMMENTED.replace("y = x + 1  # up\n\n", "y = x + 2\n"),
        ),
        (
            "    y = x + 1\n",
            "    y = x + 1\n    y = 2 * y\n",
            COMMENTED.replace("# up\n", "# up\n    y = 2 * y\n"),
        ),
        ("a = 1\nb = 2\n", "b = 2\n", COMMENTED.replace("a = 1  # the first\n# about b\n", "")),
        (
            "a=1\nb  =2\n",
            "a=1\nb = 3\n",
            COMMENTED.replace("# about b\nb = 2  # '#' is no comment here", "b = 3"),
        ),
    ],
)
def test_a_search_that_lacks_only_comments_and_blank_lines_finds_its_place(search, replace, wanted):
    assert apply_edits(COMMENTED, [Edit(search, replace)]) == wanted


def test_a_search_without_comments_that_fits_twice_is_refused():
    with pytest.raises(PatchError, match="not in the source"):
        apply_edits("x = 1  # here\ny = 2\nx = 1  # and there\n", [Edit("x = 1\n", "x = 2\n")])


def test_an_edit_of_nothing_beside_a_good_one_is_passed_over():
    edits = [Edit("a = 1  # the first\n", "a = 1  # the first\n"), Edit("# about b\n", "")]
    assert apply_edits(COMMENTED, edits) == COMMENTED.replace("# about b\n", "")
    nowhere = Edit("import nowhere\n", "import nowhere\n")
    assert apply_edits(COMMENTED, [nowhere, edits[1]]) == COMMENTED.replace("# about b\n", "")
    with pytest.raises(PatchError, match="changes nothing"):
        apply_edits(COMMENTED, [nowhere])


def test_blanks_within_quotes_are_not_passed_over():
    with pytest.raises(PatchError, match="not in the source"):
        apply_edits('x = f("a  b")\n', [Edit('x = f("a b")\n', "x = 1\n")])


def test_the_hint_shows_the_line_of_the_same_name():
    source = "ALPHA = 1\n" + "".join(f"x{i} = {i}\n" for i in range(50)) + "DEPTH = 8  # layers\n"
    with pytest.raises(PatchError, match=r"52 \| DEPTH = 8"):
        apply_edits(source, [Edit("DEPTH = 12  # blocks\n", "DEPTH = 3\n")])


TWICE = (
    "class A:\n    def f(self):\n        x = 1\n\n    def g(self):\n        x = 1\n\n\n"
    "class B:\n    def f(self):\n        x = 1\n"
)


@pytest.mark.parametrize(
    ("within", "line"),
    [(("class A", "def f"), 3), (("class A:", "    def g(self):"), 6), (("class B",), 11)],
)
def test_of_several_places_the_one_within_is_meant(within, line):
    edit = Edit("        x = 1\n", "        x = 2\n", within=within)
    assert apply_edits(TWICE, [edit]).split("\n")[line - 1] == "        x = 2"
    assert apply_edits(TWICE, [edit]).count("x = 2") == 1


@pytest.mark.parametrize(
    "within", [(), ("class A",), ("class C",), ("def f",), ("class B", "def g")]
)
def test_a_place_that_within_does_not_single_out_is_an_error(within):
    with pytest.raises(PatchError, match="stand 3 times|stand 2 times"):
        apply_edits(TWICE, [Edit("        x = 1\n", "        x = 2\n", within=within)])
