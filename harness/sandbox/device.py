"""What torch sees on this machine, asked in a process of its own: the lab never imports torch.

In: a kind of device, or auto. Out: the facts of `harness.training.devices.Device`, remembered for this process and those
that it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from harness.ground.errors import ProfileError
from harness.sandbox.child import child_command, child_environment

DEVICE_VARIABLE = "AUTORESEARCH_DEVICE"  # what was found, for this process and those that it starts
CARD_VARIABLES = ("CUDA_", "HIP_", "ROCR_", "HSA_")
REFUSED_STATUS = 3  # of harness.training.devices: there is a device and it cannot be used


def detect_device(kind: str = "auto", try_compile: bool = False, again: bool = False) -> dict:
    """Return what torch sees on this machine; see `harness.training.devices.Device` for the fields. Raises ProfileError.

    A subprocess is asked, which takes seconds. What it said holds for this process and those that it starts, unless asked again.
    """
    known = {} if again or try_compile else known_devices()
    for asked, facts in known.items():
        if kind == asked or (asked == "auto" and kind == facts["kind"]):
            return facts
    facts = ask_device(kind, try_compile)
    os.environ[DEVICE_VARIABLE] = json.dumps({"asked_with": machine_and_variables(), "devices": known_devices() | {kind: facts}})
    return facts


def known_devices() -> dict[str, dict]:
    """What this process or one above it was told, by the kind that was asked for; nothing where another Python or other cards were asked for."""
    try:
        told = json.loads(os.environ.get(DEVICE_VARIABLE, ""))
    except ValueError:
        return {}
    return told["devices"] if told["asked_with"] == machine_and_variables() else {}


def machine_and_variables() -> list[str]:
    """What the answer depends on, besides the machine."""
    return [
        sys.executable,
        *(f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(CARD_VARIABLES)),
    ]


def ask_device(kind: str, try_compile: bool) -> dict:
    command = child_command("harness.training.devices", "--kind", kind, *["--try-compile"] * try_compile)
    with tempfile.TemporaryDirectory() as cache:  # a container's user may have no name, and with it no default folder
        environment = child_environment(TORCHINDUCTOR_CACHE_DIR=cache, TRITON_CACHE_DIR=f"{cache}/triton")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == REFUSED_STATUS:
        raise ProfileError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProfileError(
            f"torch cannot tell what device this machine has: {last}\nTry: {sys.executable} -c 'import torch'"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])
