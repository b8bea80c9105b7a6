"""gpu_check without a card: what it drives, how it survives failures, and that it runs bare.

It tells a step's work apart.
"""

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
import torch
from gpu import attention, first, loop, tables, training
from gpu.parts import run_part
from gpu.settings import ORIGINAL, ROOT, TOKENIZER, card_settings, dry_settings, template_text
from gpu.split import split_trace
from packaging.requirements import Requirement

from harness.__main__ import wishes_of
from harness.data.tokenizer import load_tokenizer
from harness.lab.start import check_wishes
from harness.options import make_parser
from harness.run.profiles import PROFILES
from harness.sandbox.wall import Wall
from harness.search.constants import constant_values

CHOSEN = ("large", "medium", "small")  # of which --profile auto takes one on a card

# A stand-in for an environment that lacks these modules: the finder of installed packages does not
# see them. torch brings filelock along, so torch alone may have it.
SITE = """
import sys
from importlib.machinery import PathFinder

class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in BLOCKED or (top == "filelock" and not for_torch()):
            return None
        return PathFinder.find_spec(name, path, target)

def for_torch():
    frame = sys._getframe(1)
    while frame := frame.f_back:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
            return True
    return False

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


def bare_environment(folder: Path) -> dict[str, str]:
    """Variables under which an interpreter finds torch, numpy, tiktoken, safetensors.

    It finds what those need, and nothing else that is installed.
    """
    found, waiting = set(), ["torch", "numpy", "tiktoken", "safetensors"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(line) for line in importlib.metadata.requires(name) or []]
            needs = [
                need.name
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
            waiting += [need for need in needs if any(importlib.metadata.distributions(name=need))]
    allowed = {name.lower().replace("-", "_") for name in found}
    blocked = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {owner.lower().replace("-", "_") for owner in owners} & allowed
        and module != "harness"
    }
    assert {"rustbpe", "psutil", "optuna", "pandas"} <= blocked and not {"torch", "numpy"} & blocked
    (folder / "sitecustomize.py").write_text(f"BLOCKED = {blocked!r}\n{SITE}", encoding="utf-8")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }


def test_the_original_is_the_original_and_the_default_is_the_profile(tmp_path):
    settings = card_settings(str(tmp_path), True)
    assert settings.shapes["default"] == PROFILES["large"].constants
    (tmp_path / "train.py").write_text(template_text(ORIGINAL), encoding="utf-8")
    with torch.device("meta"):
        model = runpy.run_path(str(tmp_path / "train.py"))["build_model"](8193, 2048)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(50.3, rel=0.01)
    assert model.flops_per_token(2048) / 1e6 == pytest.approx(239, rel=0.01)


def test_constants_that_the_template_has_no_more_are_left_out():
    values = constant_values(template_text({"DEPTH": 3, "NO_SUCH_CONSTANT": 1}))
    assert values["DEPTH"] == 3 and "NO_SUCH_CONSTANT" not in values


def test_the_carried_tokenizer_is_one_of_8192():
    tokenizer = load_tokenizer(TOKENIZER)
    text = "def f(x):\n    return x  # größer\n"
    assert (
        tokenizer.vocab_size == 8192
        and tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()
    )
    assert len(tokenizer.encode("self.assertEqual")) <= 3


FAULTY = """
import os, time
def run(task, settings):
    if task == "raises": raise ValueError("no such shape\\nmore")
    if task == "dies":
        os.write(2, b"Segmentation fault, as it were\\n")
        os._exit(139)
    if task == "hangs": time.sleep(60)
    if task == "poisons": raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return {"pid": os.getpid()}
"""


@pytest.mark.slow
def test_a_task_that_raises_dies_or_hangs_costs_its_own_row_only(tmp_path):
    (tmp_path / "faulty_part.py").write_text(FAULTY, encoding="utf-8")
    settings = dry_settings(str(tmp_path), False)
    path = f"{tmp_path}:{ROOT}:{ROOT / 'scripts'}"
    settings = type(settings)(
        **vars(settings) | {"patience": 1.0, "environment": {"PYTHONPATH": path}}
    )
    tasks = ["a", "raises", "b", "dies", "c", "hangs", "d", "poisons", "e"]
    rows = run_part("faulty_part", tasks, settings, time.monotonic() + 120, task_seconds=4)
    assert {task for task, row in rows.items() if "pid" in row} == set("abcde") and set(
        rows
    ) == set(tasks)
    assert rows["raises"]["failed"] == "ValueError: no such shape"
    assert (
        rows["dies"]["failed"]
        == "the process ended with status 139: Segmentation fault, as it were"
    )
    assert rows["hangs"]["failed"] == "stopped: it took longer than 4 s"
    pids = [rows[task]["pid"] for task in "abcde"]
    # A child goes on after an exception, not after the other three.
    assert pids[0] == pids[1] and len(set(pids)) == 4
    late = run_part("faulty_part", ["a"], settings, time.monotonic() + 1, task_seconds=4)
    assert late == {"a": {"failed": "not run: the time was over"}}
    missing = run_part("no_such_part", ["a", "b"], settings, time.monotonic() + 60, task_seconds=10)
    assert (
        all("No module named 'no_such_part'" in row["failed"] for row in missing.values())
        and len(missing) == 2
    )


def test_each_part_ends_by_its_share_and_leaves_its_rest_to_the_next(monkeypatch, tmp_path):
    deadlines = []

    def instant(module, tasks, settings, deadline, task_seconds):
        deadlines.append(deadline - began)
        return {task: {"failed": "not tried"} for task in tasks}

    monkeypatch.setattr(gpu_check, "run_part", instant)
    began = time.monotonic()
    gpu_check.run_parts(
        list(gpu_check.PARTS), dry_settings(str(tmp_path), False), 540.0, lambda *arguments: None
    )
    assert deadlines == sorted(deadlines) and deadlines[-1] == pytest.approx(
        540 - gpu_check.SPARE_SECONDS, abs=1
    )


def test_documented_parts_run_what_the_table_of_targets_says(monkeypatch, tmp_path):
    page = (ROOT / "docs" / "data-and-hardware.md").read_text()
    documented = re.findall(r"gpu_check\.py --only ([a-z,-]+)`", page)
    assert sorted(documented) == ["experiment", "start-up,evaluation", "training"]
    asked = {}

    def note(module, tasks, settings, deadline, task_seconds):
        asked.setdefault(module, []).extend(tasks)
        return {task: {"failed": "not tried"} for task in tasks}

    monkeypatch.setattr(gpu_check, "run_part", note)
    for only in documented:
        gpu_check.main(["--dry-run", "--only", only, "--output", str(tmp_path / "out.md")])
    assert "original/ladder" in asked["gpu.training"] and "whole" in asked["gpu.loop"]
    assert {"cold", "warm", *card_settings("", True).eval_tokens} == set(asked["gpu.runs"])
    for row in ("row original/ladder", "row warm", "row cold"):
        assert row in page
    # What it calls the original's rates and shape is there.
    assert "DEPTH" in ORIGINAL and "MATRIX_LR" in PROFILES["demo"].constants
    targets = [line for line in page.splitlines() if "one H200" in line]
    assert len(targets) == 4 and all("| unmeasured |" in line for line in targets)


def test_what_only_a_card_can_tell_comes_before_how_fast_it_is(monkeypatch, tmp_path):
    """And each part's result is written before the next begins."""
    written = {}

    def note(module, tasks, settings, deadline, task_seconds):
        out = tmp_path / "out.json"
        written[module] = list(json.loads(out.read_text())) if out.exists() else []
        return {task: {"failed": "not tried"} for task in tasks}

    monkeypatch.setattr(gpu_check, "run_part", note)
    gpu_check.main(["--dry-run", "--output", str(tmp_path / "out.md")])
    parts = list(gpu_check.PARTS)
    assert parts[:5] == ["machine", "first", "corpus", "large", "experiment"]
    assert written["gpu.loop"] == parts[:4] and written["gpu.attention"] == parts[:5]
    text = (tmp_path / "out.md").read_text()
    assert text.index("## First of all") < text.index("## One experiment") < text.index("## Att")


def test_the_wall_and_the_compiler_are_tried_outside_and_behind_it(monkeypatch, tmp_path):
    asked = []

    def attempt(kind, compiles, wall):
        asked.append((kind, compiles, wall and wall.kind))
        return "", "no libcuda" if wall else ""

    walls = {"kind": "bubblewrap", "words": ""}
    monkeypatch.setattr(first, "attempt", attempt)
    monkeypatch.setattr(first, "find_wall", lambda: Wall(**walls))
    settings = card_settings(str(tmp_path), True)
    assert first.run("outside", settings) == {"works": "compiled"}
    assert first.run("behind the wall", settings) == {"failed": "no libcuda"}
    assert asked == [("cuda", True, None), ("cuda", True, "bubblewrap")]
    walls |= {"kind": "limits", "why": "not installed"}
    assert "not installed" in first.run("behind the wall", settings)["failed"]


@pytest.mark.slow
def test_one_experiment_goes_through_the_whole_loop_and_is_told_of(tmp_path, monkeypatch):
    row = loop.run("whole", dry_settings(str(tmp_path), False))
    assert "failed" not in row, row
    told = [(place, event) for _, place, event, _ in row["events"]]
    assert told[0] == ("", "opened") and told[-1][1] == "committed"
    assert ("1/0", "trained") in told and ("1", "decided") in told
    seconds = [each[0] for each in row["events"]]
    assert seconds == sorted(seconds) and row["whole_seconds"] > seconds[-1] - 1
    text = tables.experiment({"whole": row})
    assert "whole loop" in text and "decision" in text and "val_bpb" in text
    # Nothing of it is in this checkout, nor goes on.
    assert not (ROOT / "results" / loop.TAG).exists()
    journal = tmp_path / "loop" / "results" / loop.TAG / "journal.jsonl"
    assert loop.entries_of(journal)[-1]["event"] in ("committed", "interrupted")


@pytest.mark.parametrize("settings", [card_settings, dry_settings])
def test_what_the_experiment_asks_for_can_be_had(tmp_path, settings):
    options = settings(str(tmp_path), False).loop_options
    asked = make_parser().parse_args(["overnight", "--tag", loop.TAG, *options])
    wishes = wishes_of(asked)
    profiles = CHOSEN if wishes.profile == "auto" else [wishes.profile]
    for profile in profiles:
        check_wishes(profile, wishes.source, wishes.overrides)
    by_hand = make_parser().parse_args(["train", "train_template.py", *options])
    assert {"source", "budget_seconds"} >= {change.partition("=")[0] for change in by_hand.set[:2]}
    assert asked.device == by_hand.device == settings(str(tmp_path), False).device


def test_memory_that_runs_out_halves_the_device_batch(monkeypatch, tmp_path):
    tried = []

    def too_large(shape, constants, choice, settings, session_class):
        tried.append(constants["DEVICE_BATCH_SIZE"])
        return (
            {"out_of_memory": "CUDA out of memory."} if tried[-1] > limit else {"tok_per_sec": 1.0}
        )

    monkeypatch.setattr(training, "train_once", too_large)
    settings, limit = card_settings(str(tmp_path), True), 32
    assert training.run("original/ladder", settings) == {"tok_per_sec": 1.0} and tried == [
        128,
        64,
        32,
    ]
    limit = 0
    assert "one row: CUDA out of memory." in training.run("original/ladder", settings)["failed"]
    assert settings.shapes["original"]["DEVICE_BATCH_SIZE"] == 128


def make_rungs() -> dict[str, dict]:
    """Rows of part `attention`: a fast rung wrong once, two right ones, one that is not there."""
    rows = {}
    for name, ms in (("chunked", 3.0), ("varlen", 2.0), ("flex", 1.0)):
        rows[f"windowed/{name}/time-256"] = {
            "window": 256,
            "forward_ms": ms / 3,
            "both_ms": ms,
            "tflops": 100.0,
        }
        rows[f"windowed/{name}/0"] = {
            "case": "Case(T=8)",
            "right": name != "flex",
            "forward": 0.01,
            "backward": 0.2,
        }
    rows["windowed/fa3/0"] = rows["windowed/fa3/time-256"] = {
        "failed": "ModuleNotFoundError: No module named 'kernels'"
    }
    rows["full/cudnn/time"] = {"failed": "RuntimeError: refused | this layout"}
    rows["full/cudnn/0"] = {"case": "Case(T=8)", "right": True, "forward": 0.001, "backward": 0.002}
    return rows


def test_only_rungs_right_in_every_case_are_ranked_by_their_time():
    assert attention.ranking(make_rungs()) == {"full": [], "windowed": ["varlen", "chunked"]}
    tasks = training.list_tasks(
        dry_settings("", False), {"full": ["cudnn", "causal"], "windowed": ["varlen", "flex"]}
    )
    assert tasks == [
        "original/ladder",
        "default/ladder",
        "original/cudnn+varlen",
        "original/cudnn+flex",
        "original/causal+varlen",
    ]


def test_tables_show_what_failed_beside_what_did_not():
    results = {
        "machine": {
            "versions": {"device": "Card | X", "seconds": 1.0},
            "compile": {"failed": "no gcc"},
        },
        "attention": make_rungs(),
        "training": {
            "original/ladder": {
                "tok_per_sec": 1.82e6,
                "step_ms": 288.0,
                "graph_breaks": 1,
                "graph_break_reasons": ["print"],
            },
            "default/ladder": {"failed": "stopped: it took longer than 110 s"},
        },
        "profile": {"default": {"failed": "no trace"}},
        "start-up": {
            "cold": {"failed": "KeyError: 'x'"},
            "warm": {"to_ready": 9.0, "to_end": 15.0},
        },
        "evaluation": {
            "5M": {"tokens": 5_000_000, "scoring_seconds": 2.0},
            "21M": {"failed": "timeout: late"},
        },
    }
    text = tables.document(results, {"full": [], "windowed": ["varlen"]}, dry=False)
    for words in (
        *("not available: ModuleNotFoundError", "wrong: Case(T=8)"),
        *("refused / this layout", "| 546 | print |", "longer than 110 s", "no trace"),
        *("KeyError: 'x'", "2,500,000", "windowed varlen.", "545M tokens"),
    ):
        assert words in text, words
    assert "dry run" not in text and tables.DRY_WORDS in tables.document({}, {}, dry=True)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def span(cat, name, ts, dur, **more):
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, **more}


def mark(ts, name):
    return span("user_annotation", f"mark:{name}", ts, 0, tid=1)


def kernel(ts, dur, name, external=None):
    return span("kernel", name, ts, dur, args={"External id": external})


def operator(ts, name, external, dims=(), dur=4, cat="cpu_op", tid=1):
    args = {"External id": external, "Input Dims": list(dims)}
    return span(cat, name, ts, dur, tid=tid, args=args)


def test_a_devices_kernels_are_told_apart():
    """A trace as CUDA machines write it: two device batches, one step.

    The vocabulary is 8193, padded to 8256.
    """
    marks = ["log", *2 * ["load", "forward", "backward", "update"], "log"]
    events = [mark(1000 * (i + 1), name) for i, name in enumerate(marks)]
    events += [
        kernel(500, 77, "before_the_first_mark"),
        kernel(1500, 77, "between_two_steps"),
        kernel(2100, 10, "Memcpy HtoD"),
        kernel(6100, 10, "elementwise_kernel"),
        operator(3000, "aten::mm", 1, [[65536, 512], [512, 2048]]),
        kernel(3100, 100, "nvjet_tst_128x256", 1),
        operator(3010, "aten::mm", 2, [[65536, 512], [512, 8256]]),
        kernel(3200, 200, "sm90_xmma_gemm_bf16", 2),
        operator(3020, "aten::_scaled_dot_product_cudnn_attention", 3),
        kernel(3400, 30, "cudnn_generated_fort_native_sdpa_sm90", 3),
        operator(3030, "triton_red_fused_3", 4, [[65536, 8256], [65536]]),
        kernel(3500, 40, "triton_red_fused_3", 4),
        kernel(3600, 50, "triton_poi_fused_mul_add_1"),
        kernel(3700, 5, "nobody_knows"),
        operator(4000, "aten::mm", 5, [[512, 65536], [65536, 8256]], tid=2),
        kernel(4100, 400, "nvjet_tst_64x8", 5),
        operator(4010, "embedding_dense_backward", 6, [[65536, 512], [8256, 512]]),
        kernel(4600, 7, "triton_poi_fused_embedding_6", 6),
        kernel(5100, 9, "vectorized_elementwise_kernel"),
        operator(9000, "aten::mm", 7, [[8, 512, 512], [8, 512, 512]]),
        kernel(9100, 60, "nvjet_tst_muon", 7),
    ]
    split = split_trace(events, {8193, 8256}, on_device=True)
    expected = {
        "linears": 100,
        "head": 600,
        "attention": 30,
        "elementwise": 66,
        "loss": 40,
        "optimizer": 60,
        "loader": 20,
        "unclassified": 5,
    }
    assert {name: round(1000 * ms) for name, ms in split.milliseconds.items()} == expected
    assert split.unclassified == ["nobody_knows"] and split.loader_host_ms == 2.0


def test_without_a_device_an_operators_own_time_counts_once():
    events = [mark(0, "forward"), mark(1000, "backward"), mark(2000, "update"), mark(2001, "log")]
    events += [
        operator(10, "aten::linear", 1, [[64, 32], [96, 32]], dur=100),
        operator(20, "aten::mm", 2, [[64, 32], [32, 96]], dur=70),
        operator(200, "aten::_scaled_dot_product_attention_math", 3, dur=100),
        operator(210, "aten::softmax", 4, dur=50),
        operator(1100, "cpp_fused_mul_3", 5, dur=25, tid=7),
    ]
    split = split_trace(events, {257}, on_device=False)
    assert {name: 1000 * ms for name, ms in split.milliseconds.items() if ms} == {
        "linears": 100,
        "attention": 100,
        "elementwise": 25,
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_dry_run_works_bare(tmp_path):
    environment = bare_environment(tmp_path)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "gpu_check.py"),
        "--dry-run",
        "--eager",
        "--output",
        str(tmp_path / "out.md"),
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(results) == list(gpu_check.PARTS)
    for part in ("corpus", "training", "profile", "start-up", "evaluation"):
        assert not [row for row in results[part].values() if "failed" in row], results[part]
    assert (results["corpus"]["corpus"]["tokenizer"], results["corpus"]["corpus"]["note"]) == (
        "carried in",
        "",
    )
    assert results["first"]["outside"]["works"] == "eager"
    assert results["large"]["default/ladder/long"]["steps"] >= training.LEAST_STEPS
    # The loop needs more than a bare machine has.
    assert "pip install --target FOLDER psutil" in results["experiment"]["whole"]["failed"]
    row = results["profile"]["default"]
    named = ("linears", "head", "attention", "elementwise", "loss", "optimizer", "loader")
    assert all(row["split_ms"][name] > 0 for name in named), row
    assert row["split_ms"]["unclassified"] < 0.25 * sum(row["split_ms"].values()), row
    assert results["training"]["original/ladder"]["steps"] >= training.LEAST_STEPS
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert (
        tables.DRY_WORDS in text
        and "| full | causal | 5 of 5 |" in text
        and "| windowed | chunked | 5 of 5 |" in text
    )
    assert "not available" in text


def test_without_what_the_runner_imports_the_experiment_says_what_to_install(tmp_path, monkeypatch):
    for name in ("psutil", "filelock"):
        monkeypatch.setitem(sys.modules, name, None)
    row = loop.run("whole", dry_settings(str(tmp_path), False))
    assert row.keys() == {"failed"} and "--target FOLDER psutil filelock" in row["failed"]
