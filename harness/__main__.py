"""The command line: `python -m harness overnight ...`, `python -m harness try FILE ...` and `python -m harness train FILE`.

A thin shell over `harness.lab`; scripts/overnight.py sets the environment up and comes here. Errors that a person can act on are one line on
stderr and exit status 1, not a traceback.
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
from harness.ground.text import one_line
from harness.options import DEMO_EXPERIMENTS, make_parser, overrides_of

if TYPE_CHECKING:
    from harness.night.wishes import Wishes


BUSY_SECONDS = 120  # after which `try` may be asked again where another works on the run: some experiments are shorter, some longer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = make_parser().parse_args(arguments)
    options.own_process = arguments is None  # which may begin itself anew; a caller's may not
    run = {"overnight": run_overnight, "try": run_try, "train": run_train, "port": run_port}[options.command]
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except LabError as error:
        return say_error(options, error, error.exit_status)
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return say_error(options, f"{error}. Nothing is lost: mend that, and run the same command again", 1)


def say_error(options: argparse.Namespace, error: object, status: int) -> int:
    """What is wrong, on one line of stderr, and as JSON where that was promised; return the exit status."""
    words = one_line(error)
    if options.command == "try" and isinstance(error, BusyError):
        found = {"tag": options.tag, "outcome": "busy", "reason": words, "retry_after_seconds": BUSY_SECONDS}
        print(json.dumps(found, ensure_ascii=False))
    elif options.command == "try":
        print(json.dumps({"tag": options.tag, "outcome": "error", "reason": words}, ensure_ascii=False))
    print(f"error: {words}", file=sys.stderr)
    return status


def run_overnight(options: argparse.Namespace) -> int:
    """Watch, check, stop, report on, rule in, or run a night."""
    from harness.night import driver, requests
    from harness.run.settings import results_folder
    from harness.sandbox import keys
    from harness.show import report

    if options.json and not options.status:
        options.complain("--json goes with --status")
    if options.status or options.check or options.stop or options.report:
        folder = results_folder(options.results) / newest_tag(options)
        if options.status:
            return say_status(folder, options.json)
        if options.check:
            return say_check(folder)
        if options.report:
            path = report.write_report(folder)
            print(path.read_text(encoding="utf-8") + f"\nwritten to {path}")
        else:
            print(requests.ask_to_stop(folder))
        return 0
    if options.accept is not None or options.refuse is not None:
        accept = options.accept is not None
        folder = results_folder(options.results) / newest_tag(options)
        print(requests.rule(folder, options.accept if accept else options.refuse, accept))
        return 0
    if options.own_process:
        keys.start_without(keep=options.proposer != "tpe")
    try:
        return driver.run_night(wishes_of(options))
    finally:
        keys.forget()


def wishes_of(options: argparse.Namespace) -> Wishes:
    """What was asked for."""
    from harness.night.wishes import Wishes
    from harness.run.profiles import full_spec

    for change in [change for change in options.set if change.startswith("source=")]:
        options.set.remove(change)
        options.source = options.source or change.removeprefix("source=")
    return Wishes(
        tag=(newest_tag(options) if options.close_out else options.tag) or ("demo" if options.demo else date.today().strftime("%b%d").lower()),
        profile=options.profile or ("demo" if options.demo else "auto"),
        hours=options.hours,
        experiments=DEMO_EXPERIMENTS if options.demo and options.experiments is None else options.experiments,
        source=full_spec(options.source) if options.source else "",
        overrides=overrides_of(options),
        device=options.device,
        results=absolute(options.results),
        cache=absolute(options.cache),
        proposer=options.proposer,
        model=options.model,
        llm=" ".join(options.llm),
        close_out=options.close_out,
    )


def say_status(folder: Path, as_json: bool) -> int:
    """Print one screen or one object on a run."""
    from harness.run.run import Run
    from harness.show import status

    run = Run(folder)
    print(json.dumps(status.look_at(run), ensure_ascii=False, indent=1) if as_json else status.status_screen(run))
    return 0


def say_check(folder: Path) -> int:
    """Print what does not agree with the journal; return the exit status."""
    from harness.check.check import check_run

    findings = check_run(folder)
    print("\n".join(findings) or f"{folder.name}: everything agrees with the journal")
    return 1 if findings else 0


def absolute(path: str) -> str:
    """A folder given on the command line, as notebooks in another folder can use it."""
    return str(Path(path).expanduser().resolve()) if path else ""


def newest_tag(options: argparse.Namespace) -> str:
    """The tag that was asked for, else the run worked on last."""
    from harness.run.run import newest_run

    return options.tag or newest_run(options.results).name


def run_try(options: argparse.Namespace) -> int:
    """Run one idea; print what came of it as JSON."""
    from harness.run.settings import check_tag, results_folder
    from harness.sandbox import keys

    if options.own_process:
        keys.start_without(keep=False)  # no model is asked, and edited code runs below this process
    from harness.night.requests import StopNow
    from harness.night.try_idea import Idea, Refused, refusal, try_idea

    folder = results_folder(options.results) / check_tag(newest_tag(options))
    source = read_idea(options.train_py)
    idea = Idea(source, options.idea, options.hypothesis, options.category, options.expect, options.by)
    try:
        found = try_idea(folder, idea, sys.stderr, again=shlex.join([sys.executable, *sys.orig_argv[1:]]))
        status = 6 if found["outcome"] == "crashed" else 0
    except Refused as error:
        found, status = refusal(folder, error), 5
    except StopNow:
        found = {"tag": folder.name, "outcome": "stopped", "reason": "stopped at once: the same command goes on"}
        status = 130
    print(json.dumps(found, ensure_ascii=False, indent=1))
    return status


def read_idea(path: Path) -> str:
    """A candidate's text, as much of it as the gate needs to refuse it. What is no file, such as a pipe, might never end."""
    from harness.ground.errors import LoopError
    from harness.search.gate import MOST_BYTES

    if path.exists() and not path.is_file():
        raise LoopError(f"{path} is no file: give the changed copy of best/train.py")
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1).decode("utf-8-sig", errors="surrogateescape")  # which the gate then refuses


def run_train(options: argparse.Namespace) -> int:
    """Train one file by hand and print its summary."""
    from harness.night.by_hand import train_by_hand
    from harness.sandbox import keys

    if options.own_process:
        keys.start_without(keep=False)
    print(train_by_hand(options.train_py, options.profile, options.device, " ".join(options.set)), end="")
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
        raise ParameterError(f"{options.train_py} is no Python that can be read: {error}") from error
    options.out.write_text(found.source, encoding="utf-8")
    rows = [f"carried over: {name} = {value!r}" for name, value in found.carried.items()]
    print("\n".join([f"written: {options.out}", *rows, *(f"not carried over: {words}" for words in found.left)]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # of a training by hand, or before a night has begun
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
