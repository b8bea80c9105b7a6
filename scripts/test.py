# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Run the tests by pytest; sets up what is missing first.

    python3 scripts/test.py              the default tests: four minutes on two cores, no network
    python3 scripts/test.py --all        those marked slow, browser and gpu, too
                                         (gpu: skipped without a card)
    python3 scripts/test.py -k journal   anything else goes to pytest as it is

Of large tables of like cases --all runs a fixed sample; with --whole-tables it runs them whole.
Trainings whose wall is not the point run without one, from a process that has imported torch
already: AUTORESEARCH_WALL=auto has each start anew, behind bubblewrap where that works. The summary
and the exit status are pytest's.
"""

import os
import subprocess
import sys
from pathlib import Path

from environment.setup import ROOT, become, python_or_exit, say


def provide_chromium(python: Path) -> None:
    """Find a browser for the tests marked browser: the system's, else playwright's own.

    Says when there is none.
    """
    # Not before setup has looked at this Python's version.
    from environment.browser import find_chromium

    if find_chromium():
        return
    say("no chromium found: playwright fetches its own, about 180 MB, once")
    done = subprocess.run(
        [str(python), "-m", "playwright", "install", "chromium"], stdin=subprocess.DEVNULL
    )
    if done.returncode:
        say(
            "that failed: install chromium (Debian: apt install chromium),"
            " or the tests marked browser cannot run"
        )


def main(arguments: list[str]) -> None:
    python = python_or_exit(dev=True)
    everything = "--all" in arguments
    if everything:
        provide_chromium(python)
    os.chdir(ROOT)
    # Pyproject.toml holds the default one; skips are said with their reasons.
    selection = ["-m", "", "-rs"] if everything else []
    others = [argument for argument in arguments if argument != "--all"]
    become(python, ["-m", "pytest", *selection, *others])


if __name__ == "__main__":
    main(sys.argv[1:])
