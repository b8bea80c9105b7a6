"""What torch sees on this machine, asked in a process of its own: the lab never imports torch.

In: a kind of device, or auto. Out: the facts of `harness.training.devices.Device`, remembered for
this process and those that it starts; and, once a run, whether it works behind the wall.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.ground.errors import DeviceRefused, ProfileError
from harness.ground.text import last_line
from harness.sandbox.child import child_command, child_environment
from harness.sandbox.wall import VARIABLE, Wall, find_wall

# What was found, for this process and those that it starts.
DEVICE_VARIABLE = "AUTORESEARCH_DEVICE"
CARD_VARIABLES = ("CUDA_", "HIP_", "ROCR_", "HSA_")
ANSWER_SECONDS = 600.0  # for torch to start, and to compile something
# Of harness.training.devices: there is a device and it cannot be used.
REFUSED_STATUS = 3


def detect_device(kind: str = "auto", again: bool = False) -> dict:
    """Return what torch sees on this machine. Raises ProfileError.

    The fields are those of `harness.training.devices.Device`, and for a card `tflops` and
    `copy_gb_per_s`, how fast it multiplies and copies. A subprocess is asked, which takes seconds.
    What it said holds for this process and those that it starts, unless asked again.
    """
    known = {} if again else known_answers()
    for asked, facts in known.items():
        if kind == asked or (asked == "auto" and kind == facts["kind"]):
            return facts
    return remember(kind, ask_device(kind))


def try_device(kind: str, compiles: bool) -> dict[str, str]:
    """Try the device where trainings will use it, behind the wall; and compiling, where wanted.

    Return what a run freezes of it: compile_error, "" where compiling works, and wall_error, why
    the wall cannot be used: the device does less there than outside. Raises DeviceRefused, for that
    too where a person asked for the wall. Remembered as above.
    """
    question = f"{kind}, {'compiling' if compiles else 'eager'}"
    return known_answers().get(question) or remember(question, compare_walls(kind, compiles))


def compare_walls(kind: str, compiles: bool) -> dict[str, str]:
    """The answer to `try_device`."""
    wall = find_wall()
    refused, compile_error = attempt(kind, compiles, wall)
    wall_error = ""
    if wall.walled and (refused or compile_error):
        why = compile_error or "torch sees no device there that it can use"
        outside = attempt(kind, compiles, None)
        if outside == ("", ""):
            wall_error = f"{kind} works outside of bubblewrap and not behind it: {why}"
        refused, compile_error = outside
    if wall_error and os.environ.get(VARIABLE) == "bubblewrap":
        refused = f"{wall_error}. {VARIABLE} asks for bubblewrap: unset it to go on without"
    if refused:
        raise DeviceRefused(refused)
    return {"compile_error": compile_error, "wall_error": wall_error}


def attempt(kind: str, compiles: bool, wall: Wall | None) -> tuple[str, str]:
    """Why the device cannot be used, or nothing be compiled, behind a wall or without one."""
    try:
        return "", ask_device(kind, compiles, wall).get("compile_error", "")
    except ProfileError as error:
        return str(error), ""


def known_answers() -> dict[str, dict]:
    """What was found before, by what was asked, with this Python, these cards and this wall."""
    try:
        told = json.loads(os.environ.get(DEVICE_VARIABLE, ""))
    except ValueError:
        return {}
    return told["answers"] if told["asked_with"] == machine_and_variables() else {}


def remember(question: str, answer: dict) -> dict:
    """Note an answer for this process and those that it starts; return it."""
    told = {"asked_with": machine_and_variables(), "answers": known_answers() | {question: answer}}
    os.environ[DEVICE_VARIABLE] = json.dumps(told)
    return answer


def machine_and_variables() -> list[str]:
    """What the answer depends on, besides the machine."""
    cards = [name for name in sorted(os.environ) if name.startswith((*CARD_VARIABLES, VARIABLE))]
    return [sys.executable, *(f"{name}={os.environ[name]}" for name in cards)]


def ask_device(kind: str, compiles: bool = False, wall: Wall | None = None) -> dict:
    """Ask a subprocess that imports torch, and compiles something when wanted."""
    command = child_command("harness.training.devices", "--kind", kind)
    command += ["--try-compile"] * compiles
    # A container's user may have no name, and with it no default folder for these caches.
    with tempfile.TemporaryDirectory() as cache:
        caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        if wall:
            own = [Path(cache)]
            command = wall.enclose(command, own=own, readable=[], hidden=[], device=kind)
        options = {"capture_output": True, "text": True, "timeout": ANSWER_SECONDS}
        environment = child_environment(TMPDIR=cache, **caches)
        try:
            done = subprocess.run(command, env=environment, **options)
        except subprocess.TimeoutExpired:
            raise ProfileError(
                f"the device gave no answer within {ANSWER_SECONDS:g} s: a card that hangs (Xid in "
                "dmesg) comes back with a restart of the machine"
            ) from None
    if done.returncode == REFUSED_STATUS:
        raise DeviceRefused(last_line(done.stderr))
    if done.returncode:
        raise ProfileError(
            f"torch cannot tell what device this machine has: {last_line(done.stderr)}\n"
            f"Try: {sys.executable} -c 'import torch'"
        )
    return json.loads(last_line(done.stdout))
