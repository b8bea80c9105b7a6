"""Where the key of a language model is kept, so that of a whole night the propose process alone
ever sees it.

In: what a person exported. Out: a key file, or the variables that the propose process gets beside
its own; and a night, started anew without the key.

What a process was started with stays readable in /proc for everything of the same user, whatever it
deletes later. So a night that finds an exported key writes it into a file that only this user can
read, outside of the repository and where the wall shows edited code nothing, and begins again
without it. The file goes when the night ends; one that a killed night left, with the next night.
Refuses a key file of yours that others, or edited code, could read.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import REPOSITORY
from harness.ground.errors import KeyFileError
from harness.sandbox.processes import identity, may_live
from harness.sandbox.wall import (
    EMPTIED,
    EMPTY,
    PACKAGE,
    READ,
    SCRATCH,
    SYSTEM,
    homes,
    python_paths,
    real,
    rule_at,
)

KEY, KEY_FILE, BASE_URL = "OPENAI_API_KEY", "AUTORESEARCH_KEY_FILE", "OPENAI_BASE_URL"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
# To the propose process alone: endpoint, model, account, and how this machine reaches the network.
PASSED_ON = (
    *(BASE_URL, "AUTORESEARCH_MODEL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", *PROXIES, *map(str.lower, PROXIES)),
)


def for_proposer() -> tuple[str, dict[str, str]]:
    """Return (key file or "", what the propose process gets besides a child's environment). Raises
    KeyFileError.

    A key comes in a file, or, where a person exported one to a notebook's kernel, in the
    environment of the propose process.
    """
    extra = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    path, key = os.environ.get(KEY_FILE, ""), os.environ.get(KEY, "").strip()
    if path:
        return str(checked(Path(path))), extra
    return "", extra | ({KEY: key} if key else {})


def has_endpoint(llm: str = "") -> bool:
    """Whether a person has named a language model's endpoint: by a key, or by a base URL in the
    environment or among the options.
    """
    return (
        any(os.environ.get(name, "").strip() for name in (KEY, KEY_FILE, BASE_URL))
        or "base_url=" in llm
    )


def checked(path: Path) -> Path:
    """A key file as an absolute path. Raises KeyFileError when somebody besides its owner, or
    edited code, could read it.

    One that is not there (any more) is the propose process's to say.
    """
    path = Path(os.path.abspath(path.expanduser()))
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise KeyFileError(
                f"{KEY_FILE}: others can read {path}: chmod 600 {shlex.quote(str(path))}, and where"
                " that changes nothing (a disk of Windows in WSL, a USB stick), keep it in your"
                " home folder"
            )
    if not is_hidden(path):
        raise KeyFileError(
            f"{KEY_FILE}: edited code could read {path}: keep it elsewhere in your home folder"
        )
    return path


def is_hidden(path: Path) -> bool:
    """Whether a wall of this harness leaves the place empty for edited code, whatever the run."""
    emptied = real([*EMPTIED, *SCRATCH, *homes(), REPOSITORY])
    rules = dict.fromkeys(real(python_paths()), READ)
    rules |= {place: EMPTY for place in emptied if not Path(SYSTEM).is_relative_to(place)} | {
        str(PACKAGE): READ
    }
    return rule_at(os.path.realpath(path), rules) == EMPTY


# --- a night's own file ---------------------------------------------------------------------------


def start_without(keep: bool) -> None:
    """Begin this process again without an exported key, kept in a file when `keep`; return where
    none is exported.

    Raises KeyFileError when there is no place for the file.
    """
    forget_dead()
    if KEY not in os.environ:
        return
    environment = {name: value for name, value in os.environ.items() if name != KEY}
    key = os.environ[KEY].strip()
    if key and keep and not environment.get(KEY_FILE):
        environment[KEY_FILE] = str(write_key(key))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:
        forget()
        raise


def write_key(key: str) -> Path:
    """Write the key where only this user, and no edited code, can read it; return the file, named
    by this process. Raises KeyFileError.
    """
    refusals = []
    for folder in key_folders():
        path = folder / f"{own_name()}.key"
        try:
            own_folder(folder)
            path.unlink(missing_ok=True)
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(key)
            return path
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror or error}")
    raise KeyFileError(
        f"no place to keep the key of {KEY} in, hidden from edited code"
        f" ({'; '.join(refusals) or 'no folder is'}): make one of them writable"
    )


def key_folders() -> list[Path]:
    """Folders for key files, the best first: those outside of the repository that every wall
    empties.
    """
    shared = [Path(folder) for folder in dict.fromkeys([*reversed(SCRATCH), tempfile.gettempdir()])]
    wished = [Path(os.path.expanduser("~/.cache/autoresearch-lab/keys"))]
    wished += [
        folder / f"autoresearch-lab-keys-{os.getuid()}" for folder in shared if folder.is_dir()
    ]
    inside = os.path.realpath(REPOSITORY)
    return [
        path
        for path in wished
        if is_hidden(path) and not Path(os.path.realpath(path)).is_relative_to(inside)
    ]


def own_folder(folder: Path) -> None:
    """Make a folder that is this user's alone. Raises OSError where somebody else has made it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of yours")
    folder.chmod(0o700)


def own_name() -> str:
    """A name that tells for ever whose file it is: machine, process, and that process's identity,
    which outlasts an exec.
    """
    who = identity(os.getpid())
    return f"{socket.gethostname()},{os.getpid()},{who if isinstance(who, str) else f'{who:.2f}'}"


def files() -> Iterator[tuple[Path, int, str | float]]:
    """This machine's key files with process and its identity: of the folder in a home that machines
    share only its own.
    """
    for folder in key_folders():
        for path in folder.glob("*.key"):
            host, pid, who = (path.stem.rsplit(",", 2) + ["", ""])[:3]
            with contextlib.suppress(ValueError):
                if host == socket.gethostname():
                    yield path, int(pid), who if "@" in who else float(who)


def forget() -> None:
    """Remove the key file of this process, and those of the dead."""
    for path, pid, _ in files():
        if pid == os.getpid():
            path.unlink(missing_ok=True)
    forget_dead()


def forget_dead() -> None:
    """Remove key files of processes that have ended for certain: without its file a living night
    could ask nothing any more.
    """
    for path, pid, who in files():
        if not may_live(pid, who):
            with contextlib.suppress(OSError):
                path.unlink()


# --- what a person is told ------------------------------------------------------------------------


def exposure(walled: bool) -> str:
    """What it means that a key was exported to this process (a notebook's kernel, and the Jupyter
    server that started it); "" where none was.
    """
    if not os.environ.get(KEY, "").strip():
        return ""
    found = f"{KEY} is in the environment of this kernel and of the Jupyter server that started it."
    if walled:
        return (
            f"{found} Edited code cannot see it: behind the wall there are no other processes."
            " Every notebook that you run here can."
        )
    return (
        f"{found} There is no wall here, so edited code can read it there. Start Jupyter without"
        f" it, and give it {KEY_FILE}=FILE (a file with the key, chmod 600) instead; a night by"
        " scripts/overnight.py does that itself. Without a wall code that looks for your files"
        " finds that file, too"
    )
