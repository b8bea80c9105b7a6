"""What torch sees on this machine, asked in a process of its own: the lab never imports torch.

In: a kind of device, or auto. Out: the facts of `harness.training.devices.Device`, remembered for
this process and those that it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from harness.ground.errors import ProfileError
from harness.ground.text import last_line
from harness.sandbox.child import child_command, child_environment

# What was found, for this process and those that it starts.
DEVICE_VARIABLE = "AUTORESEARCH_DEVICE"
CARD_VARIABLES = ("CUDA_", "HIP_", "ROCR_", "HSA_")
# Of harness.training.devices: there is a device and it cannot be used.
REFUSED_STATUS = 3


def detect_device(kind: str = "auto", try_compile: bool = False, again: bool = False) -> dict:
    """Return what torch sees on this machine. Raises ProfileError.

    The fields are those of `harness.training.devices.Device`. A subprocess is asked, which takes
    seconds. What it said holds for this process and those that it starts, unless asked again.
    """
    known = known_devices()
    if not again and not try_compile:
        for asked, facts in known.items():
            if kind == asked or (asked == "auto" and kind == facts["kind"]):
                return facts
    facts = ask_device(kind, try_compile)
    told = {"asked_with": machine_and_variables(), "devices": known | {kind: facts}}
    os.environ[DEVICE_VARIABLE] = json.dumps(told)
    return facts


def known_devices() -> dict[str, dict]:
    """What was found before, by the kind asked for, with this Python and these cards."""
    try:
        told = json.loads(os.environ.get(DEVICE_VARIABLE, ""))
    except ValueError:
        return {}
    return told["devices"] if told["asked_with"] == machine_and_variables() else {}


def machine_and_variables() -> list[str]:
    """What the answer depends on, besides the machine."""
    cards = [name for name in sorted(os.environ) if name.startswith(CARD_VARIABLES)]
    return [sys.executable, *(f"{name}={os.environ[name]}" for name in cards)]


def ask_device(kind: str, try_compile: bool) -> dict:
    """Ask a subprocess that imports torch, and compiles something when wanted."""
    command = child_command("harness.training.devices", "--kind", kind)
    command += ["--try-compile"] * try_compile
    # A container's user may have no name, and with it no default folder for these caches.
    with tempfile.TemporaryDirectory() as cache:
        caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        options = {"capture_output": True, "text": True, "timeout": 600}
        done = subprocess.run(command, env=child_environment(**caches), **options)
    if done.returncode == REFUSED_STATUS:
        raise ProfileError(last_line(done.stderr))
    if done.returncode:
        raise ProfileError(
            f"torch cannot tell what device this machine has: {last_line(done.stderr)}\n"
            f"Try: {sys.executable} -c 'import torch'"
        )
    return json.loads(last_line(done.stdout))
