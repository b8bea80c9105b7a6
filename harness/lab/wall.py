"""What stands between edited code and the rest of the machine: bubblewrap where it works, else process limits alone.

In: a command and what it may see. Out: the command behind the wall. Which wall there is, is found by trying it, and is written beside every result.
Standard library only. $AUTORESEARCH_WALL (auto, bubblewrap, limits) overrides the choice; asking for one that does not work is an error.

Behind bubblewrap the file system is read-only, and homes, results, prepared data, this repository, /tmp and /run are empty, but for what a child
needs: Python and its packages, harness/, its own train.py and request, the training rows; it writes in its own folders only. It has no network, and
sees and outlives no process.
"""

from __future__ import annotations

import functools
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
VARIABLE = "AUTORESEARCH_WALL"
KINDS = ("auto", "bubblewrap", "limits")
EMPTIED = ("/tmp", "/var/tmp", "/run", "/home", "/root")
SYSTEM = Path("/usr")  # what holds it cannot be emptied: a home of / in some containers, somebody's text in /usr
NODES = ("nvidia*", "kfd", "dri", "dxg")  # of /dev: cards of NVIDIA and AMD, and WSL's
TMPFS_BYTES = 256 * 2**20
ISOLATE = (
    "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
    "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
)  # fmt: skip
BEHIND = (
    "no network, no other processes, nothing writable but its own folder; validation and holdout rows, results and home folders are not visible. "
    "On python-stdlib the validation text is part of the interpreter and stays visible"
)
LIMITS = (
    "a minimal environment and process limits only: edited code could read and write whatever you can, validation text and this harness included. "
    "Audits and hashes still look at every score"
)
SELF_TEST = """
import os, sys
own, hidden = sys.argv[1:]
open(os.path.join(own, "written"), "w").close()
assert not os.path.exists(hidden) and os.getpid() < 100
"""


class WallError(RuntimeError):
    """The wall that was asked for does not work here."""


@dataclass(frozen=True)
class Wall:
    """kind: bubblewrap or limits. words: what holds, in one line. why: why it is not bubblewrap."""

    kind: str
    words: str
    why: str = ""
    program: str = ""

    @property
    def walled(self) -> bool:
        """True where a child has processes, network and file system of its own."""
        return self.kind == "bubblewrap"

    def returncode(self, status: int) -> int:
        """A child's exit status as the system gives it, negative for a signal: bubblewrap passes signals on as 128 and more."""
        return 128 - status if self.walled and status > 128 else status

    def enclose(
        self,
        command: Sequence[str],
        *,
        own: Sequence[Path],
        readable: Sequence[Path] = (),
        hidden: Sequence[Path] = (),
        device: str = "cpu",
    ) -> list[str]:
        """The command behind this wall. own: folders it may write in, the first its working folder; readable: what it may read of what is hidden.

        hidden: folders to be empty, besides homes, temporary folders and this repository. All must exist, but hidden ones need not.
        """
        if not self.walled:
            return list(command)
        emptied = [
            path for path in existing([*EMPTIED, Path.home(), REPOSITORY, *hidden]) if not SYSTEM.is_relative_to(path)
        ]
        exposed = existing(python_folders())
        words = [self.program, *ISOLATE]
        words += [word for node in device_nodes(device) for word in ("--dev-bind-try", node, node)]
        words += tmpfs(emptied)
        words += [word for path in exposed for word in ("--ro-bind", path, path)]
        words += tmpfs(path for path in emptied if any(Path(path).is_relative_to(folder) for folder in exposed))
        words += [word for path in existing([PACKAGE, *readable]) for word in ("--ro-bind", path, path)]
        words += [word for path in existing(own) for word in ("--bind", path, path)]
        return [*words, "--chdir", str(own[0]), "--", *command]


def existing(paths: Iterable[Path | str]) -> list[str]:
    """Resolved, without those that do not exist; parents before their children, each once."""
    found = {Path(path).resolve() for path in paths if Path(path).exists()}
    return [str(path) for path in sorted(found, key=lambda path: len(path.parts))]


def tmpfs(paths: Iterable[str]) -> list[str]:
    """Options that put an empty folder of bounded size over each path, and nothing over a file."""
    size = str(TMPFS_BYTES)
    hide = {True: lambda path: ("--size", size, "--tmpfs", path), False: lambda path: ("--ro-bind", "/dev/null", path)}
    return [word for path in paths for word in hide[Path(path).is_dir()](path)]


def python_folders() -> list[str]:
    """Where this Python, its packages, and the libraries that the environment names are."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *site.getsitepackages(),
        *packages,
        *kernels(),
        *filter(None, libraries),
    ]
    return [
        folder for folder in folders if not REPOSITORY.is_relative_to(Path(folder).resolve())
    ]  # what holds it all exposes too much


def kernels() -> list[Path]:
    """Attention kernels that were downloaded before: behind the wall there is no network to fetch them from."""
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    return sorted(hub.glob("models--kernels-community--*"))


def device_nodes(device: str) -> list[str]:
    """The card's nodes under /dev."""
    return [] if device == "cpu" else [str(path) for name in NODES for path in sorted(Path("/dev").glob(name))]


def find_wall(wanted: str = "") -> Wall:
    """The strongest wall that works here, or the wanted one (default: $AUTORESEARCH_WALL, else auto). Raises WallError."""
    wanted = wanted or os.environ.get(VARIABLE) or "auto"
    if wanted not in KINDS:
        raise WallError(f"{VARIABLE} is {wanted!r}: it must be one of {', '.join(KINDS)}")
    if wanted == "limits":
        return Wall("limits", LIMITS, f"{VARIABLE} asks for limits")
    found = try_bubblewrap()
    if wanted == "bubblewrap" and not found.walled:
        raise WallError(f"{VARIABLE} asks for bubblewrap, which does not work here: {found.why}")
    return found


@functools.cache
def try_bubblewrap() -> Wall:
    """bubblewrap, if a child behind it really writes in its own folder and sees nothing hidden; else limits, with the reason."""
    program = shutil.which("bwrap")
    if program is None:
        return Wall("limits", LIMITS, "bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)")
    version = (subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split() or ["?"])[-1]
    wall = Wall("bubblewrap", f"bubblewrap {version}: {BEHIND}", "", program)
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as hidden:
        # own lies in /tmp, which is emptied: the test looks for a file beside it
        command = wall.enclose([sys.executable, "-S", "-c", SELF_TEST, own, hidden], own=[Path(own)])
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Wall("limits", LIMITS, f"bubblewrap does not work here: {error}")
        if done.returncode or not Path(own, "written").exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return Wall("limits", LIMITS, f"bubblewrap does not work here: {said[:200]}")
    return wall
