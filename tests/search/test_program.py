"""The settings block of program.md."""

import pytest

from harness.ground.errors import ProgramError
from harness.search.constants import parse_constants
from harness.search.program import (
    CATEGORIES,
    ProgramSettings,
    has_settings,
    narrow_constants,
    parse_program,
)

CONSTANTS = parse_constants("""\
# === constants ===
DEPTH = 8  # layers, 1..32 int: blocks
BATCH = 4096  # tokens, 1024..65536 pow2: per step
LR = 0.6  # per step, 0.01..2.0 log: embeddings
PATTERN = "L"  # pattern, {"L", "SL", "SSL"}: windows
ROWS = 8  # rows, fixed: per device
# === end of constants ===
""")


def program(block: str) -> str:
    return f"# What I want\n\nBe bold.\n\n```settings\n{block}\n```\n\nMore prose with ``` in it.\n"


def test_a_full_block():
    settings = parse_program(
        program(
            'allowed_categories = ["tune", "architecture"]\n'
            'forbidden_ideas = ["weight tying", "LR"]\n'
            "[ranges]\n"
            "DEPTH = [2, 6]\n"
            'PATTERN = ["L", "SL"]\n'
            "[fixed]\n"
            'names = ["BATCH"]'
        )
    )
    assert settings.allowed_categories == ("tune", "architecture")
    space = narrow_constants(settings, CONSTANTS)
    assert set(space) == {"DEPTH", "PATTERN"}  # LR is forbidden, BATCH and ROWS are fixed
    assert (space["DEPTH"].low, space["DEPTH"].high, space["DEPTH"].value) == (2, 6, 8)
    assert space["PATTERN"].choices == ("L", "SL")


def test_an_empty_block_allows_everything():
    settings = parse_program(program(""))
    assert settings.allowed_categories == CATEGORIES
    assert narrow_constants(settings, CONSTANTS).keys() == CONSTANTS.keys() - {"ROWS"}
    assert settings.forbids("any", "Any title") is None


@pytest.mark.parametrize(
    "opening",
    ["~~~settings", "```toml settings", "``` Settings", "```{.settings .toml}", "````settings"],
)
def test_fences_as_people_write_them(opening):
    mark = opening[: len(opening) - len(opening.lstrip("`~"))]
    text = f"{opening}\n[fixed]\nnames = ['BATCH']\n{mark}\n"
    assert has_settings(text) and parse_program(text).fixed == ("BATCH",)
    with pytest.raises(ProgramError, match="never closed"):
        parse_program(text.removesuffix(f"{mark}\n"))


@pytest.mark.parametrize("opening", ["```toml", "```my settings", "settings"])
def test_other_fences_are_no_settings(opening):
    assert not has_settings(f"{opening}\n[fixed]\n```\n")


@pytest.mark.parametrize(
    ("idea", "title", "forbidden"),
    [
        ("bigram-embedding", "Pairs of tokens", True),  # by id
        ("x", "Try Weight-Tying once more", True),  # by words, whatever their case and hyphens
        ("x", "Weight of tying", False),
        ("x", "Tune LR and more", True),
        ("x", "Tune LRX", False),  # whole words only
    ],
)
def test_forbidden_ideas(idea, title, forbidden):
    settings = parse_program(
        program('forbidden_ideas = ["bigram-embedding", "weight tying", "lr"]')
    )
    assert bool(settings.forbids(idea, title)) == forbidden


@pytest.mark.parametrize(
    ("block", "line", "words"),
    [
        ('allowed_categories = ["tun"]', 6, "did you mean tune"),
        ("allowed_categories = []", 6, "empty"),
        ('allowed_categories = "tune"', 6, "list of words"),
        ("\nforbiden_ideas = []", 7, "did you mean forbidden_ideas"),
        ('forbidden_ideas = ["--"]', 6, "forbids nothing"),
        ("[ranges]\nDEPHT = [1, 2]", 7, "did you mean DEPTH"),
        ("[ranges]\nDEPTH = [1, 64]", 7, "1..32"),
        ("[ranges]\nDEPTH = [5, 2]", 7, "low, high"),
        ("[ranges]\nDEPTH = 3", 7, "low, high"),
        ("[ranges]\nDEPTH = [1, 2, 3]", 7, "low, high"),
        ("[ranges]\nBATCH = [3000, 4096]", 7, "power of two"),
        ('[ranges]\nPATTERN = ["S"]', 7, "one of"),
        ("[ranges]\nROWS = [4, 8]", 7, None),
        ('[fixed]\nname = ["LR"]', 7, "names = "),
        ('[fixed]\nnames = ["LRR"]', 7, "did you mean LR"),
        ("ranges = 3", 6, "table"),
        ('allowed_categories = ["tune"', 6, "TOML"),
        ("\n\nDEPTH = = 3", 8, "TOML"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_with_its_line(block, line, words):
    if words is None:  # a range for a constant that is fixed anyway says nothing
        narrow_constants(parse_program(program(block)), CONSTANTS)
        return
    with pytest.raises(ProgramError, match=words) as caught:
        narrow_constants(parse_program(program(block)), CONSTANTS)
    assert f"line {line}" in str(caught.value) or "end of document" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# autoresearch\n\nGet the lowest val_bpb.\n", "```toml\n[a]\n```"]
)
def test_a_program_without_a_block_has_the_defaults(text):
    assert (
        parse_program(text) == ProgramSettings()
        and not has_settings(text)
        and has_settings(program(""))
    )


@pytest.mark.parametrize("text", ["```settings\n", program("") + program("")])
def test_of_blocks_there_is_one_and_it_is_closed(text):
    with pytest.raises(ProgramError, match="block"):
        parse_program(text)


def test_constants_of_other_versions_may_be_named():
    settings = parse_program(program("[ranges]\nBIGRAM_ROWS = [1024, 4096]"))
    assert "BIGRAM_ROWS" not in narrow_constants(settings, CONSTANTS, also_known={"BIGRAM_ROWS"})
    with pytest.raises(ProgramError):
        narrow_constants(settings, CONSTANTS)
