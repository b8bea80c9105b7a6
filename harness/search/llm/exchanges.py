"""Every request to the language model and every reply, saved; what they cost; what may be spent.

In: request bodies (never headers), replies as they came, the options with budgets and prices. Out:
`exchange/NN.json` in a proposal's folder, each with its request before that is sent and its reply
before that is read; NN.txt, the answer for people to read; lines in the run's ledger, `llm.jsonl`;
sums of both.

    sent (the most it can cost) -> answered (what the server counted)
                                 | failed (nothing, or the most, where it may have been paid for)

The ledger alone is what budgets count, so a killed process, a resumed night and a proposal whose
folder is gone count in full. A request that got its reply before the process was killed is not
sent, and not paid, again. Refuses a request that could overrun a budget.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.ground.clock import utc_now
from harness.ground.files import (
    append_whole,
    read_json,
    sync_folder,
    write_json_atomic,
    write_text_atomic,
)
from harness.search.llm.endpoint import LlmOptions
from harness.search.llm.failures import LlmError
from harness.search.llm.quoting import without_invisible

FORMAT_VERSION = 1
BYTES_PER_TOKEN = 3  # code and English have 3.5 to 4.5, so that this counts rather too many


@dataclass(frozen=True)
class Usage:
    """What requests took, those that reached a server.

    estimated: part of it is our count, as no server said. cost_usd: None where no price is known.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    estimated: bool = False

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


COUNTED = {each.name for each in dataclasses.fields(Usage)}  # what each line of a call says


@dataclass
class Ledger:
    """A run's calls, the last word on each.

    dropped: {(base_url, model, parameter) that a server did not take: the experiment of that}.
    """

    calls: dict[int, dict] = field(default_factory=dict)
    dropped: dict[tuple[str, str, str], int] = field(default_factory=dict)
    began: datetime | None = None

    def usage(self, **place: int) -> Usage:
        """The sum over the run, or over one place in it (experiment=3, attempt=0)."""
        calls = [call for call in self.calls.values() if call.items() >= place.items()]
        counts = ("requests", "prompt_tokens", "completion_tokens")
        sums = {name: sum(call[name] for call in calls) for name in counts}
        costs = [call["cost_usd"] for call in calls]
        cost = None if not costs or None in costs else round(sum(costs), 6)
        return Usage(**sums, cost_usd=cost, estimated=any(call["estimated"] for call in calls))


def read_ledger(path: str | os.PathLike[str]) -> Ledger:
    """Read a run's ledger; an empty one where there is none. A line that a kill cut is skipped."""
    ledger = Ledger()
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ledger
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["event"] == "dropped":
                where = (entry["base_url"], entry["model"], entry["parameter"])
                ledger.dropped[where] = entry["experiment"]
                continue
            ledger.began = ledger.began or datetime.fromisoformat(entry["time"])
            if entry.keys() >= COUNTED:
                ledger.calls[entry["call"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return ledger


def estimate_tokens(value: str | list[Mapping[str, str]]) -> int:
    """About how many tokens a text or a request's messages are, rather too many than too few."""
    text = value if isinstance(value, str) else "".join(message["content"] for message in value)
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


class Exchanges:
    """The exchanges of one proposal. place: {"experiment": n, "attempt": n}.

    since: the first experiment of this start of the night.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        ledger: str | os.PathLike[str],
        options: LlmOptions,
        place: Mapping[str, int],
        since: int = 0,
    ) -> None:
        self.folder, self.ledger_path = Path(folder), Path(ledger)
        self.options, self.place, self.since = options, dict(place), since

    def saved_replies(self, body: Mapping[str, Any]) -> list[tuple[int, str]]:
        """(number, reply) of each earlier exchange with this very request that was answered."""
        saved = {number: self._read(number) for number in self._numbers()}
        return [
            (number, entry["reply"])
            for number, entry in saved.items()
            if entry.get("status") == 200 and entry.get("request") == body
        ]

    def begin(self, body: Mapping[str, Any]) -> int:
        """Save a request that is about to be sent; return its number.

        Raises LlmError when it could overrun a budget, before anything is saved.
        """
        ledger = read_ledger(self.ledger_path)
        prompt = estimate_tokens(body["messages"])
        most = self._usage(prompt, self.options.max_output_tokens, estimated=True)
        self._check_budgets(ledger, most)
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max(self._numbers(), default=0) + 1
        call = max(ledger.calls, default=0) + 1
        about = {"format_version": FORMAT_VERSION, "call": call, **self.place}
        about |= {"base_url": self.options.base_url, "sent": utc_now(), "request": dict(body)}
        write_json_atomic(self._path(number), about)
        self._append("sent", call, most)
        return number

    def save_reply(self, number: int, status: int, text: str) -> None:
        """Save a reply as it came, before anybody reads it."""
        self._add(number, received=utc_now(), status=status, reply=text)

    def write_readable(self, number: int, first: str, parts: Mapping[str, str]) -> None:
        """Write NN.txt beside an exchange, for people: a first line, {heading: text}.

        Control characters go: a terminal would obey them.
        """
        parts = {heading: body.strip() for heading, body in parts.items() if body.strip()}
        sections = [f"--- {heading} ---\n{body}" for heading, body in parts.items()]
        text = "\n\n".join([first, *sections])
        path = self._path(number).with_suffix(".txt")
        write_text_atomic(path, without_invisible(text) + "\n")

    def answered(
        self, number: int, prompt_tokens: int | None, completion_tokens: int | None, answer: str
    ) -> Usage:
        """Note in the ledger what an exchange took, and return that.

        None: the server did not say, so it is estimated and flagged.
        """
        entry = self._read(number)
        estimated = None in (prompt_tokens, completion_tokens)
        if prompt_tokens is None:
            prompt_tokens = estimate_tokens(entry["request"]["messages"])
        if completion_tokens is None:
            completion_tokens = estimate_tokens(answer)
        usage = self._usage(prompt_tokens, completion_tokens, estimated)
        before = read_ledger(self.ledger_path).calls.get(entry["call"], {})
        if before.get("event") != "answered":  # a reply that is read again was counted before
            self._append("answered", entry["call"], usage)
        return usage

    def failed(self, number: int, error: LlmError) -> None:
        """Note that an exchange came to nothing.

        Where the server may have answered into the void it keeps counting as the most it can cost.
        """
        entry = self._add(number, failure={"kind": error.kind, "message": str(error)})
        if not error.billed:
            arrived = error.kind != "unreachable"
            nothing = dataclasses.replace(self._usage(0, 0), requests=int(arrived))
            self._append("failed", entry["call"], nothing, kind=error.kind)

    def drop(self, model: str, parameter: str) -> None:
        """Remember that a model does not take a parameter."""
        where = {"base_url": self.options.base_url, "model": model, **self.place}
        self._append_line({"event": "dropped", "time": utc_now(), **where, "parameter": parameter})

    def dropped(self, model: str) -> set[str]:
        """The parameters that a model did not take since the night was started."""
        known, here = read_ledger(self.ledger_path).dropped.items(), (self.options.base_url, model)
        return {where[2] for where, when in known if where[:2] == here and when >= self.since}

    def usage(self) -> dict[str, Any]:
        """What this proposal took so far, as it goes into proposal.json."""
        return dataclasses.asdict(read_ledger(self.ledger_path).usage(**self.place))

    def _check_budgets(self, ledger: Ledger, most: Usage) -> None:
        """Raise LlmError where the next request could overrun a budget. most: it can take."""
        options, spent = self.options, ledger.usage()
        dollars = sum(self._cost(call) for call in ledger.calls.values())
        hours = timedelta(hours=options.budget_hours)
        said = ""
        if 0 < options.budget_requests <= spent.requests:
            said = f"all {options.budget_requests:,} requests of budget_requests are made"
        elif 0 < options.budget_tokens < spent.tokens + most.tokens:
            said = (
                f"{spent.tokens:,} of budget_tokens={options.budget_tokens:,} are spent, and the "
                f"next request can take {most.tokens:,}"
            )
        elif 0 < options.budget_usd < dollars + (most.cost_usd or 0.0):
            said = (
                f"{dollars:.4f} of budget_usd={options.budget_usd:g} are spent, and the next "
                f"request can cost {most.cost_usd:.4f}"
            )
        elif hours and ledger.began and datetime.now(UTC) - ledger.began > hours:
            said = f"the {options.budget_hours:g} hours of budget_hours are over"
        if said:
            raise LlmError("budget", f"{said}; give more with --llm")

    def _cost(self, call: Mapping[str, Any]) -> float:
        """A call's cost; by the present prices where none was known when it was made."""
        known = call["cost_usd"]
        if known is None:
            known = self._usage(call["prompt_tokens"], call["completion_tokens"]).cost_usd
        return known or 0.0

    def _usage(self, prompt_tokens: int, completion_tokens: int, estimated: bool = False) -> Usage:
        """One request's usage, with its cost where the prices are known."""
        read, written = self.options.price_input, self.options.price_output
        cost = None
        if read is not None and written is not None:
            cost = round((prompt_tokens * read + completion_tokens * written) / 1e6, 8)
        return Usage(1, prompt_tokens, completion_tokens, cost, estimated)

    def _numbers(self) -> list[int]:
        names = (path.stem for path in self.folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:02d}.json"

    def _read(self, number: int) -> dict:
        return read_json(self._path(number))

    def _add(self, number: int, **fields: Any) -> dict:
        """Add fields to an exchange's file; return all that is in it."""
        entry = self._read(number) | fields
        write_json_atomic(self._path(number), entry)
        return entry

    def _append(self, event: str, call: int, usage: Usage, **more: Any) -> None:
        about = {"event": event, "call": call, "time": utc_now(), **self.place}
        self._append_line(about | dataclasses.asdict(usage) | more)

    def _append_line(self, entry: Mapping[str, Any]) -> None:
        before = self.ledger_path.read_bytes() if self.ledger_path.exists() else b""
        # A line that a kill cut is closed, so that it spoils no other.
        cut = before and not before.endswith(b"\n")
        with self.ledger_path.open("ab", buffering=0) as file:
            line = (b"\n" if cut else b"") + json.dumps(entry).encode() + b"\n"
            append_whole(file, line, sync=True)
        if not before:
            sync_folder(self.ledger_path.parent)
