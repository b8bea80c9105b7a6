"""The `.venv` folder of a checkout as such: made, emptied, stamped, locked against a second set-up.

In: a folder. Out: an environment with pip in it, and the stamp that says how far its set-up came.
What goes into it is not decided here, and an environment that was not made here is never emptied.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from environment.packages import SetupError, run_logged, say

STAMP = "autoresearch-lab.json"


def venv_python(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def read_stamp(venv: Path) -> dict | None:
    """What the last set-up wrote in `venv`.

    {} when it cannot be read, None when no set-up of ours ever began there.
    """
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, facts: dict) -> None:
    """Replace the stamp in one step, so that it is never half written."""
    draft = venv / (STAMP + ".new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, venv / STAMP)


def write_pth(folder: Path, name: str, statements: list[str]) -> None:
    """A .pth file of statements.

    Bare paths would be read in the locale's encoding before Python 3.13.
    """
    (folder / name).write_text("".join(f"{line}\n" for line in statements), encoding="ascii")


def drop_half_installed(site_packages: Path) -> list[str]:
    """Forget packages whose unpacking was cut off, and return their names.

    pip writes RECORD last, yet without it takes the package for complete.
    """
    half = [
        folder for folder in site_packages.glob("*.dist-info") if not (folder / "RECORD").exists()
    ]
    for folder in half:
        shutil.rmtree(folder)
    return [folder.name.partition("-")[0] for folder in half]


def clear(venv: Path) -> None:
    """Empty an environment of ours, but for the stamp that says so.

    A folder that links to a roomier disk stays one.
    """
    for entry in venv.iterdir():
        if entry.name == STAMP:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _ways_to_create(venv: Path) -> list[list[list[str]]]:
    here, there = sys.executable, str(venv)
    ways = []
    if importlib.util.find_spec("ensurepip"):
        ways.append([[here, "-m", "venv", there]])
    if importlib.util.find_spec("pip"):  # Debian's python3-pip without python3-venv
        seed = ["--python", str(venv_python(venv)), "install", "--disable-pip-version-check", "pip"]
        ways.append([[here, "-m", "venv", "--without-pip", there], [here, "-m", "pip", *seed]])
    if shutil.which("uv"):
        ways.append([["uv", "venv", "--allow-existing", "--seed", "--python", here, there]])
    if shutil.which("virtualenv"):
        ways.append([["virtualenv", "--python", here, there]])
    return ways


def create(venv: Path, log: Path, lock: int | None) -> None:
    """Make `venv` with pip in it, in whatever way this machine offers.

    Raises SetupError naming what to install.
    """
    output = ""
    for commands in _ways_to_create(venv):
        for command in commands:
            status, output = run_logged(command, log, lock=lock)
            if status:
                break
        else:
            return
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    reason = (
        output.strip().splitlines()[-1] if output.strip() else "it has neither ensurepip nor pip"
    )
    raise SetupError(
        f"{sys.executable} cannot make a virtual environment: {reason}. On Debian and Ubuntu: "
        f"apt install {package}. Elsewhere: install uv, or start this with another Python >= 3.11"
    )


def _try_lock(descriptor: int) -> bool:
    """Take the file's lock if it is free.

    The system gives it back when its holders end, however they end.
    """
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        say(f"this file system has no locks ({error}): start only one set-up at a time")
    return True


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[int]:
    """Let one set-up at a time work in a checkout; yields the lock's descriptor."""
    with path.open("a") as file:
        last_said = -10.0
        began = time.monotonic()
        while not _try_lock(file.fileno()):
            if time.monotonic() - began - last_said >= 10:
                last_said = time.monotonic() - began
                say(
                    "another set-up is at work in this checkout:"
                    f" waiting for it ({last_said:.0f} s)"
                )
            time.sleep(0.2)
        yield file.fileno()
