"""Kill a night in every way and look at what is left.

    python scripts/kill_matrix.py              the matrix, about half an hour on two cores
    AUTORESEARCH_WALL=limits python scripts/kill_matrix.py
                                               the same where no wall can be had: its own part
    python scripts/kill_matrix.py --repeats 3  each cell three times
    python scripts/kill_matrix.py --only "trained, being scored:kernel"
                                               one cell; may be given again
    python scripts/kill_matrix.py --random 20  a night killed 20 times at random and one left
                                               alone: are their journals the same?
    python scripts/kill_matrix.py --random 20 --researcher
                                               the same with ideas of a scripted language model:
                                               smoke runs, repairs, requests cut off
    python scripts/kill_matrix.py --others     a closed terminal, stopped processes, signals
    python scripts/kill_matrix.py --claim      the claim, killed at each of its states
    python scripts/kill_matrix.py --demo       a real demo killed five times at random
    ... --write results/benchmarks/kills.md    replaces what the file has of the same part

In: this checkout, copied; data as `overnight.py` prepares it. Out: Markdown, and exit status 1 if
anything did not agree. The matrix has a row for each state of the journal and a column for each
victim. Linux only. A night dies only where the journal is in a stated state, so that a cell says
the same on a slow machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

from benches.markdown import table
from fake_openai import FakeOpenAI
from killing.fatal import OTHERS, meet
from killing.kills import (
    BY_NAME,
    CLAIM_MOMENTS,
    CONTROL,
    KEEPS_ONLY,
    MOMENTS,
    NIGHT_SECONDS,
    RUNS_THROUGHOUT,
    STEP_CLOCK,
    VICTIMS,
    Blow,
    Cell,
    ClaimNight,
    Moment,
    SmallNight,
    findings,
    in_order,
    kill_claim,
    kill_in_passing,
    kill_once,
    make_checkout,
    run_through,
    told,
)
from scripted_researcher import Steady

from harness.rules.fault import ALIKE
from harness.run.state import State
from harness.sandbox.wall import find_wall

PARTS = {
    "matrix": "## States x victims",
    "limits": "## States x victims, without a wall",
    "random": "## Killed at random",
    "researcher": "## Killed at random, with a language model",
    "others": "## Other ways to die",
    "claim": "## The claim",
    "demo": "## A real demo",
}
# These moments are met with an idea that is audited closely, since it may be kept.
BETTER_IDEAS = ("scored", "audited", "decided", "committed")
REACH_STEP = 1.08  # how much further the logits of each such idea reach than those of the last


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


# --- The matrix


Cells = Sequence[tuple[Moment, str]]


def all_cells() -> Cells:
    return [
        (moment, victim) for moment in MOMENTS for victim in VICTIMS if victim in moment.victims
    ]


def run_matrix(
    wanted: Sequence[tuple[Moment, str]], repeats: int, work: Path, cache: Path, kept: Path
) -> list[Cell]:
    """Kill once for each cell.

    `opened` and confirmations have runs of their own, controls one long run of ideas that fail, all
    others another.

    kept: a file with a line for each cell; what it has already is not done again.
    """
    results = (
        [Cell(**json.loads(line)) for line in kept.read_text().splitlines()]
        if kept.exists()
        else []
    )
    done = Counter((cell.moment, cell.victim) for cell in results)
    checkout = make_checkout(
        Path(tempfile.mkdtemp(prefix="matrix-", dir=work)) / "lab", short_reach=True
    )

    def note(cell: Cell) -> None:
        results.append(cell)
        with kept.open("a") as file:
            file.write(json.dumps(asdict(cell)) + "\n")
        what = "killed" if cell.killed else "not there"
        say(
            f"{cell.moment} x {cell.victim}: {what}, {cell.seconds} s;"
            f" {cell.cost or 'nothing lost'}; {'; '.join(cell.wrong) or 'all agrees'}"
        )

    cells = [
        (moment, victim)
        for moment, victim in wanted
        for _ in range(repeats - done[moment.name, victim])
    ]
    for number, (moment, victim) in enumerate(cell for cell in cells if cell[0].event == "opened"):
        night = SmallNight(checkout, cache, f"opened{number}")
        note(kill_once(night, moment, victim, 0, 1))
    for number, (moment, victim) in enumerate(cell for cell in cells if cell[0].run == "confirm"):
        # One: the noise is unknown, and a gain is confirmed.
        night = SmallNight(
            checkout, cache, f"confirm{number}", wishes=f"{STEP_CLOCK} baseline_seeds=1"
        )
        run_to_end(night, 0)
        night.plant_better(1, REACH_STEP)
        note(kill_once(night, moment, victim, 1, 1))
    at_controls = [cell for cell in cells if is_at_control(cell[0])]
    others = [
        cell
        for cell in cells
        if not (cell[0].event == "opened" or cell[0].run == "confirm" or is_at_control(cell[0]))
    ]
    night = SmallNight(checkout, cache, wishes=f"{STEP_CLOCK} baseline_seeds=3")
    for cell in chain(
        kill_at_controls(at_controls, SmallNight(checkout, cache, "unwell")),
        kill_in_experiments(others, night),
    ):
        note(cell)
    return results


def is_at_control(moment: Moment) -> bool:
    return moment.run == CONTROL or moment.event == "controlled"


def kill_in_experiments(cells: Cells, night: SmallNight) -> Iterator[Cell]:
    """One night in which each cell has an experiment, a better one where its moment asks for it."""
    if not cells:
        return
    run_to_end(night, 1)

    def plant(number: int) -> None:
        """A better idea for the cell of that number, if it is to be met with one."""
        if number < len(cells) and cells[number][0].event in BETTER_IDEAS:
            better = sum(moment.event in BETTER_IDEAS for moment, _ in cells[: number + 1])
            night.plant_better(number + 2, round(REACH_STEP**better, 3))

    plant(0)
    plant(1)
    numbers = [number + 2 for number in range(len(cells))]
    yield from kill_each(cells, numbers, night, lambda number: plant(number + 2))


def kill_at_controls(cells: Cells, night: SmallNight) -> Iterator[Cell]:
    """One night in which an idea for each cell is followed by ALIKE that fail alike.

    After them the best file is tried again.
    """
    if not cells:
        return
    run_to_end(night, 0)
    each = ALIKE + 1

    def plant(number: int) -> None:
        """The failures of the cell of that number, after the idea that it begins with."""
        if number < len(cells):
            for failure in range(ALIKE):
                night.plant_failure(each * number + 2 + failure)

    plant(0)
    numbers = [each * (number + 1) for number in range(len(cells))]
    yield from kill_each(cells, numbers, night, lambda number: plant(number + 1))


def kill_each(
    cells: Cells, numbers: Sequence[int], night: SmallNight, prepare: Callable[[int], None]
) -> Iterator[Cell]:
    """Kill once for each cell in one night, each in the experiment of its number.

    prepare: called with a cell's place among the cells when the run was looked at after its kill.
    """
    # One more than is killed, so that each is looked at in the same way.
    experiments = numbers[-1] + 1
    night.start(experiments)
    for place, (moment, victim) in enumerate(cells):
        then = partial(prepare, place)
        yield kill_in_passing(night, moment, victim, numbers[place], experiments, then)
    end(night, experiments)


def end(night: SmallNight, experiments: int) -> None:
    """Wait for a long night's end and look at the whole of it."""
    status, wrong = night.wait(), findings(night, experiments)
    if status != 0 or wrong:
        raise SystemExit(
            f"the long night ended with {status}: {night.last_words()};"
            f" {'; '.join(wrong)}; see {night.log}"
        )


def run_to_end(night: SmallNight, experiments: int) -> None:
    """A night that nobody kills."""
    night.start(experiments)
    if night.wait(NIGHT_SECONDS * max(1, experiments)) != 0:
        raise SystemExit(f"the night without kills failed: {night.last_words()}; see {night.log}")


MATRIX_WORDS = """\
Each cell: after how many of the kills everything agreed, once the same command had been given again
or the night had gone on by itself: every experiment once, `results.tsv`, git's refs, `best/` and
pages as the journal says (`overnight.py --check`), no process left. `-`: this victim is not there
then. The kernel holds the loop and the scorer: killed while a run is being scored, it is the
scorer. 0/0: nobody to kill; without a wall server A starts with the scoring.
"""
COST_WORDS = """\
What each kill cost, as the journal names it: `interrupted`, that run was repeated; nothing where
the cell is empty.
"""


def matrix_section(cells: Sequence[Cell]) -> str:
    """Two tables: how often all agreed afterwards, and what was lost."""

    def agreed(group: Sequence[Cell]) -> str:
        killed = [cell for cell in group if cell.killed]
        return f"{sum(not cell.wrong for cell in killed)}/{len(killed)}"

    def costs(group: Sequence[Cell]) -> str:
        return ", ".join(sorted({cell.cost for cell in group if cell.killed and cell.cost}))

    lines = [MATRIX_WORDS, grid(cells, agreed), "", COST_WORDS, grid(cells, costs)]
    wrong = [
        f"- {cell.moment} x {cell.victim}: {sentence}" for cell in cells for sentence in cell.wrong
    ]
    seconds = sum(cell.seconds for cell in cells)
    lines += ["", f"{sum(cell.killed for cell in cells)} kills in {seconds / 60:.0f} minutes."]
    return "\n".join([*lines, *(["", "Not as it should be:", *wrong] if wrong else [])])


def grid(cells: Sequence[Cell], words) -> str:
    """A table of moments x victims."""
    rows = []
    for moment in MOMENTS:
        groups = [
            [cell for cell in cells if (cell.moment, cell.victim) == (moment.name, victim)]
            for victim in VICTIMS
        ]
        rows.append(
            (
                moment.name,
                *(
                    "-" if victim not in moment.victims else words(group)
                    for victim, group in zip(VICTIMS, groups, strict=True)
                ),
            )
        )
    return table(["the journal's last line", *VICTIMS], rows)


# --- At random


def draw_blows(kills: int, experiments: int, seed: int, victims: Sequence[str]) -> list[Blow]:
    """Kills spread over the night's experiments, in the order in which their moments come.

    What comes only before a keep is left out.
    """
    rng = random.Random(seed)
    possible = [
        (m, v)
        for m, v in all_cells()
        if v in victims and not m.rare and m.event != "opened" and (m.name, v) not in KEEPS_ONLY
    ]
    blows = [Blow(*rng.choice(possible), 1 + number % experiments) for number in range(kills)]
    return sorted(blows, key=in_order)


def run_random(
    kills: int, experiments: int, seed: int, work: Path, cache: Path, url: str = ""
) -> tuple[str, bool]:
    """Compare a night left alone with one killed at random.

    Returns the section and whether their journals say the same. url: of the language model, if
    there is one.
    """
    options = (
        "--profile",
        "tiny",
        *(["--proposer", "llm", "--llm", f"base_url={url}"] if url else []),
    )
    alone = SmallNight(make_checkout(work / "alone"), cache, options=options)
    run_to_end(alone, experiments)
    killed = SmallNight(make_checkout(work / "killed"), cache, options=options)
    blows = draw_blows(kills, experiments, seed, VICTIMS)
    wrong = run_through(killed, experiments, blows, say, insist=True)
    expected, found = told(alone), told(killed)
    state = killed.state()
    differ = [
        f"experiment {n}: {a} alone, {b} killed"
        for n, (a, b) in enumerate(zip(expected, found, strict=False))
        if a != b
    ]
    wrong += differ + [f"{len(expected)} experiments alone, {len(found)} killed"] * (
        len(expected) != len(found)
    )
    runs = [run for e in state.experiments for attempt in e.attempts for run in attempt.runs]
    interrupted = sum(run.status == "interrupted" for run in runs)
    fell = [blow for blow in blows if blow.fell]
    words = [
        (
            f"Profile tiny, a step clock of 40 steps a training, {experiments} experiments, seed"
            f" {seed}. Of {len(blows)} kills drawn {len(fell)} fell (the others'"
        ),
        (
            f"moment had passed, or their victim was not there), {killed.starts - 1} new starts of"
            f" the driver, {interrupted} runs interrupted and repeated."
        ),
        (
            f"The journals {'differ' if differ else 'say the same'}: title, sha256, parent, scores,"
            " val_bpb, gain, decision, status and number of"
        ),
        "runs of each experiment.",
        *([asked_words(state, sum(run.started["kind"] == "smoke" for run in runs))] if url else []),
        "",
        table(
            ["experiment", "the journal's last line", "killed"],
            [(b.experiment, b.moment.name, b.victim) for b in fell],
        ),
    ]
    return (
        "\n".join(words + ["", *(f"- {sentence}" for sentence in wrong)] * bool(wrong)),
        not wrong,
    )


def asked_words(state: State, smoke_runs: int) -> str:
    """What the language model was there for."""
    attempts = [attempt for e in state.experiments[1:] for attempt in e.attempts]
    theirs = sum(attempt.proposed["proposer"] == "llm" for attempt in attempts)
    return (
        f"{theirs} of {len(attempts)} attempts were the model's,"
        f" {len(attempts) - len(state.experiments) + 1} of them repairs; {smoke_runs} smoke runs."
    )


# --- The claim


def run_claims(work: Path, cache: Path) -> tuple[str, bool]:
    """A night that keeps two ideas; then its claim, and what the best loses without the second of
    them (the first does not come off alone), once for each state and victim.
    """
    checkout = make_checkout(work / "claims", short_reach=True)
    wishes = f"{STEP_CLOCK} baseline_seeds=3"
    night = SmallNight(checkout, cache, "claims", wishes=wishes)
    run_to_end(night, 0)
    night.plant_better(1, 1.08)
    run_to_end(night, 1)
    night.plant_better(2, 1.3)
    run_to_end(night, 2)
    if night.state().incumbent.number != 2:
        raise SystemExit(
            f"the planted ideas were not kept, so there is nothing to claim; see {night.log}"
        )
    cells = []
    for kind in ("claim", "ablation"):
        asked = ClaimNight(checkout, cache, "claims", wishes="", kind=kind)
        for moment, victim in ((m, v) for m in CLAIM_MOMENTS for v in m.victims):
            cell = kill_claim(asked, moment, victim, 2)
            cells.append(replace(cell, moment=cell.moment.replace("claim", kind)))
            say(
                f"{cells[-1].moment} x {victim}: {cell.cost or 'nothing lost'};"
                f" {'; '.join(cell.wrong) or 'all agrees'}"
            )
    rows = [
        (
            cell.moment,
            cell.victim,
            "killed" if cell.killed else "was not there",
            cell.cost,
            "; ".join(cell.wrong) or "all agrees",
        )
        for cell in cells
    ]
    return table(
        ["close_out.jsonl's last line", "victim", "", "lost", "afterwards"], rows
    ), not any(cell.wrong for cell in cells)


# --- A real demo


def run_demo(kills: int, seed: int, work: Path, cache: Path) -> tuple[str, bool]:
    """The demo of the README, with the real clock, killed at random moments."""
    night = SmallNight(make_checkout(work / "demo"), cache, "demo", wishes="", options=("--demo",))
    experiments = 6
    blows = draw_blows(kills, experiments, seed, RUNS_THROUGHOUT)
    wrong = run_through(night, experiments, blows, say, insist=True)
    rows = [
        (b.experiment, b.moment.name, b.victim if b.fell else f"{b.victim}: not there")
        for b in blows
    ]
    state = night.state()
    ended = (
        f"{len(state.experiments) - 1} experiments, best {state.incumbent.mean:.4f} (baseline"
        f" {state.experiments[0].mean:.4f})"
    )
    verdict = "`--check`: everything agrees." if not wrong else "Not as it should be:"
    words = [
        f"{ended}; {night.starts - 1} new starts. {verdict}",
        "",
        table(["experiment", "the journal's last line", "killed"], rows),
    ]
    return "\n".join(words + [f"- {sentence}" for sentence in wrong]), not wrong


# --- The other ways


def run_others(names: Iterable[str], work: Path, cache: Path) -> tuple[str, bool]:
    rows, good = [], True
    night = SmallNight(make_checkout(work / "others"), cache)
    run_to_end(night, 1)
    for experiment, name in enumerate(names, start=2):
        found = meet(name, night, experiment)
        good = good and not found.wrong
        rows.append((name, found.words, "; ".join(found.wrong) or "all agrees"))
        say(f"{name}: {found.words}: {rows[-1][2]}")
    return table(["what happens", "what the night does", "afterwards"], rows), good


def write_part(path: Path, part: str, text: str) -> None:
    """Put a part's text under its heading, in place of what was there."""
    head = "# A night killed in every way\n\nMade by `scripts/kill_matrix.py`, which says how.\n"
    before = path.read_text(encoding="utf-8") if path.exists() else head
    sections = before.split("\n## ")
    kept = {f"## {section.splitlines()[0]}": f"## {section}".strip() for section in sections[1:]}
    kept[PARTS[part]] = f"{PARTS[part]}\n\n{text}"
    ordered = [kept[heading] for heading in PARTS.values() if heading in kept]
    path.write_text("\n\n".join([sections[0].strip(), *ordered]) + "\n", encoding="utf-8")


def parse_cell(text: str) -> tuple[Moment, str]:
    name, _, victim = text.rpartition(":")
    if name not in BY_NAME or victim not in BY_NAME[name].victims:
        raise argparse.ArgumentTypeError(
            f"no cell {text!r}: write STATE:VICTIM,"
            f" of {', '.join(BY_NAME)} and {', '.join(VICTIMS)}"
        )
    return BY_NAME[name], victim


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1, help="kills of each cell")
    parser.add_argument("--only", type=parse_cell, action="append", help="a cell, STATE:VICTIM")
    parser.add_argument(
        "--cells",
        type=Path,
        help="a file that keeps the matrix's cells, so that one that was cut off goes on",
    )
    parser.add_argument(
        "--random", type=int, metavar="KILLS", help="a night killed so often at random"
    )
    parser.add_argument(
        "--researcher",
        action="store_true",
        help="with --random: the ideas are a scripted language model's",
    )
    parser.add_argument("--experiments", type=int, default=10, help="of the night killed at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--claim", action="store_true", help="the claim, killed at each of its states"
    )
    parser.add_argument("--demo", action="store_true", help="a real demo killed five times")
    parser.add_argument(
        "--others",
        nargs="*",
        metavar="NAME",
        choices=[*OTHERS, []],
        help="the other ways to die, or some of them",
    )
    parser.add_argument("--write", type=Path, help="the Markdown file that gets the result")
    parser.add_argument(
        "--work", type=Path, help="where to run; kept (default: a temporary folder)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache/autoresearch-lab",
        help="where prepared data is kept",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if options.claim:
            part, (text, good) = "claim", run_claims(work, options.cache)
        elif options.demo:
            part, (text, good) = "demo", run_demo(5, options.seed, work, options.cache)
        elif options.random and options.researcher:
            with FakeOpenAI(Steady()) as server:
                found = run_random(
                    options.random,
                    options.experiments,
                    options.seed,
                    work,
                    options.cache,
                    server.url,
                )
            part, (text, good) = "researcher", found
        elif options.random:
            part = "random"
            text, good = run_random(
                options.random, options.experiments, options.seed, work, options.cache
            )
        elif options.others is not None:
            part, (text, good) = "others", run_others(options.others or OTHERS, work, options.cache)
        else:
            kept = options.cells or work / "cells.jsonl"
            cells = run_matrix(
                options.only or all_cells(), options.repeats, work, options.cache, kept
            )
            part = "limits" if find_wall().kind == "limits" else "matrix"
            text, good = matrix_section(cells), not any(cell.wrong for cell in cells)
    where = f"Python {platform.python_version()}, {platform.system()}, wall: {find_wall().kind}."
    text = f"{text}\n\n{where}"
    print(text)
    if options.write:
        write_part(options.write, part, text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
