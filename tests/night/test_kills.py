"""Nights that are killed, and the clock that makes a training the same on every machine."""

import json
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver

import nbformat
import pytest
from checkout import environment, warm_environment
from killing import kills
from small_trainings import OPEN, train

from harness.ground.errors import ProfileError
from harness.night.notebook_process import NotebookProcess, make_context
from harness.run import locks
from harness.run.profiles import PROFILES, override, parse_overrides
from harness.sandbox.processes import MARK
from harness.sandbox.wall import VARIABLE, find_wall

COUNTED = """
import time
torch.manual_seed(session.seed)
model = torch.nn.Linear(4, 4)
session.start()
step = 0
while session.progress < 1:
    time.sleep(WAIT)
    model.weight.data += (1 - session.progress) * torch.randn(4, 4)
    session.log(step, torch.tensor(1.0), tokens=8)
    step += 1
session.finish(model, depth=1)
"""


@pytest.mark.slow
def test_under_the_step_clock_a_training_is_the_same_however_slow_the_machine_is(tmp_path):
    trained = []
    for wait in (0, 0.02):
        folder = tmp_path / f"{wait}"
        source = OPEN + COUNTED.replace("WAIT", str(wait))
        result, log = train(folder, source, budget_seconds=8.0, clock_step_seconds=0.5)
        assert result["status"] == "ok" and result["num_steps"] == 16, log
        events = [
            json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()
        ]
        progress = [event["progress"] for event in events if event["event"] == "step"]
        trained.append((progress, (folder / "run" / "weights.safetensors").read_bytes()))
    assert trained[0] == trained[1] and trained[0][0][-1] == 1.0


@pytest.mark.slow
def test_a_file_that_never_logs_a_step_is_ended_by_the_real_clock(tmp_path):
    endless = (
        OPEN + "import time\nsession.start()\nwhile session.progress < 1:\n    time.sleep(0.01)"
    )
    result, _ = train(tmp_path, endless, clock_step_seconds=0.1)
    assert result["status"] == "timeout"


def test_the_step_clock_is_a_size_of_the_profile_and_the_real_clock_unless_asked_for():
    tiny = PROFILES["tiny"]
    changed = override(tiny, parse_overrides("clock_step_seconds=0.5"))
    assert tiny.clock_step_seconds == 0.0 and changed.clock_step_seconds == 0.5
    # Its noise was measured on the real clock.
    assert override(PROFILES["demo"], {"clock_step_seconds": 0.5}).prior is None
    with pytest.raises(ProfileError, match="positive"):
        override(tiny, {"clock_step_seconds": 0.0})


@pytest.mark.slow
def test_a_page_is_started_though_its_server_is_killed_while_it_is_asked(tmp_path, monkeypatch):
    notebook = tmp_path / "page.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1 + 1)")]), notebook
    )
    answer, killed = forkserver.read_signed, []

    def read(descriptor):
        if not killed:
            killed.append(forkserver._forkserver._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)  # the pipe ends: no answer ever comes
            os.waitid(os.P_PID, killed[0], os.WEXITED | os.WNOWAIT)
        return answer(descriptor)

    monkeypatch.setattr(forkserver, "read_signed", read)
    page = NotebookProcess(make_context(), notebook, tmp_path / "out" / "page.ipynb", {})
    while page.running(0.1):
        pass
    assert killed and page.failure() is None
    assert "2" in (tmp_path / "out" / "page.ipynb").read_text()


@pytest.mark.slow
def test_a_page_is_started_though_its_dead_server_still_counts_as_alive(tmp_path, monkeypatch):
    notebook = tmp_path / "page.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1 + 1)")]), notebook
    )
    context = make_context()
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGKILL)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    wait, looks = os.waitpid, []

    def look(pid, options):
        looks.append(pid)
        return (0, 0) if len(looks) <= 4 else wait(pid, options)

    with monkeypatch.context() as patch:
        patch.setattr(forkserver.os, "waitpid", look)
        page = NotebookProcess(context, notebook, tmp_path / "out" / "page.ipynb", {})
    while page.running(0.1):
        pass
    assert len(looks) > 4 and page.failure() is None


def test_a_page_that_is_killed_takes_the_run_s_processes_along_unless_somebody_else_works_on_it(
    tmp_path,
):
    notebook = tmp_path / "page.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(600)")]),
        notebook,
    )
    run = tmp_path / "run"
    run.mkdir()
    mark = {MARK: str(run / "experiments/0001/attempts/00/runs/00/work")}
    training = subprocess.Popen(["sleep", "600"], env=os.environ | mark, start_new_session=True)
    context = make_context()
    with locks.hold(run, "experiment", "a notebook by hand", "wait"):
        NotebookProcess(context, notebook, tmp_path / "out" / "page.ipynb", {}).kill(run)
    assert training.poll() is None
    NotebookProcess(context, notebook, tmp_path / "out" / "page.ipynb", {}).kill(run)
    assert training.wait(10) == -signal.SIGKILL


# A moment of the journal, who is killed, in which experiment: in the order in which the moments
# come.
SAMPLE = (
    ("opened", "driver", 0),
    ("proposed", "papermill", 1),
    ("run started, training", "trainer", 1),
    ("run started, training", "server A", 1),
    ("trained, being scored", "kernel", 1),
    ("run started, starting up", "forkserver", 2),
    ("decided", "driver", 2),
)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two whole nights, side by side; a minute and a half on two idle cores
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="who is to be killed is found in /proc"
)
def test_a_night_killed_at_every_turn_ends_with_the_journal_of_one_left_alone(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setenv(VARIABLE, "auto")
    alone = kills.SmallNight(kills.make_checkout(tmp_path / "alone"), cache)

    def environment_of(checkout, cache):
        if checkout != alone.checkout:  # in the other each process is looked for by its command
            return environment(checkout, cache)
        return warm_environment(checkout, cache) | {VARIABLE: "limits"}

    monkeypatch.setattr(kills, "environment", environment_of)
    killed = kills.SmallNight(kills.make_checkout(tmp_path / "killed"), cache)
    blows = [
        kills.Blow(kills.BY_NAME[moment], victim, experiment)
        for moment, victim, experiment in SAMPLE
    ]
    said = []
    alone.start(2)  # beside the other: under the step clock that changes nothing
    try:
        assert kills.run_through(killed, 2, blows, said.append) == [], said
        assert alone.wait() == 0 and kills.findings(alone, 2) == [], alone.last_words()
    finally:
        alone.end()
        killed.end()
    # Server A starts with the training only where a wall keeps the two apart.
    waits = find_wall().walled
    assert [blow.fell for blow in blows] == [
        blow.victim != "server A" or waits for blow in blows
    ], said
    assert kills.told(killed) == kills.told(alone)


@pytest.mark.slow
# A short night, its claim twice and an ablation: three minutes on idle cores.
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="who is to be killed is found in /proc"
)
def test_a_night_ends_with_its_claim_which_a_kill_delays_and_nothing_more(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setattr(kills, "environment", warm_environment)
    checkout = kills.make_checkout(tmp_path / "lab", short_reach=True)
    wishes = f"{kills.STEP_CLOCK} baseline_seeds=3"
    night = kills.SmallNight(checkout, cache, wishes=wishes)
    try:
        night.start(0)
        assert night.wait() == 0, night.last_words()
        for number, reach in ((1, 1.08), (2, 1.3)):
            night.plant_better(number, reach)
        night.start(2)
        assert night.wait() == 0, night.last_words()
        assert night.state().incumbent.number == 2
        said = night.log.read_text()
        assert "4 of 5, the claim: best and baseline in turn on fresh seeds, 6 trainings" in said
        assert "the claim: experiment 2 is" in said and said.rstrip().count("an improvement") == 1
        assert (night.folder / "notebooks/05_close_out.html").exists()
        training = next(
            moment for moment in kills.CLAIM_MOMENTS if moment.name == "claim, training"
        )
        for kind, victim in (("claim", "driver"), ("ablation", "kernel")):
            asked = kills.ClaimNight(checkout, cache, wishes="", kind=kind)
            cell = kills.kill_claim(asked, training, victim, 2)
            assert cell.killed and not cell.wrong, cell
            assert cell.cost == "interrupted"
        said = asked.log.read_text()
        assert "experiment 1 (reach 1.08) is part of a confirmed best, and not measured" in said
        assert "experiment 2 (reach 1.3) is" in said and "without it the best is" in said
    finally:
        night.end()
