"""The command line: `python -m harness overnight ...`, `python -m harness try FILE ...` and `python -m harness train FILE`.

A thin shell over `harness.lab`; scripts/overnight.py sets the environment up and comes here. Errors that a person can act on are one line on
stderr and exit status 1, not a traceback.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.lab.plan import Night

DEMO_EXPERIMENTS = 6
EXIT_STATUSES = """exit status:
  0    done, or stopped as asked; --check: everything agrees
  1    cannot go on, the message says what to do; --check: something does not agree
  2    wrong usage
  3    paused for too long, and gave up; the same command tries again
  4    busy: another night holds the tag
  130  stopped at once (Ctrl-C twice, SIGTERM); the same command repeats what was in flight
"""
TRY_STATUSES = """exit status (stdout has one JSON object in each case but 2, progress is on stderr):
  0    the idea was run and decided: read "outcome" (kept, simplified, discarded, quarantined)
  1    cannot go on: "reason" says what to do
  2    wrong usage
  3    paused: the machine or the disk fails; the same command goes on later
  4    busy: a night or a notebook works on the run
  5    refused before anything was run: "reasons" say what to change
  6    it was run, and crashed: "reason" and "log_tail" say why. It counts as an experiment
  130  stopped at once (Ctrl-C twice, SIGTERM); the same command repeats what was in flight
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness", description="An autonomous-research lab for language-model training."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_overnight(commands)
    add_try(commands)
    train = commands.add_parser("train", help="train and score one file by hand, outside of any run")
    train.add_argument("train_py", type=Path)
    train.add_argument("--profile", default="auto")
    train.add_argument("--device", default="auto")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sizes of the profile, such as budget_seconds=60",
    )
    options = parser.parse_args(arguments)
    options.own_process = arguments is None  # which may begin itself anew; a caller's may not
    from harness.data import DataError
    from harness.lab.carrying import Paused
    from harness.lab.history import HistoryError
    from harness.lab.journal import JournalError
    from harness.lab.keys import KeyFileError
    from harness.lab.locks import BusyError
    from harness.lab.loop import LoopError
    from harness.lab.parameters import ParameterError
    from harness.lab.profiles import ProfileError
    from harness.lab.rulings import RulingError
    from harness.lab.settings import SettingsError
    from harness.lab.wall import WallError
    from harness.search.constants import ConstantsError
    from harness.search.program import ProgramError

    run = {"overnight": run_overnight, "try": run_try, "train": run_train}[options.command]
    try:
        return run(options)
    except (BusyError, Paused) as error:
        return say_error(options, error, 4 if isinstance(error, BusyError) else 3)
    except (
        DataError,
        HistoryError,
        JournalError,
        KeyFileError,
        LoopError,
        ParameterError,
        ProfileError,
        RulingError,
        SettingsError,
        WallError,
        ProgramError,
        ConstantsError,
    ) as error:
        return say_error(options, error, 1)
    except OSError as error:
        return say_error(options, f"{error}. Nothing is lost: mend that, and run the same command again", 1)


def say_error(options: argparse.Namespace, error: object, status: int) -> int:
    """What is wrong, on one line of stderr, and as JSON where that was promised; return the exit status."""
    if options.command == "try":
        print(json.dumps({"tag": options.tag, "outcome": "error", "reason": str(error)}, ensure_ascii=False))
    print(f"error: {error}", file=sys.stderr)
    return status


def add_overnight(commands: argparse._SubParsersAction) -> None:
    """Declare the overnight command's options."""
    from harness.data.sources import USAGE

    night = commands.add_parser(
        "overnight",
        help="run, continue or watch a night of experiments",
        prog="scripts/overnight.py",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    night.set_defaults(complain=night.error)
    what = night.add_mutually_exclusive_group()
    what.add_argument(
        "--demo",
        action="store_true",
        help=f"the whole loop on the embedded corpus: a baseline and {DEMO_EXPERIMENTS} experiments of 25 s",
    )
    what.add_argument("--status", action="store_true", help="one screen on a run, and exit; with --json for scripts")
    what.add_argument(
        "--check",
        action="store_true",
        help="whether all files of a run agree with its journal: exit status 0, or 1 with what does not",
    )
    what.add_argument("--stop", action="store_true", help="ask a running night to stop after its experiment, and exit")
    what.add_argument("--report", action="store_true", help="write and print the report of a run so far, and exit")
    for word, meaning in (("accept", "keep it if it beats the best"), ("refuse", "leave it a discard")):
        what.add_argument(
            f"--{word}", type=int, metavar="N", help=f"say of experiment N, which is in quarantine: {meaning}, and exit"
        )
    night.add_argument(
        "--json", action="store_true", help="with --status: one JSON object (harness/lab/watching.py, KEYS)"
    )
    night.add_argument(
        "--tag",
        default="",
        help="name of the run; the same tag again continues it (default: today, such as nov23; demo: demo)",
    )
    night.add_argument(
        "--hours",
        type=at_least_zero,
        default=0.0,
        help="stop when no further experiment fits (default 8, unless --experiments is given)",
    )
    night.add_argument(
        "--experiments",
        type=lambda text: int(at_least_zero(text)),
        default=None,
        help="stop when the run has this many in all; 0: the baseline alone",
    )
    night.add_argument("--profile", default="", help="auto, large, small, cpu, demo or tiny (default: by the hardware)")
    night.add_argument("--source", default="", help=f"the corpus: {USAGE} (default: the profile's)")
    night.add_argument(
        "--budget-seconds",
        type=at_least_zero,
        default=0.0,
        help="training time of each run (default: the profile's, 300)",
    )
    night.add_argument("--seeds", type=int, default=0, help="runs of the baseline (default: the profile's)")
    night.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any size of the profile (vocab_size=1024) or constant of the template (DEPTH=4)",
    )
    night.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    night.add_argument(
        "--proposer",
        default="",
        choices=("tpe", "llm", "hybrid"),
        help="who has the ideas: tpe (no key), a language model, or both in turn "
        "(default: hybrid where OPENAI_API_KEY or OPENAI_BASE_URL is set, else tpe)",
    )
    night.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="of the language model (default: $AUTORESEARCH_MODEL, else the only one that the endpoint serves)",
    )
    night.add_argument(
        "--llm",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="base_url=http://localhost:11434/v1, temperature=0.7, budget_usd=5, price_input=..., deadline_seconds=...",
    )
    night.add_argument("--results", default="", metavar="FOLDER", help="where runs are kept (default: results/)")
    night.add_argument(
        "--cache",
        default="",
        metavar="FOLDER",
        help="where prepared data is kept (default: $AUTORESEARCH_CACHE or ~/.cache/autoresearch-lab)",
    )


def run_overnight(options: argparse.Namespace) -> int:
    """Watch, check, stop, report on, rule in, or run a night."""
    from harness.lab import keys, night, report
    from harness.lab.plan import Night
    from harness.lab.profiles import full_spec
    from harness.lab.settings import results_folder

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
            print(night.ask_to_stop(folder))
        return 0
    if options.accept is not None or options.refuse is not None:
        accept = options.accept is not None
        folder = results_folder(options.results) / newest_tag(options)
        print(night.rule(folder, options.accept if accept else options.refuse, accept))
        return 0
    if options.own_process:
        keys.start_without(keep=options.proposer != "tpe")
    tag = options.tag or ("demo" if options.demo else date.today().strftime("%b%d").lower())
    experiments = DEMO_EXPERIMENTS if options.demo and options.experiments is None else options.experiments
    profile = options.profile or ("demo" if options.demo else "auto")
    for change in [change for change in options.set if change.startswith("source=")]:
        options.set.remove(change)
        options.source = options.source or change.removeprefix("source=")
    return run_and_say_how_it_ended(
        Night(
            tag=tag,
            profile=profile,
            hours=options.hours,
            experiments=experiments,
            source=full_spec(options.source) if options.source else "",
            overrides=overrides_of(options),
            device=options.device,
            results=absolute(options.results),
            cache=absolute(options.cache),
            proposer=options.proposer,
            model=options.model,
            llm=" ".join(options.llm),
        )  # fmt: skip
    )


def run_and_say_how_it_ended(wishes: Night) -> int:
    """Run a night, and leave in its heartbeat that it has ended by itself, and how: else it died."""
    from harness.lab import heartbeat, keys, night, plan

    try:
        code = night.run_night(wishes)
    except Exception as error:
        heartbeat.end(wishes.folder, 1, f"cannot go on: {error}")
        raise
    finally:
        keys.forget()
    words = {130: "stopped at once"}.get(code) or heartbeat.last_line(wishes.folder / "night.log")
    if code == 0:
        words = "done" if (wishes.folder / "run.json").exists() and plan.enough(wishes) else "stopped as asked"
    heartbeat.end(wishes.folder, code, words)
    return code


def say_status(folder: Path, as_json: bool) -> int:
    """Print one screen or one object on a run."""
    from harness.lab import watching

    print(json.dumps(watching.look_at(folder), ensure_ascii=False, indent=1) if as_json else watching.screen(folder))
    return 0


def say_check(folder: Path) -> int:
    """Print what does not agree with the journal; return the exit status."""
    from harness.lab.checking import check_run

    findings = check_run(folder)
    print("\n".join(findings) or f"{folder.name}: everything agrees with the journal")
    return 1 if findings else 0


def absolute(path: str) -> str:
    """A folder given on the command line, as notebooks in another folder can use it."""
    return str(Path(path).expanduser().resolve()) if path else ""


def at_least_zero(text: str) -> float:
    """An option's number."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def overrides_of(options: argparse.Namespace) -> str:
    """--set, --budget-seconds and --seeds as the notebooks' `overrides`."""
    short = [f"budget_seconds={options.budget_seconds}"] * bool(options.budget_seconds) + [
        f"baseline_seeds={options.seeds}"
    ] * bool(options.seeds)
    return " ".join([*options.set, *short])


def newest_tag(options: argparse.Namespace) -> str:
    """The tag that was asked for, else the run worked on last."""
    from harness.lab.loop import LoopError
    from harness.lab.settings import results_folder

    if options.tag:
        return options.tag
    journals = [
        path for path in results_folder(options.results).glob("*/journal.jsonl") if path.parent.name != "sample"
    ]
    if not journals:
        raise LoopError("there is no run yet: python3 scripts/overnight.py --demo makes one")
    return max(journals, key=lambda path: path.stat().st_mtime).parent.name


def add_try(commands: argparse._SubParsersAction) -> None:
    """Declare the options of one idea from outside."""
    from harness.search.program import CATEGORIES

    one = commands.add_parser(
        "try",
        help="run one idea of your own, or of your coding agent's, as the next experiment of a run",
        epilog=TRY_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("train_py", type=Path, help="the changed copy of the run's best/train.py")
    one.add_argument("--idea", required=True, metavar="WORDS", help="what it changes, in a few words")
    one.add_argument("--hypothesis", default="", metavar="WORDS", help="why that should help")
    one.add_argument(
        "--category", default="", choices=CATEGORIES, help="kind of change (default: tune, if only numbers changed)"
    )
    one.add_argument(
        "--expect",
        type=float,
        default=None,
        metavar="DELTA",
        help="expected change of val_bpb: -0.003 is better by that",
    )
    one.add_argument("--by", default="", metavar="NAME", help="who has the idea, such as claude-code")
    one.add_argument("--tag", default="", help="the run (default: the one worked on last)")
    one.add_argument("--results", default="", metavar="FOLDER", help="where runs are kept (default: results/)")


def run_try(options: argparse.Namespace) -> int:
    """Run one idea; print what came of it as JSON."""
    from harness.lab import keys
    from harness.lab.parameters import check_tag
    from harness.lab.settings import results_folder

    if options.own_process:
        keys.start_without(keep=False)  # no model is asked, and edited code runs below this process
    from harness.lab.night import StopNow
    from harness.lab.trying import Idea, Refused, refusal, try_idea

    folder = results_folder(options.results) / check_tag(newest_tag(options))
    source = options.train_py.read_text(encoding="utf-8")
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


def run_train(options: argparse.Namespace) -> int:
    """Train one file by hand and print its summary."""
    from harness.lab import keys
    from harness.lab.start import train_by_hand

    if options.own_process:
        keys.start_without(keep=False)
    print(train_by_hand(options.train_py, options.profile, options.device, " ".join(options.set)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
