"""What a page shows of an idea: words that nobody here wrote are text, whatever they hold.

Figures are the run's.
"""

import dataclasses
import html.parser
import json
import re

import pytest
from simulated_runs import Simulated

from harness.ground.text import NO_MATHS
from harness.night import progress
from harness.night.terminal import Terminal
from harness.run import settings
from harness.run.records import Record
from harness.run.run import Run
from harness.run.settings import environment_words
from harness.run.state import Attempt, Experiment, Training
from harness.sandbox import keys
from harness.search.llm.exchanges import Usage
from harness.show import addresses, experiment_page, idea_page, index, markup, report, status
from harness.show.costs import usage_words
from harness.show.sentences import hypothesis_words

NASTY = (
    'wider <img src="http://evil/x.png"> <script>steal()</script> [here](http://evil)'
    " ![x](http://evil/y.png) $\\href{http://evil}{x}$"
    " \x1b]0;owned\x07\x1b[2J\u202egnp.exe </div></table>"
)
USAGE = {
    "requests": 2,
    "prompt_tokens": 21400,
    "completion_tokens": 1900,
    "cost_usd": 0.0345,
    "estimated": False,
}


class Elements(html.parser.HTMLParser):
    """The elements of a page, and where it leads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        self.links += [
            value for name, value in attributes if name in ("href", "src", "action", "formaction")
        ]


def proposed(**more) -> dict:
    return {
        "event": "proposed",
        "experiment": 1,
        "attempt": 0,
        "title": NASTY,
        "hypothesis": NASTY,
        "category": "architecture",
        "proposer": "llm",
        "model": NASTY,
        "operator": "architecture",
        "expected_delta": -0.01,
        "parent": 0,
        "constants_changed": {NASTY: [NASTY, NASTY]},
        "not_applicable": [NASTY],
        "usage": USAGE,
        "exchange": "exchange",
        "llm_failed": "",
        "note": NASTY,
    } | more


@pytest.fixture
def repaired(lab):
    """An experiment with a refused attempt, its repair, and a second that could not be made.

    It has saved exchanges.
    """
    for attempt in range(3):
        folder = lab.attempt_folder(1, attempt)
        (folder / "exchange").mkdir(parents=True)
        (folder / "exchange" / "01.json").write_text("{}")
        if attempt < 2:
            (folder / "exchange" / "01.txt").write_text(NASTY)  # the third was never answered
        (folder / "train.py").write_text(f"x = {attempt}  # {NASTY}\n")
    attempts = [
        Attempt(proposed(), checked={"ok": False, "reasons": [NASTY, "line 3 imports os"]}),
        Attempt(
            proposed(attempt=1, note="repaired: " + NASTY), checked={"ok": True, "reasons": []}
        ),
    ]
    attempts[1].runs.append(
        Training({"run": 0, "kind": "smoke"}, {"status": "crash", "cause": NASTY})
    )
    return Experiment(
        1, attempts, unrepaired={"why": NASTY, "usage": USAGE, "exchange": "exchange"}
    )


def test_words_of_others_are_text_everywhere_and_links_lead_only_to_saved_exchanges(lab, repaired):
    parts = [
        idea_page.idea_page(lab, repaired),
        markup.diff(f"+{NASTY}\n-{NASTY}"),
        idea_page.check_page(repaired),
        idea_page.repairs_page(lab, repaired),
    ]
    for part in parts:
        assert Elements(part).tags <= {"div", "b", "table", "tr", "th", "td", "a", "small"}
        assert "\x1b" not in part and "\u202e" not in part and "wider &lt;img src=" in part
    found = Elements("".join(parts)).links
    kinds = [
        "01/exchange/01.txt",
        "01/exchange/01.json",
        "01/exchange/01.txt",
        "01/exchange/01.json",
        "02/exchange/01.json",
    ]
    assert [link.partition("/attempts/")[2] for link in found] == kinds and not any(
        "http" in link for link in found
    )
    assert "line 3 imports os" in parts[2] and "line 3 imports os" in parts[3]
    assert (
        "2 requests, 21,400 tokens in and 1,900 out, 0.0345 USD" in parts[3]
        and "Not repaired: " in parts[3]
    )
    assert f'class="{NO_MATHS}"' in markup.as_text("")


def test_links_work_from_a_nights_page_and_from_a_notebook_by_hand(lab, monkeypatch):
    path = lab.attempt_folder(3) / "exchange" / "02.json"
    monkeypatch.setenv(addresses.NIGHT_VARIABLE, "1")
    page = idea_page.link(lab, path, "02")
    assert page == '<a href="../experiments/0003/attempts/00/exchange/02.json">02</a>'
    monkeypatch.delenv(addresses.NIGHT_VARIABLE)
    monkeypatch.chdir(lab.folder.parent)
    assert 'href="t/experiments/0003/attempts/00/exchange/02.json"' in idea_page.link(
        lab, path, "02"
    )


def test_terminal_index_report_and_commit_have_nothing_of_it_but_text(tmp_path, lab):
    entry = proposed(llm_failed="unreachable: " + NASTY)
    with (tmp_path / "shown").open("w+") as shown:
        terminal = Terminal(tmp_path / "night.log", shown)
        terminal.say(progress.line_of_entry(entry) + "\nforged line")
        terminal.status(NASTY)
        terminal.close()
        shown.seek(0)
        said = shown.read()
    for text in (said, (tmp_path / "night.log").read_text()):
        assert "\x1b" not in text and "\u202e" not in text and "forged line" in text.splitlines()[0]
    assert "it is llm's, since the language model could not: unreachable" in said
    row = index._row(Record(1, "discarded", title=NASTY, val_bpb=1.0, n_runs=1, gain=-0.01), set())
    title = row.split(" | ")[2]  # code in Markdown: nothing in it means anything
    assert title[0] == title[-1] == "`" and "`" not in title[1:-1] and row.count("|") == 11
    assert "\x1b" not in row and "\u202e" not in row
    tried = [
        Record(1, "kept", proposer="llm"),
        Record(2, "crashed", proposer="tpe"),
        Record(3, "crashed", proposer="llm"),
    ]
    text = report._whose_ideas([entry, entry | {"proposer": "tpe"}], tried, Usage(**USAGE))
    assert (
        "llm (`wider" in text
        and ": 2 ideas, 1 kept as better, 1 crashed" in text
        and "- tpe: 1 idea, 1 crashed" in text
    )
    assert "2 requests" in text and not [
        line for line in text.splitlines() if "http://evil" in line and "`" not in line
    ]


def test_whether_a_hypothesis_held_depends_on_the_noise():
    assert hypothesis_words(-0.010, 0.011, 0.001)[0] == "held"
    assert hypothesis_words(-0.010, 0.004, 0.001)[0] == "held in direction, not in size"
    assert hypothesis_words(-0.010, -0.011, 0.001)[0] == "did not hold"
    assert hypothesis_words(-0.010, 0.0, 0.001)[0] == "did not hold"
    assert hypothesis_words(-0.010, 0.009, 0.008)[0] == "cannot be told"
    # It was expected to cost, and to be worth that otherwise.
    assert hypothesis_words(+0.005, -0.0055, 0.001)[0] == "held"
    assert (
        hypothesis_words(-0.010, 0.011, None)[0] == "cannot be told"
        and hypothesis_words(-0.010, None, 0.001)[0] == "not tested"
    )
    assert (
        hypothesis_words(-0.010, 0.011, 0.001)[1]
        == "expected -0.0100 bpb, measured -0.0110 ± 0.0020 (2 standard deviations)"
    )


def test_a_cost_that_nobody_knows_is_called_unknown_and_an_estimate_an_estimate():
    assert usage_words(Usage()) == ""
    assert (
        usage_words(Usage(**USAGE))
        == "2 requests, 21,400 tokens in and 1,900 out, 0.0345 USD by the prices given"
    )
    free = usage_words(Usage(**USAGE | {"cost_usd": None, "estimated": True, "requests": 1}))
    assert (
        free
        == "1 request, about 21,400 tokens in and 1,900 out, cost unknown (no prices were given)"
    )


def test_an_exported_key_is_said_on_the_page_and_a_smoke_run_is_no_score(
    lab, repaired, monkeypatch
):
    assert keys.KEY not in idea_page.idea_page(lab, repaired)
    monkeypatch.setenv(keys.KEY, "sk-planted")
    page = idea_page.idea_page(lab, repaired)
    assert f"{keys.KEY} is in the environment of this kernel" in page and "sk-planted" not in page
    live = experiment_page.LiveTraining()
    live.done.clear()
    smoke = {
        "stage": "scoring",
        "event": "scored",
        "run": 0,
        "val_bpb": None,
        "status": "ok",
        "cause": "",
    }
    live(smoke)
    assert live.done == ["run 0: the first steps and one scored batch went well"]
    assert progress.line_of_entry({"event": "scored", "experiment": 1} | smoke) == ""


def test_the_page_and_the_status_say_what_the_model_took_so_far(lab):
    line = (
        {
            "event": "answered",
            "call": 1,
            "time": "2026-11-24T10:00:00.000Z",
            "experiment": 1,
            "attempt": 0,
        }
        | USAGE
        | {"requests": 1}
    )
    (lab.folder / "llm.jsonl").write_text(json.dumps(line) + "\n")
    assert "language model so far: 1 request, 21,400 tokens in" in experiment_page.state_page(lab)
    found = status.look_at(Run(lab.folder))
    assert (found["llm_requests"], found["llm_prompt_tokens"], found["llm_cost_usd"]) == (
        1,
        21400,
        0.0345,
    )
    assert (
        "model      1 request, 21,400 tokens in and 1,900 out, 0.0345 USD"
        in status.status_screen(Run(lab.folder))
    )


def clocked(**more) -> dict:
    """What the runner says of a training on a CPU's clock."""
    found = {
        "startup_seconds": 1.9,
        "overshoot_seconds": 0.05,
        "weights_seconds": 0.31,
        "training_seconds": 20.05,
    }
    return (
        found
        | {
            "wall_seconds": 40.0,
            "core_seconds": 38.0,
            "others_core_seconds": 30.0,
            "num_steps": 214,
        }
        | more
    )


def test_pace_stands_beside_the_baselines_and_runs_say_what_the_clock_leaves_out(tmp_path):
    run = Simulated(tmp_path / "results" / "t").until("propose", 2)
    for entry in run.journal.entries:
        if entry["event"] == "trained":
            entry.update(clocked(num_steps=100 if entry["experiment"] else 214))
    page = experiment_page.score_page(run, run.state.experiments[1])
    text = re.sub(r"<[^>]+>", "|", page)
    assert "|this experiment||100||999||0.8|" in text and "|baseline||214||1,000||0.8|" in text
    assert (
        "attempt 0, run 0: 1.9 s start-up, 0.1 s beyond the budget,"
        " 0.3 s from the stop until the weights were there" in text
    )
    assert "|20.1 s||40.0 s|" in text
    assert "this experiment" not in experiment_page.score_page(run, run.state.experiments[0])


def test_a_gain_is_over_the_incumbents_runs_that_count_and_few_trainings_count_no_sigmas(tmp_path):
    run = Simulated(tmp_path / "results" / "t").until("propose", 2)
    experiment = run.state.experiments[1]
    decided = experiment.decided
    words = experiment_page.gain_words(run, experiment)
    assert f"gain {decided['gain']:+.6f} bpb" in words and "sigma of that difference" in words
    assert f"of experiment 0 in {decided['incumbent_runs']} runs that count" in words
    experiment.decided = decided | {"df": 2}
    assert "too few trainings for saying how many sigma that is" in experiment_page.gain_words(
        run, experiment
    )
    experiment.decided = None
    assert "sigma" in experiment_page.gain_words(run, experiment)
    old = {key: value for key, value in decided.items() if key != "incumbent_runs"}
    experiment.decided = old
    assert experiment_page.gain_words(run, experiment).endswith(f"gain {decided['gain']:+.6f} bpb")


def test_the_page_says_what_a_second_of_the_budget_is(lab):
    assert "step clock of tests" in environment_words(lab.settings)
    real = dataclasses.replace(
        lab.settings, profile=lab.settings.profile | {"clock_step_seconds": 0.0}, core_rate=0.92
    )
    assert environment_words(real).endswith(
        "a second of the budget is a second of a quiet machine's work (CPU time); what work beside "
        "other programs is worth was not measured"
    )
    measured = dataclasses.replace(real, worth_beside=0.93)
    assert environment_words(measured).endswith(
        "work beside other programs counts 0.93 times, as measured here"
    )
    card = dataclasses.replace(real, core_rate=0.0, device=real.device | {"kind": "cuda"})
    assert environment_words(card).endswith("the budget is wall time")


def test_where_cpu_time_cannot_be_counted_the_page_says_why(lab, monkeypatch):
    monkeypatch.setattr(settings, "why_wall_time", lambda: "/proc/stat cannot be read")
    plain = dataclasses.replace(
        lab.settings, profile=lab.settings.profile | {"clock_step_seconds": 0.0}, core_rate=0.0
    )
    assert environment_words(plain).endswith(
        "since CPU time cannot be counted here: /proc/stat cannot be read"
    )


def test_a_run_of_the_incumbent_beside_an_idea_is_on_the_ideas_page(tmp_path):
    run = Simulated(tmp_path / "results" / "t").until("propose", 2)
    number = len(run.state.experiments[0].attempt.runs)
    at = {"experiment": 0, "attempt": 0, "run": number}
    run.journal.append(
        "run_started", **at, kind="refresh", seed=77, device_batch_limit=None, beside=1
    )
    run.journal.append("trained", **at, status="ok", cause="", **clocked())
    run.journal.append("scored", **at, status="ok", cause="", val_bpb=1.234567)
    cells = re.sub(r"(<[^>]+>)+", "|", experiment_page.score_page(run, run.state.experiments[1]))
    assert f"|experiment 0|{number}|refresh|77|1.234567|" in cells
    assert "1.234567" not in experiment_page.score_page(run, run.state.experiments[0])


def test_another_model_that_answered_is_named_to_the_person():
    tried = [Record(1, "kept", proposer="llm")]
    for answered, told in (("tiny-1b", True), ("big-20b", False), ("", False)):
        entry = proposed(model="big-20b", answered_by=answered, proposer="llm")
        said = (progress.line_of_entry(entry), report._whose_ideas([entry], tried, Usage(**USAGE)))
        assert all(("big-20b, answered by tiny-1b" in words) is told for words in said), said
