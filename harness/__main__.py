"""The command line: `python -m harness` with overnight, try, train, port, export or compare.

A thin shell over the rooms; scripts/overnight.py sets the environment up and comes here. Errors
that a person can act on are one line on stderr and their exit status, not a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from harness.ground.errors import BusyError, LabError
from harness.ground.text import one_line, without_escapes
from harness.options import DEMO_EXPERIMENTS, make_parser

if TYPE_CHECKING:
    from harness.night.try_idea import Idea
    from harness.night.wishes import Wishes


# After which `try` may be asked again where another works on the run: about an experiment.
BUSY_SECONDS = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who began this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    options = make_parser().parse_args(arguments)
    # A process of its own may begin itself anew; a caller's may not.
    options.own_process = arguments is None
    commands = {
        **{"overnight": run_overnight, "try": run_try, "train": run_train},
        **{"port": run_port, "export": run_export, "compare": run_compare},
    }
    try:
        status = commands[options.command](options)
        sys.stdout.flush()
        return status
    except LabError as error:
        return say_error(options, error, error.exit_status)
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        words = f"{error}. Nothing is lost: mend that, and run the same command again"
        return say_error(options, words, 1)


def say_error(options: argparse.Namespace, error: object, status: int) -> int:
    """What is wrong, on one line of stderr, and as JSON where that was promised."""
    words = one_line(error)
    if options.command == "try":
        found = {"tag": options.tag, "outcome": "error", "reason": words}
        if isinstance(error, BusyError):
            found |= {"outcome": "busy", "retry_after_seconds": BUSY_SECONDS}
        print(json.dumps(found))
    print(f"error: {words}", file=sys.stderr)
    return status


def say(words: str) -> None:
    """Print what may hold others' words, such as a results folder's that was handed over."""
    print(without_escapes(words).rstrip("\n"))


# --- overnight -----------------------------------------------------------------------------------


def run_overnight(options: argparse.Namespace) -> int:
    """Watch, check, stop, report on, rule in, or run a night."""
    from harness.night.driver import run_night
    from harness.sandbox import keys

    if options.json and not options.status:
        options.complain("--json goes with --status")
    asked = (options.status, options.check, options.stop, options.report)
    if any(asked) or options.accept is not None or options.refuse is not None:
        words, status = answer(run_folder(options), options)
        say(words)
        return status
    begin_without_key(options, keep=options.proposer != "tpe")
    try:
        return run_night(wishes_of(options))
    finally:
        keys.forget()


def answer(folder: Path, options: argparse.Namespace) -> tuple[str, int]:
    """What was asked of a run rather than a night: (words, exit status)."""
    from harness.check.check import check_run
    from harness.ground.errors import LoopError
    from harness.night.requests import ask_to_stop, rule
    from harness.run.run import Run, list_runs
    from harness.show.report import write_report
    from harness.show.status import look_at, status_screen

    if not folder.is_dir():
        there = ", ".join(list_runs(folder.parent)) or "none"
        raise LoopError(f"there is no run {folder.name} in {folder.parent} (there: {there})")
    if options.status and options.json:
        return json.dumps(look_at(Run(folder)), indent=1), 0
    if options.status:
        return status_screen(Run(folder)), 0
    if options.check:
        findings = "\n".join(map(one_line, check_run(folder)))
        return findings or f"{folder.name}: everything agrees with the journal", int(bool(findings))
    if options.stop:
        return ask_to_stop(folder), 0
    if options.report:
        path = write_report(folder)
        return path.read_text(encoding="utf-8") + f"\nwritten to {path}", 0
    if options.accept is not None:
        return rule(folder, options.accept, accept=True), 0
    return rule(folder, options.refuse, accept=False), 0


def wishes_of(options: argparse.Namespace) -> Wishes:
    """What was asked for."""
    from harness.night.wishes import Wishes
    from harness.run.profiles import full_spec

    sources = [change for change in options.set if change.startswith("source=")]
    source = options.source or "".join(sources[:1]).removeprefix("source=")
    tag = run_folder(options).name if options.close_out else options.tag
    most = options.experiments
    return Wishes(
        tag=tag or ("demo" if options.demo else date.today().strftime("%b%d").lower()),
        profile=options.profile or ("demo" if options.demo else "auto"),
        hours=options.hours,
        experiments=DEMO_EXPERIMENTS if options.demo and most is None else most,
        source=full_spec(source) if source else "",
        overrides=" ".join(change for change in options.set if change not in sources),
        device=options.device,
        results=absolute(options.results),
        cache=absolute(options.cache),
        proposer=options.proposer,
        model=options.model,
        llm=" ".join(options.llm),
        close_out=options.close_out,
        notify=options.notify,
        notify_keeps=options.notify_keeps,
    )


def absolute(path: str) -> str:
    """A folder given on the command line, as notebooks in another folder can use it."""
    return str(Path(path).expanduser().resolve()) if path else ""


def run_folder(options: argparse.Namespace) -> Path:
    """The folder of the run that was asked for, else of the one worked on last."""
    from harness.run.run import newest_run
    from harness.run.settings import SAMPLE_TAG, check_tag, results_folder

    if options.tag:
        tag = options.tag if options.tag == SAMPLE_TAG else check_tag(options.tag)
        return results_folder(options.results) / tag
    return newest_run(options.results)


def begin_without_key(options: argparse.Namespace, keep: bool = False) -> None:
    """Begin this process again without the key, below which edited code runs. keep: in a file."""
    from harness.sandbox import keys

    if options.own_process:
        keys.start_without(keep=keep)


# --- One file ------------------------------------------------------------------------------------


def run_try(options: argparse.Namespace) -> int:
    """Run one idea; print what came of it as JSON."""
    from harness.run.settings import check_tag

    if (options.again is None) == (options.train_py is None):
        options.complain("give a changed train.py with --idea, or an experiment with --again")
    begin_without_key(options)  # no model is asked
    from harness.night.requests import StopNow
    from harness.night.try_idea import Refused, refusal, try_idea

    folder = run_folder(options)
    check_tag(options.tag or folder.name)
    again = shlex.join([sys.executable, *sys.orig_argv[1:]])
    try:
        found = try_idea(folder, idea_of(folder, options), sys.stderr, again=again)
        status = 6 if found["outcome"] == "crashed" else 0
    except Refused as error:
        found, status = refusal(folder, error), 5
    except StopNow:
        reason = "stopped at once: the same command goes on"
        found, status = {"tag": folder.name, "outcome": "stopped", "reason": reason}, 130
    print(json.dumps(found, indent=1))
    return status


def idea_of(folder: Path, options: argparse.Namespace) -> Idea:
    """The idea that was given, or an experiment's."""
    from harness.night.try_again import idea_again
    from harness.night.try_idea import Idea
    from harness.run.run import Run

    if options.again is not None:
        return idea_again(Run(folder), options.again)
    words = (options.idea, options.hypothesis, options.category)
    return Idea(read_idea(options.train_py), *words, options.expect, options.by)


def read_idea(path: Path) -> str:
    """A candidate's text, as far as the gate needs it. Refuses a pipe, which might never end."""
    from harness.ground.errors import LoopError
    from harness.search.gate import MOST_BYTES

    if path.exists() and not path.is_file():
        raise LoopError(f"{path} is no file: give the changed copy of best/train.py")
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    return text.decode("utf-8-sig", errors="surrogateescape")  # which the gate then refuses


def run_train(options: argparse.Namespace) -> int:
    """Train one file by hand and print its summary."""
    from harness.night.by_hand import train_by_hand

    begin_without_key(options)
    changes = " ".join(options.set)
    say(train_by_hand(options.train_py, options.profile, options.device, changes))
    return 0


def run_port(options: argparse.Namespace) -> int:
    """Carry a file of karpathy/autoresearch over; say what came with it and what did not."""
    import harness
    from harness.ground.errors import ParameterError
    from harness.search.port import port

    if options.out.exists():
        raise ParameterError(f"{options.out} is there already: name another with --out")
    template = (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")
    try:
        found = port(read_idea(options.train_py), template)
    except (SyntaxError, ValueError) as error:
        words = f"{options.train_py} is no Python that can be read: {error}"
        raise ParameterError(words) from error
    options.out.write_text(found.source, encoding="utf-8")
    say("\n".join([f"written: {options.out}", *found.words]))
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Print nights side by side; without tags all of the results folder."""
    from harness.run.run import list_runs
    from harness.run.settings import results_folder
    from harness.show.frame import choose_run
    from harness.show.nights import compare_nights

    tags = options.tags or list_runs(results_folder(options.results))
    say(compare_nights([choose_run(tag, options.results) for tag in tags]))
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Take a run's best elsewhere; say what was written."""
    from harness.run.run import Run
    from harness.run.settings import check_tag
    from harness.show.export import export

    check_tag(options.tag)
    say("\n".join(export(Run(run_folder(options)), options.folder)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # of a training by hand, or before a night has begun
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
