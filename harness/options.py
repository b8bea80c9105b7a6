"""What the command line takes: the options of `overnight`, `try` and `train`, with their help and exit statuses.

In: nothing. Out: an argument parser. Imports nothing that is slow: help and wrong usage are answered at once.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

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
TRAIN_STATUSES = """exit status:
  0    trained and scored
  1    cannot be trained or scored: the message says why
  2    wrong usage
  130  stopped (Ctrl-C)
"""


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m harness", description="An autonomous-research lab for language-model training."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_overnight(commands)
    add_try(commands)
    add_train(commands)
    add_port(commands)
    return parser


def add_overnight(commands: argparse._SubParsersAction) -> None:
    """Declare the overnight command's options."""
    from harness.data.source import USAGE

    night = commands.add_parser(
        "overnight",
        help="run, continue or watch a night of experiments",
        prog="scripts/overnight.py",
        description="Run, continue or watch a night of experiments.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    night.set_defaults(complain=night.error)
    what = night.add_mutually_exclusive_group()
    what.add_argument(
        "--demo",
        action="store_true",
        help=f"the whole loop on the embedded corpus: a plain baseline, {DEMO_EXPERIMENTS} experiments of 20 s, and the claim",
    )
    what.add_argument("--status", action="store_true", help="one screen on a run, and exit; with --json for scripts")
    what.add_argument(
        "--check",
        action="store_true",
        help="whether all files of a run agree with its journal: exit status 0, or 1 with what does not",
    )
    what.add_argument("--stop", action="store_true", help="ask a running night to stop after its experiment, and exit")
    what.add_argument("--report", action="store_true", help="write and print the report of a run so far, and exit")
    what.add_argument(
        "--close-out",
        action="store_true",
        help="measure what the run's best is worth: best and baseline in turn on fresh seeds, and no more experiments",
    )
    for word, meaning in (("accept", "keep it if it beats the best"), ("refuse", "leave it a discard")):
        what.add_argument(
            f"--{word}", type=int, metavar="N", help=f"say of experiment N, which is in quarantine: {meaning}, and exit"
        )
    night.add_argument(
        "--json", action="store_true", help="with --status: one JSON object (harness/show/status.py, KEYS)"
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


def finite(text: str) -> float:
    """A number on the command line; nan and infinities are none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


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
        type=finite,
        default=None,
        metavar="DELTA",
        help="expected change of val_bpb: -0.003 is better by that",
    )
    one.add_argument("--by", default="", metavar="NAME", help="who has the idea, such as claude-code")
    one.add_argument("--tag", default="", help="the run (default: the one worked on last)")
    one.add_argument("--results", default="", metavar="FOLDER", help="where runs are kept (default: results/)")


def add_train(commands: argparse._SubParsersAction) -> None:
    """Declare the options of a training by hand."""
    train = commands.add_parser(
        "train",
        help="train and score one file by hand, outside of any run",
        description="Train and score one train.py in results/by-hand/, and print the summary.",
        epilog=TRAIN_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("train_py", type=Path, help="such as train_template.py")
    train.add_argument(
        "--profile",
        default="auto",
        help="auto, large, small, cpu, demo or tiny (default: by the hardware)",
    )
    train.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any size of the profile (budget_seconds=60) or constant of the file (DEPTH=4)",
    )


def add_port(commands: argparse._SubParsersAction) -> None:
    """Declare the options of carrying a file of karpathy/autoresearch over."""
    port = commands.add_parser(
        "port",
        help="carry the numbers of a train.py of karpathy/autoresearch over",
        description="Write train_template.py with the numbers of a train.py of karpathy/autoresearch, and say what was not carried over.",
        epilog="exit status:\n  0    written\n  1    not written: the message says why\n  2    wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    port.add_argument("train_py", type=Path, help="their file; it is read and not run")
    port.add_argument("--out", type=Path, default=Path("ported.py"), metavar="FILE", help="where to write (default: %(default)s)")


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
