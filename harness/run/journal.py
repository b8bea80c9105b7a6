"""The journal of a run: append-only, one fsynced JSON line per change of state.

In: events with the fields of `events.EVENTS`. Out: the entries, from which everything else can be
derived. Refuses a journal damaged anywhere but in its last line, which a kill may have cut.

    opened -> proposed -> checked -> run_started -> trained -> scored -> (run_started ...)
           -> (audited ...) -> decided -> committed -> proposed ...

An idea that was refused or failed early is proposed again as a further attempt, if its proposer can
repair it; `unrepaired` says that it could not. A training of kind `refresh` trains the incumbent
again, beside an idea that may replace it, and counts as one of the incumbent's. `audited` comes for
each training of an idea that is about to be kept. Between two experiments may come `ruled`, what a
person decided on an experiment in quarantine, and `controlled`, a trial of the best file after
several ideas failed alike.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness.ground.clock import utc_now
from harness.ground.errors import JournalError
from harness.ground.files import append_whole, sync_folder, write_bytes_atomic
from harness.run.events import EVENTS


def read_journal(path: str | os.PathLike[str]) -> list[dict]:
    """The journal's entries; [] when there is none. See JournalReader."""
    return JournalReader(path).entries()


def parse_entry(line: bytes, seq: int) -> dict | None:
    """The entry on a line of the journal; None when it is no whole entry with that number."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and entry.get("seq") == seq and entry.get("event") in EVENTS
    return entry if whole else None


class JournalReader:
    """A growing journal: each look parses only what was added since the last."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._entries: list[dict] = []
        self._read = b""  # the lines of these entries

    def entries(self) -> list[dict]:
        """All whole entries so far: a last line that was cut short is left out.

        Raises JournalError where another line is damaged, and where what was read before has
        changed: nothing but edits does that.
        """
        raw = self.path.read_bytes() if self.path.exists() else b""
        if not raw.startswith(self._read):
            raise JournalError(
                f"{self.path} was changed while this process watched it, in lines that it had "
                "read: restore it from a backup, or start a new tag"
            )
        lines = raw.split(b"\n")
        for number in range(len(self._entries), len(lines)):
            entry = parse_entry(lines[number], number)
            if entry is not None:
                self._entries.append(entry)
            elif any(rest.strip() for rest in lines[number + 1 :]):
                raise JournalError(
                    f"{self.path}, line {number + 1} is damaged: "
                    "restore the file from a backup, or start a new tag"
                )
            else:
                break
        self._read = b"\n".join(lines[: len(self._entries)])
        return self._entries


class Journal:
    """The journal open for appending, by the one process that holds the run's lock.

    mended: what was put aside when it was opened, in words; "" for nothing.
    """

    def __init__(self, path: str | os.PathLike[str], mend: bool = True) -> None:
        self.path = Path(path)
        self.entries = read_journal(self.path)
        self.mended = self._mend_tail() if mend else ""

    def _mend_tail(self) -> str:
        """Put a damaged end aside as journal.jsonl.cut, so that the next line starts on its own.

        A whole entry that lacks only its line end stays. Returns what was done.
        """
        raw = self.path.read_bytes() if self.path.exists() else b""
        whole = b"".join(line + b"\n" for line in raw.split(b"\n")[: len(self.entries)])
        if whole == raw:
            return ""
        rest, words = raw[len(whole) :], ""
        if rest:
            aside = self.path.with_suffix(".jsonl.cut")
            with aside.open("ab", buffering=0) as file:
                append_whole(file, rest + b"\n", sync=True)
            words = (
                f"the journal ended in the middle of a line ({len(rest)} bytes), as a kill or a "
                f"power cut leaves it: they were put aside in {aside.name}"
            )
        write_bytes_atomic(self.path, whole)
        return words

    def append(self, event: str, **fields: object) -> None:
        """Write one entry, synced to disk before this returns.

        On OSError (a full disk) the journal is as it was.
        """
        assert not (unknown := fields.keys() - EVENTS[event].keys()), (event, unknown)
        entry = {"seq": len(self.entries), "time": utc_now(), "event": event} | fields
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            append_whole(file, line, sync=True)
        if not self.entries:
            sync_folder(self.path.parent)
        self.entries.append(entry)
