"""What a card did while a training was on its clock, seen from outside, and who else used it.

In: which card, the training's first process. Out: clock, temperature, energy and memory, by
nvidia-smi once a second, and how long the training waited for a core; or None where nothing can be
known. Slowdown by heat or hardware, others on the card and a starved host disturb a training: its
score would say little. The software's power cap does not; it is normal on a loaded card, and partly
the idea's own doing. Nor does what the run's first training met as much of: some laptops are never
cool, some cards always draw a desktop, and trainings there compare with one another. Nor does
waiting for cores that the training itself keeps busy: one that could have itself repeated would
choose its best run.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import psutil

from harness.ground.cards import lines_of
from harness.ground.cgroup import cpu_count
from harness.ground.files import read_json
from harness.ground.parent import ending_with_me

FIELDS = ("clocks.sm", "temperature.gpu", "power.draw", "memory.used")
# What newer drivers call it, and what older ones do; and its bits for slowdown by hardware, by heat
# in software and in hardware, and the power brake (nvml.h, "nvmlClocksEventReasons").
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
SLOWDOWN = 0x08 | 0x20 | 0x40 | 0x80
MOST = 0.05  # of the time, and of others' use of the card
OWN_CORES = 0.5  # share of all cores from which on it is the training itself that it waits for
LEAST_SECONDS = 30.0  # of a training that is judged by it: shorter ones only try something out
CSV = "--format=csv,noheader,nounits"


class CardWatch:
    """Hears a training's events and leaves `facts`. Ends what it started with the context.

    uuid: of `harness.training.devices.Device`, "" where there is no card to watch; folder: the
    training's, where its process is noted.
    """

    def __init__(self, uuid: str, folder: Path) -> None:
        self._tool, self._card, self._folder = (
            shutil.which("nvidia-smi"),
            f"--id=GPU-{uuid}",
            folder,
        )
        self._reasons = find_reasons(self._tool, self._card) if self._tool and uuid else None
        self._open = contextlib.ExitStack()
        self._said: list[BinaryIO] = []
        self.facts: dict | None = None

    def __enter__(self) -> CardWatch:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def hear(self, event: dict) -> None:
        """Watch from `ready` to `stop`: then the training is still there, and off its clock."""
        if event["event"] == "ready" and self._reasons:
            self._start()
        elif event["event"] == "stop" and self._said:
            self.facts = self._look()

    def _start(self) -> None:
        self._pid = read_json(self._folder / "process.json")["pid"]
        self._family, self._began = family_of(self._pid), time.monotonic()
        self._waited, self._used = waited_seconds(self._family), cpu_seconds(self._family)
        query = f"--query-gpu={','.join((*FIELDS, self._reasons))}"
        with contextlib.suppress(OSError):  # no memory for a process: then nothing is known
            samples = self._watch(query, CSV, "--loop-ms=1000")
            self._said = [samples, self._watch("pmon", "-s", "u", "-d", "1")]

    def _watch(self, *options: str) -> BinaryIO:
        """Start the tool, and return the file that it writes into."""
        said = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        process = subprocess.Popen(
            ending_with_me([self._tool, *options, self._card]),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.DEVNULL,
        )
        self._open.callback(process.wait)
        self._open.callback(process.kill)
        return said

    def _look(self) -> dict | None:
        seconds = time.monotonic() - self._began
        waited = waited_seconds(self._family) - self._waited
        # What it has started since is no other's: it could have its run repeated by that.
        own = self._family | family_of(self._pid)
        used = cpu_seconds(own) - self._used
        samples, uses = map(lines_so_far, self._said)
        self._open.close()
        if not (samples := read_samples(samples)):
            return None
        clocks, heat, watts, memory, slowed = zip(*samples, strict=True)
        return {
            "seconds": round(seconds, 1),
            "sm_clock_mhz": known(statistics.median(clocks)),
            "temperature_c": known(max(heat)),
            "energy_joules": known(round(statistics.mean(watts) * seconds, 1)),
            "memory_mb": known(max(memory)),
            "slowed_share": round(statistics.mean(slowed), 3),
            "others_share": read_others(uses, own),
            "waited_share": round(waited / seconds, 3),
            "own_cores_share": round(used / (cpu_count() * seconds), 3),
        }


@functools.cache
def find_reasons(tool: str, card: str) -> str | None:
    """The name of the field that this driver knows."""
    known = (name for name in REASONS if lines_of([tool, card, f"--query-gpu={name}", CSV]))
    return next(known, None)


def lines_so_far(file: BinaryIO) -> list[str]:
    """The whole lines that another process has written into a file, whose place stays as it is.

    It writes a buffer at a time, which may end within a number.
    """
    text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
    return text[: text.rfind(b"\n") + 1].decode(errors="replace").splitlines()


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def family_of(pid: int) -> set[int]:
    """A process and all that it started."""
    with contextlib.suppress(psutil.Error):
        return {pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))}
    return {pid}


def waited_seconds(family: set[int]) -> float:
    """For how long a training's main thread could have run and had no core (Linux)."""
    waited = [0.0]
    for pid in family:
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited.append(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9)
    return max(waited)


def cpu_seconds(family: set[int]) -> float:
    """What the processes of a training have used of all cores so far."""
    used = 0.0
    for pid in family:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            used += times.user + times.system
    return used


def read_samples(lines: list[str]) -> list[tuple[float, ...]]:
    """MHz, degrees, watts, MB, and whether it was slowed down, of each whole line."""
    samples = []
    for line in lines:
        *cells, reasons = line.split(", ")
        with contextlib.suppress(ValueError):  # half a line, or a driver that does not know
            slowed = bool(int(reasons, 16) & SLOWDOWN)
            if len(cells) == len(FIELDS):
                samples.append((*(number(cell) for cell in cells), slowed))
    return samples


def number(cell: str) -> float:
    """nan for what this card does not tell, such as [N/A]."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def read_others(lines: list[str], family: set[int]) -> float | None:
    """The share of the card's time that others had; None where the training itself is not seen, as
    from within some containers."""
    columns, ours, others, ticks = [], False, 0.0, 0
    for line in lines:
        cells = line.strip("# ").split()
        if line.startswith("#"):
            columns = cells if "pid" in cells else columns
            continue
        row = dict(zip(columns, cells, strict=False))
        if not row.get("pid", "").isdigit():
            continue
        mine = int(row["pid"]) in family
        ours, ticks = ours or mine, ticks + mine
        share = row.get("sm", "")
        others += 0.0 if mine or not share.isdigit() else int(share) / 100
    return round(others / max(1, ticks), 3) if ours else None


def why_disturbed(facts: dict | None, usual: dict | None) -> str:
    """Why a training says little, "" where nothing speaks against it.

    usual: facts of the run's first training; None in that one, which shows what is usual here.
    """
    if facts is None or usual is None or facts["seconds"] < LEAST_SECONDS:
        return ""
    told = {
        "slowed_share": "the card was slowed down by heat or its hardware {:.0%} of the time",
        "others_share": "others had {:.0%} of the card",
        "waited_share": "its process waited for a core {:.0%} of the time",
    }
    if (facts.get("own_cores_share") or 0.0) >= OWN_CORES:
        del told["waited_share"]
    return ", ".join(
        words.format(facts[name])
        for name, words in told.items()
        if (facts[name] or 0.0) > MOST + (usual.get(name) or 0.0)
    )
