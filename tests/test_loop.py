"""The loop's stages, with real trainings of one second; candidates are put where a proposer would have left them."""

import argparse
import dataclasses
import functools
import gc
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, git, make_repository

from harness.__main__ import add_overnight, overrides_of
from harness.data.files import write_json_atomic
from harness.lab import history, loop, plan, profiles, progress, settings, start
from harness.lab.journal import Journal
from harness.lab.loop import Lab, LoopError, open_lab
from harness.lab.parameters import ParameterError
from harness.lab.profiles import ProfileError
from harness.lab.records import records_from_journal
from harness.lab.results import read_results
from harness.lab.settings import SettingsError
from harness.search.constants import ConstantsError, constant_values, rewrite_constants
from harness.search.gate import source_hash


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, cache):
    """A run whose baseline is done, with its repository; made once, copied by each test."""
    folder = tmp_path_factory.mktemp("baseline")
    repository = folder / "checkout"
    repository.mkdir()
    for name in ("train_template.py", "program.md"):
        shutil.copy(ROOT / name, repository / name)
    make_repository(repository)
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, repository)
        start.prepare_profile(start.find_profile("tiny")[0], str(cache), progress=lambda line: None)
        with start.start_run("t", "tiny", cache=str(cache), results=str(folder / "results")) as lab:
            lab.run_baseline()
    return folder


detect_once = functools.cache(
    profiles.detect_device
)  # a second of torch's import each time, and the device stays the same


def point_at(patch: pytest.MonkeyPatch, repository) -> None:
    for module in (loop, settings, start):
        patch.setattr(module, "REPOSITORY", repository)
        patch.setattr(module, "detect_device", lambda kind="auto", try_compile=False: detect_once("auto"))


@pytest.fixture
def lab(tmp_path, baseline, monkeypatch):
    """A copy of that run."""
    shutil.copytree(baseline, tmp_path, dirs_exist_ok=True)
    point_at(monkeypatch, tmp_path / "checkout")
    with Lab(tmp_path / "results" / "t") as lab:
        yield lab


def put_candidate(lab: Lab, source: str, title: str = "an idea") -> None:
    """Leave a finished proposal that the journal does not know yet, as a kill just after a proposal would."""
    folder = lab.attempt_folder(lab.step.experiment)
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(source)
    proposal = {"title": title, "hypothesis": "it may help", "category": "tune", "proposer": "test", "bank_id": None}
    write_json_atomic(folder / "proposal.json", proposal | {"sha256": source_hash(source), "constants_changed": {}})


def incumbent_source(lab: Lab) -> str:
    return lab.train_py(lab.state.incumbent).read_text()


def run_experiment(lab: Lab) -> dict:
    """All stages; return the decided entry."""
    lab.begin()
    for stage in (lab.propose, lab.check, lab.train, lab.decide, lab.commit):
        stage()
    return lab.experiment.decided


def row(lab: Lab, number: int) -> tuple:
    found = read_results(lab.folder / "results.tsv")[number]
    return found.val_bpb, found.memory_gb, found.status


def test_the_baseline_is_one_row_one_commit_and_the_first_incumbent(lab):
    state = lab.state
    assert len(state.experiments[0].attempt.scores) == 2 and state.noise.df == 1
    assert row(lab, 0) == (pytest.approx(state.experiments[0].mean, abs=1e-6), pytest.approx(1.0, abs=0.9), "keep")
    assert git(loop.REPOSITORY, "log", "--format=%s", "autoresearch/t") == "0000: baseline\nstart"
    summary = (lab.run_folder(0, 0, 1) / "run.log").read_text().splitlines()
    assert summary[-10] == "---" and summary[-9].startswith("val_bpb:") and summary[-1].startswith("depth:")
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == 0


def test_a_better_file_is_kept_and_everything_agrees(lab):
    source = incumbent_source(lab).replace("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.02 ")
    put_candidate(lab, source)
    sure = {"sigma": 1e-4, "df": 4, "note": "a noise so small that the result must be a keep or a discard"}
    lab.journal.entries[0]["prior"] = sure
    decided = run_experiment(lab)
    kept = decided["decision"] == "keep"
    assert decided["status"] == "ok" and decided["gain"] == pytest.approx(
        lab.state.experiments[0].mean - lab.state.experiments[1].mean, abs=2e-6
    )
    assert row(lab, 1)[2] == ("keep" if kept else "discard")
    commit = lab.experiment.committed["commit"]
    assert git(loop.REPOSITORY, "show", f"{history.experiment_ref('t', 1)}:train.py") == source.rstrip("\n")
    assert (git(loop.REPOSITORY, "rev-parse", "autoresearch/t") == commit) is kept
    assert (lab.run_folder(1, 0, 0) / "weights.safetensors").exists() is kept
    assert (lab.run_folder(0, 0, 0) / "weights.safetensors").exists()  # the baseline's stay
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == int(kept)


def test_a_lower_score_is_kept_branch_best_and_weights_with_it(lab, monkeypatch):
    old = git(loop.REPOSITORY, "rev-parse", "autoresearch/t")
    measure = loop.score_model
    lab.journal.entries[0]["prior"] = {"sigma": 0.3, "df": 4, "note": "so that gains of 3 bits are beyond doubt"}
    for number in (1, 2):
        put_candidate(lab, incumbent_source(lab) + f"x = {number}\n")

        def flattered(*arguments, gain=3.0 * number, **options):
            score = measure(*arguments, **options)
            return dataclasses.replace(score, val_bpb=score.val_bpb - gain)

        monkeypatch.setattr(loop, "score_model", flattered)
        decided = run_experiment(lab)
        lab.number = None
        assert (decided["decision"], decided["kind"]) == ("keep", "gain")
    commits = [e.committed["commit"] for e in lab.state.experiments]
    assert git(loop.REPOSITORY, "rev-list", "autoresearch/t").split()[:3] == commits[::-1] and commits[0] == old
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == 2
    assert (lab.folder / "best" / "train.py").read_text() == incumbent_source(lab)
    kept = [(lab.run_folder(number, 0, 0) / "weights.safetensors").exists() for number in range(3)]
    assert kept == [True, False, True]


@pytest.mark.parametrize(
    "change, status",
    [
        (("model = build_model", "raise ValueError('a bad idea')\n    model = build_model"), "crash"),
        (("session.log(step, total,", "session.log(step, total * float('nan'),"), "nan"),
        (("model = build_model", "raise MemoryError('too large')\n    model = build_model"), "oom"),
    ],
)
def test_a_failure_is_a_row_a_commit_and_a_reason(lab, change, status):
    assert change[0] in incumbent_source(lab)
    put_candidate(lab, incumbent_source(lab).replace(*change))
    decided = run_experiment(lab)
    assert (decided["decision"], decided["status"], decided["val_bpb"]) == ("discard", status, None)
    assert row(lab, 1) == (0.0, 0.0, "crash")
    assert git(loop.REPOSITORY, "rev-parse", history.experiment_ref("t", 1)) == lab.experiment.committed["commit"]
    assert json.loads((lab.run_folder(1, 0, 0) / "result.json").read_text())["val_bpb"] is None


def test_out_of_memory_becomes_a_smaller_device_batch_and_no_lost_idea(lab):
    line = next(line for line in incumbent_source(lab).splitlines() if "session.device_batch_size(" in line)
    too_much = "    if device_batch_size > 4:\n        raise torch.OutOfMemoryError('CUDA out of memory')"
    put_candidate(lab, incumbent_source(lab).replace(line, f"{line}\n{too_much}"))
    said = []
    lab.begin()
    lab.propose()
    lab.check()
    lab.train(said.append)
    lab.decide()
    lab.commit()
    runs = lab.experiment.attempt.runs
    assert [(run.trained["device_batch_size"], run.status) for run in runs[:2]] == [(8, "oom"), (4, "ok")]
    assert [run.started["device_batch_limit"] for run in runs[:2]] == [None, 4]
    assert all(run.trained["device_batch_size"] == 4 for run in runs[1:])  # confirmations, if there were any
    decided = lab.experiment.decided
    assert decided["status"] == "ok" and decided["n_runs"] == len(runs) - 1 and row(lab, 1)[0] > 0
    assert len(read_results(lab.folder / "results.tsv")) == 2
    record = records_from_journal(lab.journal.entries)[1]
    assert record.outcome in ("discarded", "kept") and record.cause == "" and record.n_runs == len(runs) - 1
    words = [progress.words_of(entry) for entry in lab.journal.entries if entry["event"] == "run_started"]
    assert "experiment 1: once more, with at most 4 rows at a time" in words
    assert [event["status"] for event in said if event.get("event") == "over"][:2] == ["oom", "ok"]


def test_a_baseline_out_of_memory_shrinks_too_and_says_what_to_do_when_one_row_is_too_much(lab, monkeypatch):
    limits = []

    def train(request, listen):
        limits.append(request.device_batch_limit)
        (Path(request.folder)).mkdir(parents=True)
        (Path(request.folder) / "run.log").write_text("")
        rows = request.device_batch_limit or 8
        return {"status": "oom", "cause": "CUDA out of memory", "device_batch_size": rows, "memory_mb": None}

    monkeypatch.setattr(loop, "run_training", train)
    shutil.rmtree(lab.attempt_folder(0))
    del lab.journal.entries[1:]
    with pytest.raises(LoopError, match=r"CUDA out of memory; .* smaller model: .*\(--set\)"):
        lab.run_baseline()
    assert limits == [None, 4, 2, 1]


@pytest.mark.parametrize("source, reason", [("def f(:\n", "not valid Python"), (None, "tried before")])
def test_a_refused_file_is_never_trained(lab, source, reason):
    put_candidate(lab, source or incumbent_source(lab) + "# nothing but a comment\n")
    decided = run_experiment(lab)
    assert decided["status"] == "invalid_patch" and reason in decided["verdict"]
    assert row(lab, 1) == (0.0, 0.0, "crash") and not (lab.attempt_folder(1) / "runs").exists()


def test_stages_are_skipped_when_done_and_do_not_begin_the_next_experiment(lab):
    put_candidate(lab, "def f(:\n")
    run_experiment(lab)
    length = len(lab.journal.entries)
    for stage in (lab.propose, lab.check, lab.train, lab.decide, lab.commit):
        stage()
    assert len(lab.journal.entries) == length and lab.experiment.number == 1


def test_a_run_whose_harness_died_is_closed_and_repeated(lab):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()
    lab.journal.append("run_started", experiment=1, attempt=0, run=0, kind="score", seed=1)  # and then the kill
    lab.run_folder(1, 0, 0).mkdir(parents=True)
    lab.release()
    with Lab(lab.folder) as again:
        assert [e["status"] for e in again.journal.entries if e["event"] == "trained" and e["experiment"] == 1] == [
            "interrupted"
        ]
        assert run_experiment(again)["status"] == "ok"
        assert [run.status for run in again.experiment.attempt.runs][:2] == ["interrupted", "ok"]
        assert len(read_results(again.folder / "results.tsv")) == 2


class Kill(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("checked", marks=pytest.mark.slow),
        "scored",
        pytest.param("decided", marks=pytest.mark.slow),
        "committed",
    ],
)
def test_a_kill_just_before_an_entry_is_written_loses_nothing(lab, monkeypatch, before):
    """The worst moment of each stage: its work is done, and the journal does not know it yet."""
    quick = incumbent_source(lab).replace("session.start()", "raise ValueError('quick')")
    put_candidate(lab, incumbent_source(lab) + "x = 1\n" if before == "scored" else quick)
    append = Journal.append

    def killed(self, event, **fields):
        if event == before:
            raise Kill
        return append(self, event, **fields)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(Journal, "append", killed)
        run_experiment(lab)
    lab.release()
    with Lab(lab.folder) as again:
        run_experiment(again)
        events = [entry["event"] for entry in again.journal.entries]
    assert events.count("decided") == events.count("committed") == events.count("proposed") == 2
    assert events.count("run_started") == 3  # two of the baseline and one: nothing was trained twice
    assert len(read_results(lab.folder / "results.tsv")) == 2
    log = (lab.run_folder(1, 0, 0) / "run.log").read_text()
    assert log.count("val_bpb:") == (before == "scored")  # scored twice, summed up once


def test_two_holders_of_one_run_are_refused_with_the_holders_name(lab, tmp_path):
    code = f"from harness.lab.locks import hold\nfrom pathlib import Path\nwith hold(Path({str(lab.folder)!r}), 'experiment', 'x', 'Wait.'): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "BusyError" in done.stderr and f"process {os.getpid()}" in done.stderr and "Wait." in done.stderr


def test_a_cell_run_again_keeps_the_lock_and_a_release_frees_it(lab):
    name = f"Path({str(lab.folder)!r}), 'experiment'"
    code = f"from harness.lab.locks import is_held\nfrom pathlib import Path\nprint(is_held({name}))"

    def held_elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip()

    again = Lab(lab.folder).hold()
    gc.collect()
    assert held_elsewhere() == "True"
    again.release()
    assert held_elsewhere() == "False"


def test_a_results_table_edited_by_hand_is_saved_before_it_is_derived_again(lab):
    table = lab.folder / "results.tsv"
    edited = table.read_text().replace("baseline", "my baseline")
    table.write_text(edited)
    lab.write_table()
    assert (lab.folder / "results.tsv.edited").read_text() == edited and "my baseline" not in table.read_text()


def test_another_harness_data_device_or_torch_is_refused_and_both_are_named(lab, monkeypatch):
    lab.release()
    monkeypatch.setattr(settings, "harness_hash", lambda: "f" * 64)
    with pytest.raises(SettingsError, match="began under harness .* this checkout has ffffffffffff"):
        Lab(lab.folder)
    monkeypatch.undo()
    text = (lab.folder / "run.json").read_text()
    for old, new, words in (
        (lab.settings.versions["torch"], "1.0.0", "began with torch 1.0.0"),
        (lab.settings.data_hash, "0" * 64, "began on data"),
        (lab.settings.device["name"], "another CPU", "began on cpu \\(another CPU\\)"),
    ):
        (lab.folder / "run.json").write_text(text.replace(old, new))
        with pytest.raises(SettingsError, match=words):
            Lab(lab.folder)


def test_the_precision_a_run_began_with_stays_whatever_a_self_test_says_later(lab, monkeypatch):
    lab.release()
    other = "float32" if lab.settings.dtype == "bfloat16" else "bfloat16"
    monkeypatch.setattr(settings, "detect_device", lambda kind: lab.settings.device | {"dtype": other})
    assert Lab(lab.folder).settings.dtype == lab.settings.dtype != other


def test_a_profile_that_was_never_run_on_its_hardware_is_labelled_wherever_it_is_named(lab):
    for name in profiles.PROFILES:
        named = dataclasses.replace(lab.settings, profile=dataclasses.asdict(profiles.PROFILES[name]))
        words = settings.environment_words(named)
        assert words.startswith(f"profile {name}") and ("never run" in words) is (
            profiles.PROFILES[name].tested == profiles.NEVER_RUN
        )


def test_the_harness_hash_ignores_copies_that_jupyterlab_makes(tmp_path):
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    before = settings.harness_hash(tmp_path / "harness")
    copies = tmp_path / "harness" / "lab" / ".ipynb_checkpoints"
    copies.mkdir()
    (copies / "loop-checkpoint.py").write_text("x = 1\n")
    assert settings.harness_hash(tmp_path / "harness") == before == settings.harness_hash()
    (tmp_path / "harness" / "lab" / "loop.py").write_text("x = 1\n")
    assert settings.harness_hash(tmp_path / "harness") != before


def test_the_command_that_continues_a_night_says_all_that_was_asked_for():
    asked = {"tag": "t", "profile": "cpu", "experiments": 9, "results": "/r s", "overrides": "DEPTH=3", "hours": 2.0}
    words = shlex.split(plan.command_line(plan.Night(**asked)))
    assert words[:2] == ["python3", "scripts/overnight.py"]
    parser = argparse.ArgumentParser()
    add_overnight(parser.add_subparsers(dest="command"))
    options = parser.parse_args(["overnight", *words[2:]])
    found = {name: getattr(options, name) for name in ("tag", "profile", "experiments", "results", "hours")}
    assert found | {"overrides": overrides_of(options)} == asked


def test_what_is_missing_is_said_with_what_to_run(tmp_path, cache, monkeypatch):
    with pytest.raises(LoopError, match="01_prepare"):
        open_lab("", str(tmp_path))
    with pytest.raises(SettingsError, match="02_baseline"):
        open_lab("nov1", str(tmp_path))
    with pytest.raises(Exception, match="01_prepare"):
        start.start_run("nov1", "tiny", cache=str(tmp_path / "no cache"), results=str(tmp_path))
    with pytest.raises(ParameterError, match="letters, digits"):
        start.start_run("a tag/with slashes", "tiny", results=str(tmp_path))


def test_an_experiment_before_the_baseline_is_refused(tmp_path, baseline, monkeypatch):
    shutil.copytree(baseline, tmp_path, dirs_exist_ok=True)
    point_at(monkeypatch, tmp_path / "checkout")
    folder = tmp_path / "results" / "t"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    with Lab(folder) as lab, pytest.raises(LoopError, match="02_baseline"):
        lab.begin()


def test_a_tag_of_an_earlier_run_or_another_profile_is_refused(lab, cache, tmp_path):
    lab.release()
    with pytest.raises(SettingsError, match="has profile tiny, asked for demo"):
        start.start_run("t", "demo", cache=str(cache), results=str(lab.folder.parent))
    with pytest.raises(SettingsError, match="refs/heads/autoresearch/t from an earlier run"):
        start.start_run("t", "tiny", cache=str(cache), results=str(tmp_path / "elsewhere"))


def test_overrides_reach_the_run_and_are_kept_to(lab, cache, tmp_path):
    lab.release()
    profile, _ = start.find_profile("tiny", "cpu", overrides="budget_seconds=2, DEPTH=3 vocab_size=300")
    assert (profile.budget_seconds, profile.vocab_size, profile.constants["DEPTH"], profile.constants["N_HEAD"]) == (
        2.0,
        300,
        3,
        1,
    )
    with pytest.raises(SettingsError, match="vocab_size 256, asked for 300"):
        start.start_run("t", "tiny", cache=str(cache), overrides="vocab_size=300", results=str(lab.folder.parent))
    with pytest.raises(SettingsError, match="DEPTH None, asked for 3"):
        start.start_run("t", "tiny", cache=str(cache), overrides="DEPTH=3", results=str(lab.folder.parent))
    for wrong, words in (
        ("vocab=3", "Did you mean vocab_size"),
        ("vocab_size=many", "positive int"),
        ("vocab_size", "NAME=VALUE"),
    ):
        with pytest.raises(ProfileError, match=words):
            start.find_profile("tiny", "cpu", overrides=wrong)
    with pytest.raises(ConstantsError, match="DEPTH"):
        start.find_profile("tiny", "cpu", overrides="DEPHT=3")


def test_profiles_fit_the_cards_they_are_chosen_for():
    from harness.search.limits import Limits, estimate_memory_mb

    def card(memory_mb: int, backend: str = "cuda", dtype: str = "bfloat16") -> dict:
        return {"kind": "cuda", "backend": backend, "memory_mb": memory_mb, "dtype": dtype}

    chosen = {80_000: "large", 45_000: "small", 8_000: "small", 4_000: "small"}
    assert {memory: profiles.choose_profile("auto", card(memory)).name for memory in chosen} == chosen
    assert profiles.choose_profile("auto", card(190_000, "rocm")).name == "small"
    assert profiles.choose_profile("auto", card(80_000, dtype="float32")).name == "small"
    apple = {"kind": "mps", "backend": "mps", "memory_mb": 90_000, "dtype": "float32"}
    assert profiles.choose_profile("auto", apple).name == "small"
    template = (ROOT / "train_template.py").read_text()
    for name, memory in (("large", profiles.LARGE_CARD_MB), ("small", 8_000), ("cpu", 4_000)):
        profile = profiles.PROFILES[name]
        values = constant_values(rewrite_constants(template, profile.constants, clamp=False))
        limits = Limits(profile.max_seq_len, profile.vocab_size + 1)
        assert estimate_memory_mb(values, limits) < memory, name
        if name == "small":
            assert estimate_memory_mb(values, limits, 1) < 2_000  # what a smaller card comes down to, row by row


def test_the_shipped_noise_holds_only_for_what_it_was_measured_on():
    assert profiles.override(profiles.PROFILES["demo"], {"baseline_seeds": 3}).prior
    for change in ({"budget_seconds": 30}, {"DEPTH": 3}, {"vocab_size": 1024}):
        assert profiles.override(profiles.PROFILES["demo"], change).prior is None


def test_a_full_disk_is_said_before_a_run_is_begun(lab, monkeypatch):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1})())
    with pytest.raises(LoopError, match="make room"):
        lab.train()
    assert lab.journal.entries[-1]["event"] == "checked"


def test_three_infrastructure_faults_in_a_row_stop_the_loop(lab):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()
    for run in range(3):
        lab.journal.append("run_started", experiment=1, attempt=0, run=run, kind="score", seed=1)
        lab.journal.append(
            "trained", experiment=1, attempt=0, run=run, status="infrastructure", cause="the disk is on fire"
        )
    with pytest.raises(LoopError, match="disk is on fire"):
        lab.train()
