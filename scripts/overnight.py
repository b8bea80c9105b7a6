# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Start the night, or look at one; sets up what is missing first.

    python3 scripts/overnight.py --demo                  all of it in minutes, no GPU, no key
    python3 scripts/overnight.py --tag nov23 --hours 8   a real night; again: continues it
    ... --tag nov23 --experiments N                      so many experiments; 0: the baseline
    ... --model NAME --llm budget_tokens=2000000         with a language model:
                                                         OPENAI_API_KEY or OPENAI_BASE_URL is set
    ... --tag nov23 --status                             how it goes; --json: for scripts
    ... --tag nov23 --stop                               end after this experiment
    ... --tag nov23 --report                             write and print its report
    ... --tag nov23 --close-out                          which changes of the best matter?
    ... --tag nov23 --check                              do its files agree with its journal?
    ... --tag nov23 --accept N                           keep N from quarantine; --refuse N: do not
    ... --torch-index URL                                at set-up: another build of torch
                                                         (pytorch.org's selector)

In: the command line. Out: the output and exit status of `python -m harness overnight`. The first
start makes `.venv` in the checkout (some minutes, mostly downloads); `uv run scripts/overnight.py
--demo` does the same with a Python that uv provides.
"""

import argparse
import os
import subprocess
import sys

from environment.setup import ROOT, become, find_environment, find_usable, python_or_exit

HARNESS = ["-m", "harness", "overnight"]
# Asked of a night in progress, whose environment must not change under it.
LOOKING = {"--status", "--check", "--stop", "--report", "--accept", "--refuse"}
HELP = {"-h", "--help"}


def show_help(arguments: list[str]) -> None:
    """Print all options, as the harness says them, else this file's own summary.

    The harness is asked when it can be without a set-up.
    """
    python = find_environment() or find_usable() or sys.executable
    command = [str(python), *HARNESS, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(
        "\nat set-up:\n  --torch-index URL     another build of torch"
        if done.returncode == 0
        else __doc__
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--torch-index", metavar="URL")
    options, others = parser.parse_known_args(arguments)
    if HELP & set(others):
        return show_help(others)
    if LOOKING & set(others):  # a look neither makes nor mends an environment
        os.environ["PYTHONPATH"] = str(ROOT)  # of a checkout that was moved, too
        usable = find_environment() or find_usable()
        if usable is None:
            sys.exit(
                "there is no environment to look with here; a night makes it: python3"
                " scripts/overnight.py --demo"
            )
        become(usable, [*HARNESS, *others])
    become(python_or_exit(torch_index=options.torch_index), [*HARNESS, *others])


if __name__ == "__main__":
    main(sys.argv[1:])
