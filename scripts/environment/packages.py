"""Running pip for the set-up: what to install, progress in short lines, advice when it fails.

In: the environment's python, requirement lines, where torch may come from. Out: installed packages,
every line of pip's in the log, a short line on the terminal at least every ten seconds. It decides
nothing about the environment itself (see `setup.py`), and leaves the user's pip configuration in
force (mirrors, proxies, certificates).
"""

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from environment.check import OLDEST_TORCH

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
BRIEFLY = ("--timeout", "8", "--retries", "0")
# Isolated from PYTHONPATH and user site-packages; pip's own configuration still counts.
PIP = ("-I", "-m", "pip")
HEARTBEAT_SECONDS = 10
ADVICE = (
    (
        ("No space left", "Errno 28", "not enough space"),
        "the disk (or $TMPDIR, where pip unpacks) is full: free some space",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        (
            "a certificate is not trusted, often a company's proxy:"
            " set PIP_CERT to its certificate file"
        ),
    ),
    (
        ("ProxyError", "Tunnel connection failed"),
        "the proxy refuses: check HTTPS_PROXY (or `pip config set global.proxy`)",
    ),
    (
        (
            *("NewConnectionError", "Max retries exceeded", "ConnectionError"),
            *("NameResolution", "ConnectTimeout", "timed out"),
        ),
        (
            "the package index cannot be reached: check the network, HTTPS_PROXY, or set"
            " PIP_INDEX_URL to a mirror"
        ),
    ),
    (
        ("(from versions: none)",),
        (
            "the index cannot be reached, or has nothing for this Python and machine: check the"
            " network and PIP_INDEX_URL"
        ),
    ),
    (
        ("No matching distribution",),
        (
            "the index has no such version for this Python and machine: another Python (3.11 to"
            " 3.14) or index may have it"
        ),
    ),
    (("Permission denied", "Errno 13"), "a file may not be written: check who owns this folder"),
)


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do next."""


def say(text: str) -> None:
    """One short line of progress, shown at once even when the output goes to a file."""
    print(f"set-up: {text}", flush=True)


def advise(output: str) -> str:
    """What to do about a failed pip run, from what it printed."""
    found = [words for signs, words in ADVICE if any(sign in output for sign in signs)]
    return found[0] if found else "see the lines above"


def tail(text: str, n_lines: int = 12) -> str:
    """The last lines of a log, indented for a terminal."""
    return "\n".join("    " + line[:160] for line in text.rstrip().splitlines()[-n_lines:])


def _pump(stream: Iterable[str], lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


class Progress:
    """Turns pip's lines into few short ones: which package, how many of how many, how long.

    total: number of requirements given to pip, or None where it finds out itself what is needed.
    """

    def __init__(self, total: int | None):
        self.total = total
        self.seen = 0
        self.now = "asking the package index"
        self.began = self.last_said = time.monotonic()

    def read(self, line: str) -> None:
        """Take one line of pip's output; say something when it is time to."""
        words = line.split()
        if line.startswith("Ignoring ") and self.total:
            self.total -= 1  # its marker is for another system
        elif line.startswith(("Collecting ", "Processing ", "Requirement already satisfied: ")):
            self.seen += 1
            self.now = self._count(words[3] if words[0] == "Requirement" else words[1])
        elif words and words[0] in ("Downloading", "Using") and line.endswith("B)\n"):
            self.now = self._count(f"{words[-3]} {words[-2]} {words[-1]}")
        elif line.startswith("Installing collected packages: "):
            self.now = (
                f"unpacking {line.count(',') + 1} packages"
                if "," in line
                else f"unpacking {words[-1]}"
            )
            self.last_said = 0.0
        self.tell(every=2.0)

    def _count(self, what: str) -> str:
        name = re.sub(r"-(py\d|cp\d).*\.whl", "", what.rsplit("/", 1)[-1])
        return f"{self.seen} of {self.total}: {name}" if self.total else name

    def tell(self, every: float = 0.0) -> None:
        """Say where pip is, unless that was said less than `every` seconds ago."""
        if time.monotonic() - self.last_said >= every:
            self.last_said = time.monotonic()
            say(f"  {self.now} ({self.last_said - self.began:.0f} s)")


def run_logged(
    command: list[str], log: Path, progress: Progress | None = None, lock: int | None = None
) -> tuple[int, str]:
    """Run a command, its output appended to `log`; return (exit status, output).

    lock: a descriptor that the child keeps open, so that the lock of a killed set-up holds until
    its pip is gone, too.
    """
    keep = {"pass_fds": (lock,)} if lock is not None and sys.platform != "win32" else {}
    lines: queue.Queue = queue.Queue()
    output = []
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ {subprocess.list2cmdline(command)}\n")
        file.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            **keep,
        )
        threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
        try:
            while True:
                try:
                    line = lines.get(timeout=HEARTBEAT_SECONDS)
                except queue.Empty:
                    if progress:
                        progress.tell()
                    continue
                if line is None:
                    return child.wait(), "".join(output)
                output.append(line)
                file.write(line)
                file.flush()
                if progress:
                    progress.read(line)
        finally:
            child.kill()  # Ctrl-C may have reached only this process


@dataclass(frozen=True)
class Pip:
    """pip of one environment.

    python: its interpreter. log: where the output goes. lock: see `run_logged`.
    """

    python: Path
    log: Path
    lock: int | None = None

    def install(self, arguments: list[str], total: int | None = None) -> tuple[int, str]:
        """Run `pip install` with these arguments, showing progress; return (status, output)."""
        options = ["--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
        command = [str(self.python), *PIP, "install", *options, *arguments]
        return run_logged(command, self.log, Progress(total), self.lock)

    def uninstall(self, name: str) -> None:
        """Take a package away, if it is there."""
        run_logged([str(self.python), *PIP, "uninstall", "--yes", name], self.log, lock=self.lock)


def install_locked(pip: Pip, requirements: list[str], listing: Path) -> None:
    """Install exact versions without looking at their needs: the lock names every one of them.

    listing: file to write the requirement lines to, for pip to read. Raises SetupError with pip's
    last lines.
    """
    if not requirements:
        return
    began = time.monotonic()
    listing.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    say("packages at the locked versions, about 190 MB to download if none is cached")
    status, output = pip.install(["--no-deps", "-r", str(listing)], len(requirements))
    if status:
        raise SetupError(
            f"pip failed:\n{tail(output)}\n{advise(output)}. The whole output is in {pip.log}"
        )
    say(f"packages ready ({time.monotonic() - began:.0f} s)")


def find_card(root: Path) -> dict | None:
    """The card to install torch for, as `harness/ground/cards.py` of this checkout knows it; None
    without one.
    """
    command = [sys.executable, "-I", str(root / "harness" / "ground" / "cards.py")]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )
    return first_card(done.stdout)


def first_card(listing: str) -> dict | None:
    """Of the cards in that list the first that a build of torch serves here and now, else the
    first.
    """
    cards = json.loads(listing)
    return next((card for card in cards if card["index"] is not None), cards[0] if cards else None)


@dataclass(frozen=True)
class Source:
    """One place to take torch from.

    It has words for the terminal, arguments for pip, and whether to give up quickly.
    """

    words: str
    arguments: tuple[str, ...]
    brief: bool = False


def torch_sources(locked: str, index: str | None, card: dict | None, platform: str) -> list[Source]:
    """Where to take torch from, in this order, until one works.

    locked: the lock's line (`torch==...`). index: what the user asked for. card: of `find_card`.
    PyPI's torch for Linux is the CUDA build, gigabytes that a machine without a card has no use
    for; pytorch.org has the small one.
    """
    if index is not None:
        asked = ("--index-url", index)
        oldest = "torch>=" + ".".join(str(part) for part in OLDEST_TORCH)
        return [
            Source(f"from {index}", (locked, *asked)),
            Source(f"any from {oldest[7:]} on from there", (oldest, *asked)),
        ]
    if not platform.startswith("linux"):
        return [Source("from the default index, about 200 MB", (locked,))]
    why = "no card here that torch could use"
    if card is not None and card["index"] is not None:
        words = (
            f"the build for the {card['name']} (driver {card['driver']}): about 3 GB to download, 5"
            " GB on disk"
        )
        return [Source(words, (locked, *(("--index-url", card["index"]) if card["index"] else ())))]
    if card is not None:
        mend = f"it needs --torch-index {card['ask']}" if card["ask"] else "a night says why"
        why = f"the {card['name']} cannot be used yet ({mend})"
    return [
        Source(
            f"{why}, so pytorch.org's CPU build, about 200 MB, if it answers within seconds",
            (locked, "--index-url", PYTORCH_CPU_INDEX, *BRIEFLY),
            brief=True,
        ),
        Source(
            "from the default index instead; on PyPI that is the CUDA build,"
            " about 3 GB to download, 5 GB on disk",
            (locked,),
        ),
    ]


def install_torch(pip: Pip, sources: list[Source]) -> None:
    """Install torch, and what its build needs, from the first source that has it.

    Raises SetupError when none has.
    """
    began = time.monotonic()
    output = ""
    for source in sources:
        say(f"torch: {source.words}")
        status, output = pip.install(list(source.arguments))
        # It answered, then broke off: worth some patience.
        if status and source.brief and "Downloading " in output:
            say("torch: the download broke off; once more")
            patient = [word for word in source.arguments if word not in BRIEFLY]
            status, output = pip.install(patient)
        if not status:
            say(f"torch ready ({time.monotonic() - began:.0f} s)")
            return
    raise SetupError(
        f"torch could not be installed:\n{tail(output)}\n{advise(output)}."
        f" The whole output is in {pip.log}."
        " https://pytorch.org/get-started/locally shows the index for your machine:"
        " give it as --torch-index URL, or install torch yourself and start this with that python"
    )
