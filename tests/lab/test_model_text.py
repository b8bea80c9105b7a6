"""Text of the baseline's and the branch's model: by real model servers, the same again, and never
the end of a night.
"""

import json

import pytest
from labs import plant_decided

from harness.check.files import Look
from harness.check.model_text import check_model_text
from harness.data.tokenizer import load_tokenizer
from harness.lab import model_text
from harness.lab.model_text import NAME, is_wanted, read_model_text, write_model_text
from harness.scoring.text_sampling import BEGINNING, TEXTS, beginnings
from harness.show.model_text import block, say_texts
from harness.show.report import write_report


def keep_another(lab) -> None:
    """Put a copy of the baseline on the branch as experiment 1."""
    plant_decided(lab, decision="keep", kind="gain", title="another")


def findings(lab) -> list[str]:
    return list(
        check_model_text(Look(lab.folder, lab.folder, lab.settings, lab.entries, busy=False))
    )


def test_nothing_is_written_while_nothing_is_kept(lab):
    assert not is_wanted(lab)
    write_model_text(lab)
    assert not (lab.folder / NAME).exists() and say_texts(lab) == ""


@pytest.mark.slow
def test_both_models_write_the_same_again_and_it_stands_in_the_report(lab):
    keep_another(lab)
    assert is_wanted(lab)
    write_model_text(lab)
    found, first = read_model_text(lab.folder), (lab.folder / NAME).read_bytes()
    assert [model["experiment"] for model in found["models"]] == [0, 1] and not is_wanted(lab)
    assert [len(model["texts"]) for model in found["models"]] == [TEXTS, TEXTS]
    assert found["models"][0]["texts"] == found["models"][1]["texts"], (
        "the same weights write the same"
    )
    assert any(found["models"][0]["texts"]) and not found["models"][0]["cause"]
    (lab.folder / NAME).unlink()  # a kill before the file was there
    write_model_text(lab)
    assert (lab.folder / NAME).read_bytes() == first
    assert not list(lab.folder.rglob("server_*")), "nothing of a model server is left"
    report = write_report(lab.folder)
    html = (lab.folder / "report" / "report.html").read_text()
    assert "## What the models write" in report.read_text() and "What the models write" in html
    assert "experiment 1, on the branch:" in report.read_text()
    assert findings(lab) == []


@pytest.mark.slow
def test_a_model_that_cannot_write_is_said_and_ends_nothing(lab):
    keep_another(lab)
    train_py = lab.attempt_folder(1) / "train.py"
    train_py.write_text("raise ValueError('not me')\n")
    write_model_text(lab)
    found = read_model_text(lab.folder)["models"]
    assert found[0]["texts"] and not found[1]["texts"] and "not me" in found[1]["cause"]
    assert "experiment 1, on the branch, could not write:\n\n    " in say_texts(lab)
    assert not is_wanted(lab), "it would fail again"


def test_beginnings_are_of_training_text(lab):
    begun = beginnings(lab.data)
    assert begun.shape == (TEXTS, BEGINNING) and set(begun[:, 0]) == {lab.data.bos_id}
    tokenizer = load_tokenizer(lab.data.train_dir / "tokenizer.json")
    assert tokenizer.bos_id not in begun[:, 1:] and all(
        model_text.as_text(tokenizer, row) for row in begun
    )


def planted(lab, text: str) -> None:
    models = [{"experiment": number, "texts": [text] * TEXTS, "cause": ""} for number in (0, 1)]
    (lab.folder / NAME).write_text(json.dumps({"beginnings": ["def "] * TEXTS, "models": models}))


def test_text_of_a_model_stays_text(lab):
    keep_another(lab)
    planted(
        lab,
        "</pre><script>alert(1)</script>\n\n# heading\n\x1b[31mred\x0b```\n<img src=x>\u2028- item",
    )
    lines = say_texts(lab).splitlines()
    assert all(
        line.startswith("    ")
        for line in lines
        if "heading" in line or "script" in line or "item" in line
    )
    write_report(lab.folder)
    html = (lab.folder / "report" / "report.html").read_text()
    assert (
        html.count("<script>") == 1
        and "<img" not in html
        and "<h1># heading" not in html
        and "\x1b" not in html
    )
    assert block(" \n\n") == "    (nothing but blanks)"


def test_what_is_of_another_branch_is_not_shown_and_check_knows_the_file(lab):
    keep_another(lab)
    planted(lab, "text")
    found = json.loads((lab.folder / NAME).read_text())
    found["models"][1]["experiment"] = 7
    (lab.folder / NAME).write_text(json.dumps(found))
    assert say_texts(lab) == "" and is_wanted(lab)

    [wrong] = findings(lab)
    assert "experiment 7, which was never kept" in wrong
    planted(lab, "x" * 2000)
    [wrong] = findings(lab)
    assert "has not 3 texts of at most" in wrong
    (lab.folder / NAME).write_text('{"models": [')
    [wrong] = findings(lab)
    assert "cannot be read" in wrong and say_texts(lab) == ""
