"""Runs a person's own command when a night ends, pauses or keeps an idea: a mail, a message.

In: a command line, the run. Out: the command, run once by the shell, with the object of
`--status --json` on its standard input, and in it `event`: ended, paused or kept, and `words`, a
sentence to send. A command that fails is said and costs the night nothing. It gets no key of a
language model.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable

from harness.ground.errors import LabError
from harness.ground.text import last_line, one_line
from harness.run.run import Run
from harness.sandbox.keys import KEY, KEY_FILE
from harness.show.status import look_at

SECONDS = 60.0


def notify(command: str, run: Run, event: str, words: str, say: Callable[[str], object]) -> None:
    """Run the command; "" is none."""
    if not command:
        return
    try:
        facts = look_at(run)
    except LabError:  # it ended before the run had its settings
        facts = {"tag": run.folder.name, "folder": str(run.folder)}
    facts |= {"event": event, "words": one_line(f"{run.folder.name} {event}: {words}")}
    environment = {name: value for name, value in os.environ.items() if name not in (KEY, KEY_FILE)}
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=json.dumps(facts) + "\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"--notify could not tell of it: {error}")
        return
    if done.returncode:
        say(f"--notify ended with status {done.returncode}: {last_line(done.stderr)}")
