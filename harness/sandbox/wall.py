"""What stands between edited code and the rest of the machine: bubblewrap where it works, else
process limits alone.

In: a command and what it may see. Out: the command behind the wall. Which wall there is, is found
by trying it, and is written beside every result. Standard library only. $AUTORESEARCH_WALL (auto,
bubblewrap, limits) overrides the choice; asking for one that does not work is an error.

Behind bubblewrap the file system is read-only, and homes, results, prepared data, this repository,
/tmp and /run are empty, but for what a child needs: Python and its packages, harness/, its own
train.py and request, the training rows; it writes in its own folders only. It has no network, and
sees and outlives no process. Start it from the main thread: it ends with the thread that started
it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY
from harness.data.stdlib import not_imported_folders
from harness.ground.errors import WallError
from harness.sandbox.child import PATHS

PACKAGE = Path(__file__).resolve().parents[1]
VARIABLE = "AUTORESEARCH_WALL"
KINDS = ("auto", "bubblewrap", "limits")
EMPTIED = ("/var/tmp", "/run", "/home", "/root")
# Emptied as well, but a child may write here, in memory, while it lives.
SCRATCH = ("/tmp", "/dev/shm")
SYSTEM = "/usr"  # what holds it cannot be emptied: a home of / in some containers
DEV = Path("/dev")
NODES = ("nvidia*", "kfd", "dri", "dxg")  # of /dev: cards of NVIDIA and AMD, and WSL's
# Where NixOS has its drivers and its compiler.
DRIVERS = ("/run/opengl-driver", "/run/current-system")
SCRATCH_BYTES = 256 * 2**20
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
EMPTY, READ, WRITE, PASSING = "--tmpfs", "--ro-bind", "--bind", "in memory"
# /proc/sys: a root without capabilities may still set the kernel's variables, and one of them names
# a program to run outside.
ISOLATE = (
    *("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *(READ, "/", "/", "--dev", "/dev", "--proc", "/proc", READ, "/proc/sys", "/proc/sys"),
    *("--setenv", "HF_HUB_OFFLINE", "1"),
)
BEHIND = (
    "no network, no other processes, nothing that stays is written but in its own folder;"
    " validation and holdout rows, results, this repository and home folders are not visible, nor"
    " are the interpreter's tests and programs, of which python-stdlib takes its validation text;"
    " the rest of the disk can be read as you can read it"
)
KEYS = (
    ". What a child gives the kernel to keep (its keyring) stays for the next: no user namespace"
    " can be made here"
)
LIMITS = (
    "a minimal environment and process limits only: edited code could read and write whatever you"
    " can, validation text and this harness included, use the network, and leave a process behind."
    " Audits and hashes still look at every score"
)
SELF_TEST = """
import importlib.util, os, socket, sys
import harness.ground.parent
own, hidden = sys.argv[1:]
open(os.path.join(own, "written"), "w").close()
assert importlib.util.find_spec("numpy"), "packages are not visible"
assert not os.path.exists(hidden) and os.getpid() < 100, "files or processes are not hidden"
assert [name for _, name in socket.if_nameindex()] in ([], ["lo"]), "there is a network"
core_pattern = "/proc/sys/kernel/core_pattern"
assert not os.access(core_pattern, os.W_OK), "the kernel's variables can be written"
"""


@dataclass(frozen=True)
class Wall:
    """kind: bubblewrap or limits. words: what holds, in one line. why: why it is not bubblewrap.

    sized: whether it can bound a folder in memory. users: whether a child is in a user namespace of
    its own, and so are the keys it gives the kernel.
    """

    kind: str
    words: str
    why: str = ""
    program: str = ""
    sized: bool = False
    users: bool = False

    @property
    def walled(self) -> bool:
        """True where a child has processes, network and file system of its own."""
        return self.kind == "bubblewrap"

    def returncode(self, status: int) -> int:
        """A child's exit status as the system gives it, negative for a signal: bubblewrap passes
        signals on as 128 and more.
        """
        return 128 - status if self.walled and 128 < status <= 128 + 64 else status

    def enclose(
        self,
        command: Sequence[str],
        *,
        own: Sequence[Path],
        readable: Sequence[Path],
        hidden: Sequence[Path],
        device: str,
        lasting: bool = True,
    ) -> list[str]:
        """The command behind this wall. own: folders it may write in, the first its working folder;
        readable: what it may read of what is hidden.

        hidden: folders to be empty, besides homes, temporary folders and this repository. All must
        exist, but hidden ones need not. lasting: whether what is written in its own folders is
        there afterwards; else they are empty, in memory, bounded, and pass with the child. Raises
        WallError for one that holds the system.
        """
        if not self.walled:
            return list(command)
        words = [self.program, *["--unshare-user"] * self.users, *ISOLATE]
        words += [word for node in device_nodes(device) for word in ("--dev-bind-try", node, node)]
        words += self._mounts(own, readable, hidden, WRITE if lasting else PASSING)
        return [*words, "--chdir", str(own[0]), "--", *command]

    def _mounts(
        self, own: Sequence[Path], readable: Sequence[Path], hidden: Sequence[Path], own_rule: str
    ) -> list[str]:
        """The file system's options. A folder comes before what lies in it, so that of all rules
        the deepest decides.
        """
        if beyond := [path for path in real(hidden) if Path(SYSTEM).is_relative_to(path)]:
            raise WallError(
                f"cannot hide {beyond[0]}, which holds {SYSTEM}: keep data and results elsewhere"
            )
        exposed = [*python_paths(), *DRIVERS]
        emptied = [
            path for path in real([*EMPTIED, *homes()]) if not Path(SYSTEM).is_relative_to(path)
        ]
        rules = {path: EMPTY for path in (*emptied, *real([*SCRATCH, REPOSITORY, *hidden]))}
        rules |= {path: READ for path in real(exposed) if path not in rules}
        rules |= dict.fromkeys(real(evaluation_folders()), EMPTY)
        rules |= {path: READ for path in real([PACKAGE, *readable])} | {
            path: own_rule for path in real(own)
        }
        words: list[str] = []
        closed = ["/dev"]
        for path in sorted(rules, key=lambda path: path.count("/")):
            kind = rules[path]
            if kind == rule_at(os.path.dirname(path), rules):
                continue
            if kind in (EMPTY, PASSING) and os.path.isdir(path):
                words += ["--size", str(SCRATCH_BYTES)] * self.sized + [EMPTY, path]
                closed += [path] * (kind == EMPTY and path not in SCRATCH)
            else:
                words += [
                    READ if kind == EMPTY else kind,
                    "/dev/null" if kind == EMPTY else path,
                    path,
                ]
        for link, target in lost_links([*exposed, *readable, *own], rules).items():
            words += ["--symlink", target, link]
        return words + [word for path in closed for word in ("--remount-ro", path)]


def real(paths: Iterable[Path | str]) -> list[str]:
    """The paths without links on the way, those that exist, each once."""
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))


def rule_at(path: str, rules: dict[str, str]) -> str:
    """The rule for a path: of itself or of the nearest folder above; the whole disk can be read."""
    while path not in rules and path != "/":
        path = os.path.dirname(path)
    return rules.get(path, READ)


def lost_links(paths: Iterable[Path | str], rules: dict[str, str]) -> dict[str, str]:
    """Links on the way to the paths that lie in emptied folders, {link: target}: a child looks for
    the path by its own name.
    """
    lost: dict[str, str] = {}
    for path in map(os.path.abspath, paths):
        for _ in range(40):  # as many as the system follows
            ways = [*reversed(Path(path).parents), Path(path)]
            link = next((str(way) for way in ways if way.is_symlink()), None)
            if link is None:
                break
            folder = os.path.dirname(link)
            target = os.path.normpath(os.path.join(folder, os.readlink(link)))
            if rule_at(folder, rules) == EMPTY:
                lost[link] = target
            path = os.path.normpath(os.path.join(target, os.path.relpath(path, link)))
    return lost


def homes() -> list[str]:
    """The user's home folder, by the environment and by the system's list, where there is one."""
    found = [os.path.expanduser("~")]
    with contextlib.suppress(KeyError):  # in a container a user may have no name
        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    return found


def python_paths() -> list[str]:
    """This Python, its packages, and what the environment names of libraries and compilers."""
    packages = [
        path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")
    ]
    prefixes = [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    named = [os.environ.get(name, "") for name in PATHS]
    libraries = [path for value in named for path in value.split(os.pathsep) if path]
    return [*prefixes, *site.getsitepackages(), *packages, *libraries]


@functools.cache
def evaluation_folders() -> tuple[str, ...]:
    """Folders of this Python's library that nothing imports: the validation text of python-stdlib
    is of them.
    """
    return tuple(map(str, not_imported_folders(Path(sysconfig.get_path("stdlib")))))


def device_nodes(device: str) -> list[str]:
    """The card's nodes under /dev."""
    wanted = () if device == "cpu" else NODES
    return [str(path) for name in wanted for path in sorted(DEV.glob(name))]


def find_wall(wanted: str = "", unfit: str = "") -> Wall:
    """The strongest wall that works here, or the wanted one (default: $AUTORESEARCH_WALL, else
    auto). unfit: why the run's device does not work behind bubblewrap. Raises WallError.
    """
    wanted = wanted or os.environ.get(VARIABLE) or "auto"
    if wanted not in KINDS:
        raise WallError(f"{VARIABLE} is {wanted!r}: it must be one of {', '.join(KINDS)}")
    if wanted == "limits":
        return Wall("limits", LIMITS, f"{VARIABLE} asks for limits")
    found = Wall("limits", LIMITS, unfit) if unfit else try_bubblewrap()
    if wanted == "bubblewrap" and not found.walled:
        raise WallError(f"{VARIABLE} asks for bubblewrap, which does not work here: {found.why}")
    return found


@functools.cache
def try_bubblewrap() -> Wall:
    """bubblewrap, if a child behind it finds its Python and its own folder, and nothing that is
    hidden; else limits, with the reason.
    """
    program = shutil.which("bwrap")
    if program is None:
        return Wall(
            "limits", LIMITS, "bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
        )
    why = ""
    # The second is for root where user namespaces are forbidden; without them an ordinary user has
    # no wall.
    for users in (True, False):
        try:
            return tested(program, users)
        except (OSError, subprocess.SubprocessError, WallError) as error:
            why = str(error)
    return Wall("limits", LIMITS, f"bubblewrap does not work here: {why}{how_to_allow(why)}")


def how_to_allow(why: str) -> str:
    """What lets bubblewrap make its namespaces, for the usual reasons why it may not; "" for
    others.
    """
    pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if re.search(r"mount proc", why, re.IGNORECASE):
        if pod:
            return ". In a pod parts of /proc are masked: securityContext.procMount: Unmasked"
        return (
            ". In a container parts of /proc are masked: docker run --security-opt"
            " systempaths=unconfined, podman run --security-opt unmask=ALL"
        )
    if not re.search(
        r"namespace|uid map|operation not permitted|permission denied", why, re.IGNORECASE
    ):
        return ""
    if pod:
        return (
            ". In a pod its seccomp profile forbids that: securityContext.seccompProfile.type:"
            " Unconfined"
        )
    if any(map(os.path.exists, CONTAINERS)):
        return (
            ". In a container its seccomp profile forbids that:"
            " docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        )
    return (
        ". Where AppArmor forbids user namespaces (Ubuntu from 23.10 on): a profile for"
        " /usr/bin/bwrap (package apparmor-profiles), or sudo sysctl"
        " kernel.apparmor_restrict_unprivileged_userns=0"
    )


def tested(program: str, users: bool) -> Wall:
    """The wall that this bubblewrap makes, with a user namespace or without. Raises WallError with
    its last word when it makes none.
    """
    # As a child has it: some clusters' Python finds its own library by LD_LIBRARY_PATH alone.
    libraries = {name: os.environ[name] for name in PATHS if name in os.environ}
    environment = libraries | {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY)}
    say = functools.partial(
        subprocess.run, capture_output=True, text=True, timeout=30, env=environment
    )
    version = (say([program, "--version"]).stdout.split() or ["?"])[-1]
    sized = "--size" in say([program, "--help"]).stdout
    wall = Wall(
        "bubblewrap",
        f"bubblewrap {version}: {BEHIND}{'' if users else KEYS}",
        "",
        program,
        sized,
        users,
    )
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as hidden:
        command = [sys.executable, "-c", SELF_TEST, own, hidden]
        done = say(
            wall.enclose(command, own=[Path(own)], readable=[], hidden=[Path(hidden)], device="cpu")
        )
        if done.returncode or not Path(own, "written").exists():
            raise WallError((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return wall
