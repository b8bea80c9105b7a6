"""What the command line takes: the options of each command, with their help and exit statuses.

In: nothing. Out: an argument parser. Imports nothing that is slow: help and wrong usage are
answered at once.
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
TRY_STATUSES = """exit status (stdout has a JSON object in each case but 2, stderr the progress):
  0    run and decided: "outcome" is kept, simplified, discarded, quarantined or no result
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
WRITE_STATUSES = """exit status:
  0    written
  1    not written: the message says why
  2    wrong usage
"""
# Options of overnight that exclude one another.
MODES = {
    "--demo": f"the whole loop on the embedded corpus: a plain baseline, {DEMO_EXPERIMENTS} "
    "experiments of 20 s, and the claim",
    "--status": "print how a run stands, and exit; with --json for scripts",
    "--check": "compare all files of a run with its journal: exit status 0, or 1 and what does not "
    "agree",
    "--stop": "ask a running night to stop after its experiment, and exit",
    "--report": "write and print the report of a run so far, and exit",
    "--close-out": "no more experiments; measure by how much the run's best is better than the "
    "baseline, on fresh seeds, then the best without each change, then both with longer budgets, "
    "as far as --hours allow; with another --source or vocabulary (--set), on that text as well",
}
RULINGS = {"--accept": "keep it if it beats the best", "--refuse": "leave it a discard"}
RESULTS = "where runs are kept (default: results/)"
PROFILES = "auto, large, medium, small, cpu, demo or tiny (default: by the hardware)"


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="An autonomous-research lab for language-model training.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_overnight(commands)
    add_try(commands)
    add_train(commands)
    add_port(commands)
    add_export(commands)
    add_compare(commands)
    return parser


def add_command(
    commands: argparse._SubParsersAction, name: str, epilog: str, **words: str
) -> argparse.ArgumentParser:
    """Declare a command. words: help, and prog and description where they are not made up."""
    shape = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, epilog=epilog, formatter_class=shape, **words)


def add_overnight(commands: argparse._SubParsersAction) -> None:
    """Declare the overnight command's options."""
    from harness.data.source import USAGE

    night = add_command(
        commands,
        "overnight",
        EXIT_STATUSES,
        help="run, continue or watch a night of experiments",
        prog="scripts/overnight.py",
        description="Run, continue or watch a night of experiments.",
    )
    night.set_defaults(complain=night.error)
    what = night.add_mutually_exclusive_group()
    for name, meaning in MODES.items():
        what.add_argument(name, action="store_true", help=meaning)
    for name, meaning in RULINGS.items():
        meaning = f"rule on experiment N, which is in quarantine: {meaning}; and exit"
        what.add_argument(name, type=int, metavar="N", help=meaning)
    keys = "with --status: print one JSON object (its keys: docs/commands.md)"
    night.add_argument("--json", action="store_true", help=keys)
    add_text(
        night,
        "--tag",
        "name of the run; the same tag again continues it (default: today, such as nov23; demo: "
        "demo)",
    )
    night.add_argument(
        "--hours",
        type=at_least_zero,
        default=0.0,
        help="stop when no further experiment fits (default 8, unless --experiments is given); "
        "with --close-out: when no further comparison does (default 2)",
    )
    night.add_argument(
        "--experiments",
        type=lambda text: int(at_least_zero(text)),
        help="stop when the run has this many experiments in all; 0: the baseline alone",
    )
    add_text(night, "--profile", PROFILES)
    add_text(night, "--source", f"the corpus: {USAGE} (default: the profile's)")
    short = {"dest": "set", "action": "append", "default": []}  # for a --set
    night.add_argument(
        "--budget-seconds",
        **short,
        type=lambda text: f"budget_seconds={at_least_zero(text)}",
        metavar="BUDGET_SECONDS",
        help="training time of each run (default: the profile's, 300)",
    )
    night.add_argument(
        "--seeds",
        **short,
        type=lambda text: f"baseline_seeds={int(text)}",
        metavar="SEEDS",
        help="runs of the baseline (default: the profile's)",
    )
    add_set(night, "vocab_size=1024", "template (DEPTH=4)")
    night.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    night.add_argument(
        "--proposer",
        default="",
        choices=("tpe", "llm", "hybrid"),
        help="who has the ideas: tpe (no key), a language model, or both in turn "
        "(default: hybrid where OPENAI_API_KEY or OPENAI_BASE_URL is set, else tpe)",
    )
    model = "$AUTORESEARCH_MODEL, else the only one that the endpoint serves"
    add_text(night, "--model", f"of the language model (default: {model})", "NAME")
    night.add_argument(
        "--llm",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="base_url=http://localhost:11434/v1, temperature=0.7, budget_usd=5, price_input=..., "
        "deadline_seconds=...",
    )
    add_text(
        night,
        "--notify",
        "run by the shell when the night ends or pauses, with the object of --status --json on "
        "its standard input",
        "COMMAND",
    )
    night.add_argument(
        "--notify-keeps", action="store_true", help="with --notify: at each keep as well"
    )
    add_text(night, "--results", RESULTS, "FOLDER")
    cache = "$AUTORESEARCH_CACHE or ~/.cache/autoresearch-lab"
    add_text(night, "--cache", f"where prepared data is kept (default: {cache})", "FOLDER")


def add_try(commands: argparse._SubParsersAction) -> None:
    """Declare the options of one idea from outside."""
    from harness.search.program import CATEGORIES

    meaning = "Run one idea of your own, or of your coding agent's, as the next experiment of a run"
    one = add_command(commands, "try", TRY_STATUSES, help=meaning, description=f"{meaning}.")
    file = "the changed copy of the run's best/train.py"
    one.add_argument("train_py", type=Path, nargs="?", help=file)
    add_text(one, "--idea", "what it changes, in a few words", "WORDS")
    change = "instead of a file and words: experiment N's change, on what is on the branch now"
    one.add_argument("--again", type=int, metavar="N", help=change)
    one.set_defaults(complain=one.error)
    add_text(one, "--hypothesis", "why that should help", "WORDS")
    kind = "kind of change (default: tune, if only numbers changed)"
    one.add_argument("--category", default="", choices=CATEGORIES, help=kind)
    change = "expected change of val_bpb: -0.003 is better by that"
    one.add_argument("--expect", type=finite, metavar="DELTA", help=change)
    add_text(one, "--by", "who has the idea, such as claude-code", "NAME")
    add_text(one, "--tag", "the run (default: the one worked on last)")
    add_text(one, "--results", RESULTS, "FOLDER")


def add_train(commands: argparse._SubParsersAction) -> None:
    """Declare the options of a training by hand."""
    train = add_command(
        commands,
        "train",
        TRAIN_STATUSES,
        help="train and score one file by hand, outside of any run",
        description="Train and score one train.py in results/by-hand/, and print the summary.",
    )
    train.add_argument("train_py", type=Path, help="such as train_template.py")
    train.add_argument("--profile", default="auto", help=PROFILES)
    train.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    add_set(train, "budget_seconds=60", "file (DEPTH=4)")


def add_port(commands: argparse._SubParsersAction) -> None:
    """Declare the options of carrying a file of karpathy/autoresearch over."""
    port = add_command(
        commands,
        "port",
        WRITE_STATUSES,
        help="carry the numbers of a train.py of karpathy/autoresearch over",
        description="Write train_template.py with the numbers of a train.py of "
        "karpathy/autoresearch, and say what was not carried over.",
    )
    port.add_argument("train_py", type=Path, help="their file; it is read and not run")
    out, words = Path("ported.py"), "where to write (default: %(default)s)"
    port.add_argument("--out", type=Path, default=out, metavar="FILE", help=words)


def add_export(commands: argparse._SubParsersAction) -> None:
    """Declare the options of taking a run's best elsewhere."""
    meaning = "Write a run's best into a folder: train.py, weights, model card, confirmed changes"
    out = add_command(commands, "export", WRITE_STATUSES, help=meaning, description=f"{meaning}.")
    out.add_argument("tag", help="the run")
    out.add_argument("folder", type=Path, help="a new folder")
    add_text(out, "--results", RESULTS, "FOLDER")


def add_compare(commands: argparse._SubParsersAction) -> None:
    """Declare the options of comparing nights."""
    compare = add_command(
        commands,
        "compare",
        WRITE_STATUSES.replace("written", "printed"),
        help="nights side by side, as Markdown",
        description="What nights found per hour and per training, and whose ideas held.",
    )
    words = "runs, or results tables of others (default: all of the results folder)"
    compare.add_argument("tags", nargs="*", metavar="TAG", help=words)
    add_text(compare, "--results", RESULTS)


def add_set(command: argparse.ArgumentParser, size: str, constant: str) -> None:
    words = f"any size of the profile ({size}) or constant of the {constant}"
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=words)


def add_text(
    command: argparse.ArgumentParser, name: str, meaning: str, value: str | None = None
) -> None:
    """Declare an option that is a text, by default none. value: what the help calls it."""
    command.add_argument(name, default="", metavar=value, help=meaning)


def finite(text: str) -> float:
    """A number on the command line; nan and infinities are none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def at_least_zero(text: str) -> float:
    """An option's number."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value
