"""A run and its corpus: found from any working directory, refused when its text has changed."""

import dataclasses
import shutil
import subprocess
import sys

import pytest
from checkout import ROOT, make_repository
from fake_source import make_texts

import harness
from harness.__main__ import main
from harness.data.manifest import without_format
from harness.data.sources import open_source
from harness.ground.errors import DataError, ProfileError, SettingsError
from harness.lab import other_text, start
from harness.lab.loop import Lab
from harness.night import driver, progress
from harness.night.wishes import Wishes
from harness.run import profiles, settings
from harness.run.profiles import PROFILES
from harness.sandbox import device
from harness.sandbox.child import child_environment

DEVICE = {"kind": "cpu", "name": "a CPU", "dtype": "float32", "backend": "cpu", "memory_mb": 0}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run named `f` on ./corpus, begun in tmp_path and not trained."""
    repository = tmp_path / "checkout"
    repository.mkdir()
    for name in ("train_template.py", "program.md"):
        shutil.copy(ROOT / name, repository / name)
    make_repository(repository)
    monkeypatch.setattr(harness, "REPOSITORY", repository)
    for module in (device, settings, start):
        monkeypatch.setattr(module, "detect_device", lambda kind="auto": DEVICE)
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(make_texts(400)):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    profile, _ = start.find_profile("tiny", source="folder:corpus")
    start.prepare_profile(profile, str(tmp_path / "cache"), progress=lambda line: None)
    folder = tmp_path / "results" / "f"
    start.start_run(folder, "tiny", cache=str(tmp_path / "cache"), source="folder:corpus")
    return folder


def test_a_run_on_a_folder_goes_on_from_another_working_directory(run, tmp_path, monkeypatch):
    assert settings.read_settings(run).profile["source"] == f"folder:{tmp_path}/corpus"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Lab(run).data.data_id == settings.read_settings(run).data_id
    frozen = settings.read_settings(run)
    start.check_same_wishes(frozen, "tiny", "folder:../corpus", "")
    start.check_same_wishes(frozen, "tiny", "", "source=folder:../corpus")
    with pytest.raises(
        SettingsError, match="asked for folder:.*/elsewhere/corpus: choose another tag"
    ):
        start.check_same_wishes(frozen, "tiny", "folder:corpus", "")


def test_a_close_out_may_be_asked_for_another_text_and_prepares_that(run, tmp_path):
    frozen = settings.read_settings(run)
    (tmp_path / "my notes").mkdir()
    for number, text in enumerate(make_texts(300)):
        (tmp_path / "my notes" / f"{number}.txt").write_text(text[::-1], encoding="utf-8")
    asked = {"source": "folder:my notes", "overrides": "vocab_size=300 DEPTH=2"}
    with pytest.raises(SettingsError, match="choose another tag"):
        start.check_same_wishes(frozen, "tiny", *asked.values())
    start.check_same_wishes(frozen, "tiny", *asked.values(), other_text.FIELDS)
    with pytest.raises(SettingsError, match="has DEPTH 2, asked for 3"):
        start.check_same_wishes(frozen, "tiny", "", "DEPTH=3", other_text.FIELDS)
    results = str(run.parent)
    text = {"source": f"folder:{tmp_path}/my notes", "vocab_size": 300}
    assert progress.text_asked_for(Wishes("f", results=results, **asked)) == {}
    wishes = Wishes("f", results=results, close_out=True, **asked)
    assert progress.text_asked_for(wishes) == text
    parameters = driver.what_to_prepare(wishes, text)
    assert (parameters["profile"], parameters["source"]) == ("tiny", text["source"])
    profile = start.with_wishes(PROFILES["tiny"], parameters["source"], parameters["overrides"])
    data = start.prepare_profile(profile, parameters["cache"], progress=lambda line: None)
    found = other_text.find_text(frozen, *asked.values())
    assert found["data_id"] == data.data_id and text.items() <= found.items()
    changed, prepared = other_text.on_text(frozen, found)
    assert settings.hidden_folders(changed, prepared, run.parent)[-1] == f"{tmp_path}/my notes"


def test_where_linked_files_of_a_corpus_lie_is_hidden_too(run, tmp_path):
    """As the hub's own cache has them: names that lead to files elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "corpus" / "0.txt").rename(tmp_path / "blobs" / "0a1b")
    (tmp_path / "corpus" / "0.txt").symlink_to("../blobs/0a1b")
    settings.text_places.cache_clear()
    lab = Lab(run)  # the text is the same
    request = lab.executor.request(run / "train.py", run / "work", 1)
    assert {f"{tmp_path}/corpus", f"{tmp_path}/blobs"} <= set(request.hidden)
    how = settings.score_settings(lab.settings, lab.data, run.parent)
    assert how.hidden == request.hidden
    shutil.rmtree(tmp_path / "corpus")
    settings.text_places.cache_clear()
    assert settings.text_places(f"{tmp_path}/corpus::field") == (f"{tmp_path}/corpus",)


def test_a_changed_corpus_is_refused_with_both_names(run, tmp_path, capsys):
    (tmp_path / "corpus" / "more.txt").write_text("more\n")
    with pytest.raises(
        SettingsError,
        match="began with data folder-corpus-.* here is folder-corpus-.* has changed: put it back",
    ):
        Lab(run)
    assert driver.run_night(Wishes(tag="f", profile="tiny", results=str(tmp_path / "results"))) == 1
    assert "cannot go on: run f began with data folder-corpus-" in capsys.readouterr().out
    (tmp_path / "corpus" / "more.txt").unlink()
    assert Lab(run)


def test_a_run_on_splits_of_an_older_version_is_refused_in_those_words(run):
    began = settings.read_settings(run)
    old = dataclasses.replace(began, data_id=without_format(began.data_id))
    settings.check_same_text(began)
    words = (
        f"began with data {old.data_id}, here is {began.data_id}.* splits the same text otherwise"
    )
    with pytest.raises(SettingsError, match=f"{words}: check out .* again, or start a new tag"):
        settings.check_same_text(old)


def test_a_corpus_that_is_gone_is_named(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="corpus does not exist"):
        Lab(run)
    assert main(["overnight", "--tag", "f", "--results", str(tmp_path / "results")]) == 1
    assert "corpus does not exist" in capsys.readouterr().out


def test_the_command_line_takes_a_source_from_where_it_is_typed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(driver, "run_night", lambda night: asked.append(night) or 0)
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["--source", "folder:my books"],
        ["--set", "source=folder:my books", "--set", "DEPTH=3"],
        [],
    ):
        assert main(["overnight", *arguments]) == 0
    assert [night.source for night in asked] == [f"folder:{tmp_path}/my books"] * 2 + [""]
    assert [night.overrides for night in asked] == ["", "DEPTH=3", ""]
    assert main(["overnight", "--source", "moon"]) == 1


def test_every_profile_names_a_source_in_full():
    assert {name: open_source(profile.source).spec for name, profile in PROFILES.items()} == {
        name: profile.source for name, profile in PROFILES.items()
    }
    assert PROFILES["large"].source.startswith("climbmix:") and PROFILES["small"].source.startswith(
        "climbmix:"
    )
    assert {PROFILES[name].source for name in ("cpu", "demo", "tiny")} == {"python-stdlib"}


def test_an_unknown_source_is_refused_before_anything_begins():
    with pytest.raises(ProfileError, match="unknown source 'moon'.*folder:PATH"):
        profiles.override(PROFILES["cpu"], {"source": "moon"})


def test_a_login_of_the_hub_stays_out_of_reach_of_edited_code(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HSA_TOKEN"):
        monkeypatch.setenv(name, "hf_secret")
    code = "import os; print('hf_secret' in str(os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True
    )
    assert done.stdout == "False\n"
