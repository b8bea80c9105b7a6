"""bench.py: its parts run with tiny sizes, and the figures in a table agree with each other.

They agree with what is known beforehand, too.
"""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench import PARTS, measure, parse
from benches.compiled import compiled_section
from benches.loop import GAPS, gap_seconds, loop_section, synthetic_entries
from benches.machine import list_products, measure_rates
from benches.markdown import table
from benches.setup import BenchError, make_bench
from benches.stamps import Stamps
from benches.template import alone_ms, flops_table, pace_line, scores_table
from checkout import ROOT
from journals import make_journal, write_run

from harness.rules.next_step import next_step
from harness.run.state import fold

TOY = """
import torch
class Toy(torch.nn.Module):
    def __init__(self, n_vocab):
        super().__init__()
        self.table = torch.nn.Embedding(n_vocab, 24)
        self.inner, self.head = torch.nn.Linear(24, 40), torch.nn.Linear(40, n_vocab, bias=False)
    def forward(self, idx):
        return self.head(torch.relu(self.inner(self.table(idx))))
def build_model(n_vocab, max_seq_len):
    return Toy(n_vocab)
"""


@pytest.fixture(scope="module")
def tiny_bench(tiny_data, tmp_path_factory):
    """On made-up data, with tiny sizes."""
    return make_bench("tiny", tiny_data.folder, tmp_path_factory.mktemp("bench"), print, quick=True)


@pytest.fixture
def bench(tiny_bench, tmp_path):
    """The same with a folder of its own. Threads are left as they were."""
    threads = torch.get_num_threads()
    yield dataclasses.replace(tiny_bench, work=tmp_path)
    torch.set_num_threads(threads)


@pytest.fixture
def toy(bench):
    """The same, with a model that can be reckoned by hand in place of the template."""
    path = bench.work / "train.py"
    constants = (
        "# === constants ===\n"
        "TOTAL_BATCH_SIZE = 512  # tokens, fixed: x\n"
        "DEVICE_BATCH_SIZE = 4  # rows, fixed: x\n"
        "# === end of constants ===\n"
    )
    path.write_text(constants + TOY)
    bench.__dict__["train_py"] = path
    return bench


def test_what_the_pace_did_is_told_from_what_the_seeds_did():
    steps = [100, 120, 150, 200, 260]
    noise = [0.01, -0.02, 0.01, 0.01, -0.01]
    text = pace_line(
        steps,
        [3.0 - 0.5 * math.log(count) + more for count, more in zip(steps, noise, strict=True)],
    )
    slope, left = re.search(
        r"changes by (\S+) for .* deviation of (\S+) \(3 degrees", text
    ).groups()
    assert float(slope) == pytest.approx(-0.5, abs=0.03) and 0.01 < float(left) < 0.02
    assert pace_line(steps[:3], noise[:3]) == "" == pace_line([100] * 5, noise)


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of all tables in a Markdown text."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].replace("*", ""): [cell.strip(" |*") for cell in cells[1:]] for cells in lines}


def figure(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.mark.slow
def test_loader_startup_and_scoring_agree_with_themselves_and_a_part_that_fails_takes_none_with_it(
    tiny_data, tmp_path
):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "journal.jsonl").write_text(
        '{"seq": 0, "time": "2026-11-23T00:00:00.000Z", "event": "opened"}\n'
    )
    shown, threads = [], torch.get_num_threads()
    arguments = [
        "loop",
        "loader",
        "startup",
        "scoring",
        "--quick",
        "--data",
        str(tiny_data.folder),
        "--runs",
        str(empty),
    ]
    failed = measure(parse(arguments), tmp_path, shown.append)
    torch.set_num_threads(threads)
    sections = {section.splitlines()[0].removeprefix("## "): section for section in shown}
    assert list(sections) == ["Machine", "loop", "Loader", "Start-up", "Scoring"]
    assert failed == 1 and "no finished experiment" in sections.pop("loop")
    assert tiny_data.data_id in sections["Machine"]
    assert all(
        re.search(r"GFLOP/s, copy .* and .* GB/s\.", text)
        for name, text in sections.items()
        if name != "Machine"
    )

    loader = rows_of(sections["Loader"])
    loaded, consumed = (
        figure(loader[name][0])
        for name in ("loader alone, tokens/s", "training consumes, tokens/s")
    )
    ratio = next(figure(cells[0]) for name, cells in loader.items() if name.startswith("ratio"))
    assert ratio == pytest.approx(loaded / consumed, rel=0.01, abs=0.5)
    assert figure(loader["share of training spent on loading, %"][0]) == pytest.approx(
        100 * consumed / loaded, rel=0.01
    )

    start = rows_of(sections["Start-up"])
    parts = list(start)[1 : list(start).index("launch to `ready`")]
    assert parts[:2] == ["interpreter", "import of torch"] and {
        "attention self-test",
        "model",
        "optimizer",
        "warm-up",
    } < set(parts)
    for column in (0, 1, 2):  # one start, so that the parts add up to the whole
        whole = figure(start["launch to `ready`"][column])
        assert sum(figure(start[part][column]) for part in parts) == pytest.approx(whole, rel=0.01)

    scoring = rows_of(sections["Scoring"])
    parts = ["start of the model server", "evaluation", "the scorer's sums and the end"]
    assert sum(figure(scoring[part][0]) for part in parts) == pytest.approx(
        figure(scoring["whole"][0]), rel=0.01
    )
    tokens = figure(re.search(r"([\d,]+) tokens\.", sections["Scoring"])[1])
    assert tokens == 4096
    for name in ("evaluation", "evaluation without server and pipe"):
        assert figure(scoring[name][0]) * figure(scoring[name][1]) == pytest.approx(
            tokens, rel=0.01
        )


def test_seconds_between_trainings_are_those_of_the_journal():
    entries = [{"event": "opened", "time": "2026-11-23T00:00:00.000Z"}]
    seconds = {
        "proposed": 4.0,
        "checked": 0.5,
        "run_started": 0.25,
        "trained": 300.0,
        "scored": 9.0,
        "decided": 0.125,
        "committed": 1.0,
    }
    at = 0.0
    for experiment in (0, 1, 2):
        for event, gap in seconds.items():
            at += gap * (experiment + 1)
            time = f"2026-11-23T{int(at // 3600):02}:{int(at // 60 % 60):02}:{at % 60:06.3f}Z"
            entries.append({"event": event, "experiment": experiment, "time": time})
    gaps, count = gap_seconds(entries)
    # Experiments 1 and 2: twice and thrice.
    assert count == 2 and gaps == pytest.approx({name: 5 * seconds[name] for name in GAPS})


def test_the_loop_part_reads_a_real_journal_and_times_a_synthetic_one(bench, tmp_path):
    bench = dataclasses.replace(bench, runs=[write_run(tmp_path / "results", make_journal(5))])
    rows = rows_of(loop_section(bench, None))
    assert figure(rows["journal, KB"][0]) > 1 and figure(rows["proposal, the whole process"][0]) > 1
    journal = list(synthetic_entries(12))
    # A journal like any other.
    assert len(fold(journal).experiments) == 13 and next_step(journal).kind == "propose"


def test_the_products_of_a_step_are_those_reckoned_by_hand(toy):
    tokens, n_vocab = 4 * 64, 257
    assert toy.device_batch_rows == 4
    products = list_products(toy, torch.float32)
    inner, head = 24 * 40, 40 * n_vocab
    # One forward, two backward.
    assert sum(count * product.flops for product, count in products.items()) == 6 * tokens * (
        inner + head
    )
    assert sorted(products.values()) == [1] * 6
    # Bfloat16 where the processor multiplies it itself.
    rates, dtype = measure_rates(toy), toy.settings.dtype
    assert rates.flops_per_token == 6 * (inner + head)
    slowest, fastest = min(rates.alone[dtype].values()), max(rates.alone[dtype].values())
    assert slowest <= rates.model[dtype] <= fastest
    alone = alone_ms(toy, rates)  # a batch is two passes
    assert sum(alone.values()) == pytest.approx(
        2000 * tokens * rates.flops_per_token / rates.model[dtype]
    )
    assert alone["head"] == pytest.approx(
        2000
        * sum(
            p.flops / rate for p, rate in rates.alone[dtype].items() if n_vocab in p.a[0] + p.b[0]
        )
    )


def test_the_tables_of_seeds_state_mean_spread_and_share_of_the_machine(toy):
    rates = measure_rates(toy)
    times = {
        "startup_seconds": 2.0,
        "training_seconds": 60.0,
        "score_seconds": 5.0,
        "whole_seconds": 70.0,
        "memory_mb": 400.0,
    }
    pace = type("Pace", (), {"flops": 1e11})()
    runs = [
        {
            "seed": seed,
            "val_bpb": score,
            "tok_per_sec": speed,
            "num_steps": 10,
            "epochs": 1,
            "pace": pace,
        }
        | times
        for seed, score, speed in ((1, 1.25, 1000.0), (2, 1.27, 2000.0), (3, 1.29, 3000.0))
    ]
    rows = rows_of(scores_table(toy, runs))
    assert (
        rows["mean"][0] == "1.2700"
        and rows["standard deviation"][0] == "0.0200"
        and figure(rows["mean"][1]) == 2000
    )
    achieved = rows_of(flops_table(toy, rates, runs))
    flops = 2000 * rates.flops_per_token  # the toy has no count of its own
    assert figure(achieved["achieved, GFLOP/s, by the template's own count"][0]) == pytest.approx(
        flops / 1e9, rel=0.01
    )
    share = next(
        figure(cells[0]) for name, cells in achieved.items() if "the model's own shapes" in name
    )
    assert share == pytest.approx(100 * flops / rates.model[toy.settings.dtype], rel=0.01)


def test_a_stamp_stands_behind_what_is_there_and_time_is_counted_once():
    stamps = Stamps(0.0)
    owner = type("Module", (), {"build": staticmethod(lambda x: x + 1)})
    stamps.behind(owner, "build", "model")
    stamps.behind(owner, "gone", "never")
    stamps("first")
    assert owner.build(1) == 2 and not hasattr(owner, "gone")
    assert [part for part, _, _ in stamps.parts] == ["first", "model"]
    assert sum(seconds for _, seconds, _ in stamps.parts) == pytest.approx(stamps.last[0])


def test_a_training_that_crashes_is_an_error_with_its_cause(toy):
    with pytest.raises(BenchError, match="crash"):
        toy.train("broken", 1, 0.2)


def test_unknown_parts_are_named_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        parse(["loader", "leader"])
    assert "no part called leader: there are prepare, loader" in capsys.readouterr().err
    assert (parse([]).seeds, parse([]).seconds, parse([]).profile) == (3, 60.0, "cpu")


def test_a_table_keeps_its_cells_apart():
    assert table(["a", "b"], [[12345.6, "x|y"], [None, 12345]]).splitlines()[2:] == [
        "| 12,346 | x/y |",
        "|  | 12,345 |",
    ]


def test_compiled_and_eager_trainings_take_turns_and_share_seeds():
    asked = []

    def train(name, seed, seconds, **how):
        asked.append((name, seed, how["compile"], how["compile_cache"]))
        compiled, warm = how["compile"], len(asked) > 2
        return {
            "num_steps": 120 if compiled else 100,
            "startup_seconds": (12.0 if warm else 60.0) if compiled else 3.0,
            "wall_seconds": seconds,
            "memory_mb": 500.0,
        }

    bench = SimpleNamespace(
        **{"work": Path("work"), "seeds": 2, "seconds": 60.0, "train": train},
        profile=SimpleNamespace(name="cpu"),
        score=lambda name: SimpleNamespace(val_bpb=1.2 if name.startswith("eager") else 1.17),
    )
    text = compiled_section(bench, None)
    code = str(Path("work/compiled_code"))
    assert asked == [
        *(("eager1", 1, False, None), ("compiled1", 1, True, code)),
        *(("eager2", 2, False, None), ("compiled2", 2, True, code)),
    ]
    assert text.count("\n| compiled | ") == text.count("\n| eager | ") == 2
    assert "does 1.20 times the steps for the same charge (1.20 to 1.20)" in text
    assert "gains +0.0300 bpb" in text and "60 s cold and 12 s warm, eager in 3 s" in text


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_command_measures_a_preparation_and_the_template(tiny_data, tmp_path):
    # The others are measured above; a night for `loop` takes minutes.
    parts = ["prepare", "template"]
    target = tmp_path / "cpu.md"
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench.py"),
        *parts,
        "--quick",
        "--data",
        str(tiny_data.folder),
        "--write",
        str(target),
    ]
    done = subprocess.run(
        [*command, "--seeds", "2"], capture_output=True, text=True, cwd=tmp_path, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.strip() == target.read_text().strip() and "mean nothing" in done.stdout
    titles = re.findall(r"^## (.*)", done.stdout, re.MULTILINE)
    assert titles == ["Machine", "Prepare", "Template"] and set(parts) < set(PARTS)
    rows = rows_of(done.stdout[done.stdout.index("## Template") :])
    scores = [figure(rows[seed][0]) for seed in ("1", "2")]
    assert all(0.5 < score < 8.5 for score in scores) and figure(rows["mean"][0]) == pytest.approx(
        sum(scores) / 2, abs=1e-4
    )
    for seed in ("1", "2"):  # start-up, training and scoring are within the whole
        startup, training, scoring, whole = map(figure, rows[seed][4:8])
        assert training >= 1 and startup + training + scoring <= whole * 1.001
    split = rows_of(done.stdout[done.stdout.index("### Where a step's time goes") :])
    assert {"linears", "attention", "loss", "optimizer", "Python and dispatch"} < set(split)
    classes = [
        name for name in split if name not in ("class", "step, profiled", "a step without profiler")
    ]
    for column in (0, 1):
        figures = [figure(split[name][column]) for name in classes]
        assert min(figures) >= 0 and sum(figures) == pytest.approx(
            figure(split["step, profiled"][column]), rel=0.01
        )
