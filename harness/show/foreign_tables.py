"""Tables of other people's nights: whatever has a number for each experiment, by its columns.

In: the cells of a table. Out: rows with a score, an outcome and words. Columns are found by name,
in any order, and kin names are taken (val_loss, status or result, title or description,
peak_mem_gb); what no name tells is found by what the columns hold. A table without a status is read
by its scores: what beat all before it was kept. Whether more is better is told by what was kept,
else by the score's name. Refused: a table without a column of numbers.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.errors import AnalysisError
from harness.show.table_cells import number_in, read_cells

NAMES = {
    "status": (
        *("status", "decision", "result", "outcome", "verdict", "kept", "keep", "accepted"),
        "action",
    ),
    "title": (
        *("description", "desc", "title", "idea", "change", "summary", "hypothesis"),
        *("note", "notes", "comment", "comments", "name", "label", "what"),
    ),
    "commit": (
        *("commit", "sha", "hash", "commit_hash", "git", "id", "experiment", "exp", "run"),
        *("iteration", "iter", "trial", "step", "#"),
    ),
    "memory": (
        *("memory_gb", "peak_mem_gb", "mem_gb", "vram_gb", "peak_memory_gb"),
        *("memory_mb", "peak_vram_mb", "vram_mb", "peak_mem_mb"),
    ),
}
SCORES = (
    r"val_?bpb",
    r"bpb",
    r"bits_per_byte",
    r"val_?loss",
    r"(val|valid|validation|eval|test)_.*",
    r".*(loss|bpb|ppl|perplexity).*",
    r".*(rmse|mse|mae|error|wer|cer|fid).*",
    r".*(acc|f1|auc|score|metric|reward|bleu|rouge|map|sharpe|elo).*",
    r"value|objective|result",
)
NO_SCORE = re.compile(
    r".*(mem|vram|time|sec|minute|hour|step|param|mfu|tok|lr|rate|depth|width|epoch|seed|batch"
    r"|cost|gpu|flop|date|delta|diff|gain).*"
)
ASIDE = re.compile(r"before|parent|prev|old|baseline|best|target|std|stderr|sem")  # of a score
LOWER = re.compile(
    r"loss|bpb|bpc|ppl|perplexity|error|rmse|(^|_)(mse|mae|mape|wer|cer|fid|nll|err)(_|$)"
)
HIGHER = re.compile(
    r"acc|f1|auc|score|reward|bleu|rouge|(^|_)(map|elo|mfu|r2)(_|$)|sharpe|precision|recall"
    r"|per_sec|flops|speedup|throughput|win_rate"
)
KEPT = (
    *("keep", "kept", "accept", "accepted", "baseline", "success", "improved", "win", "merged"),
    *("best", "yes", "true", "1", "pass", "ok", "new_best", "y"),
)
LOST = (
    *("discard", "discarded", "reject", "rejected", "revert", "reverted", "no", "worse", "false"),
    *("0", "neutral", "drop", "dropped", "n", "fail_metric"),
)
FAILED = (
    *("crash", "crashed", "fail", "failed", "error", "oom", "nan", "timeout", "skip", "skipped"),
    *("invalid", "abort", "aborted", "killed"),
)
UNDER_WAY = ("running", "pending", "queued", "planned", "todo", "in_progress")
KEPT_SIGNS, DISCARDED_SIGNS = "✅✓✔👍", "❌✗✘👎"
SIGNS = str.maketrans(dict.fromkeys(KEPT_SIGNS, "keep") | dict.fromkeys(DISCARDED_SIGNS, "discard"))
WITH_COMMAS = re.compile(r"\W*\d{1,3}(,\d{3})+(\.\d+)?\D*|\W*\d+,\d+\D*")


@dataclass(frozen=True)
class ForeignRow:
    """One experiment. outcome: kept, discarded or crashed; memory: GB; None where not known."""

    score: float | None
    outcome: str
    title: str
    commit: str
    memory: float | None


@dataclass(frozen=True)
class ForeignTable:
    """metric: the name of the column that is the score."""

    rows: list[ForeignRow]
    metric: str
    higher_is_better: bool


def read_foreign_table(path: str | Path) -> ForeignTable:
    """Read a table. Raises AnalysisError with what it lacks."""
    head, rows = read_cells(path)
    names = [re.sub(r"\W+", "_", name.strip().casefold()).strip("_") for name in head]
    names = [name or "#" * (not number) for number, name in enumerate(names)]
    names = names or [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
    columns = {
        name: without_commas([row[number].strip() for row in rows])
        for number, name in reversed(list(enumerate(names)))
        if name
    }
    metric = find_score(columns)
    if metric is None:
        raise AnalysisError(f"{path} has no column of numbers: it has {', '.join(names)}")
    found = find_columns(columns, metric)
    verdicts = [verdict_of(cell) for cell in columns[found["status"]]] if found["status"] else []
    verdicts = verdicts or [""] * len(rows)
    scores = [number_in(cell) for cell in columns[metric]]
    kept = [score for score, verdict in zip(scores, verdicts, strict=True) if verdict == "kept"]
    name = metric if head else "score"
    higher = is_higher_better(name, [score for score in kept if score is not None])
    judged = list(outcomes_of(scores, verdicts, higher))
    return ForeignTable(list(rows_of(columns, found, judged)), name, higher)


def plain(cell: str) -> str:
    """A word of a status as this module writes it."""
    return re.sub(r"\W+", "_", cell.casefold()).strip("_")


def without_commas(cells: list[str]) -> list[str]:
    """A column with points in its numbers: commas are decimal commas, or part thousands where all
    numbers that have one have groups of three digits behind it.
    """
    having = [cell for cell in cells if WITH_COMMAS.fullmatch(cell)]
    thousands = all(re.search(r",\d{3}(\D|$)", cell) and "0," not in cell for cell in having)
    return [
        cell.replace(",", "" if thousands else ".") if cell in having else cell for cell in cells
    ]


def find_score(columns: dict[str, list[str]]) -> str | None:
    """The column that is the score: by its name, among those of numbers; else the first of them,
    rather one with fractions and without a name for something else.
    """
    numeric = [name for name in reversed(columns) if share_of_numbers(columns[name]) >= 0.3]
    for names in ([name for name in numeric if not ASIDE.search(name)], numeric):
        for wanted in SCORES:
            for name in names:
                other = NO_SCORE.fullmatch(name) and "loss" not in name and "bpb" not in name
                if re.fullmatch(wanted, name) and not other:
                    return name
    known = {name for names in NAMES.values() for name in names}
    rest = [name for name in numeric if name not in known]

    def rank(name: str) -> tuple[bool, bool]:
        fractions = any(re.search(r"\d[.,]\d", cell) for cell in columns[name])
        return bool(NO_SCORE.fullmatch(name)), not fractions

    return min(rest, key=rank, default=None)


def find_columns(columns: dict[str, list[str]], metric: str) -> dict[str, str | None]:
    """{kind: name} of NAMES. By name; else the status by its words, the commit as the first column
    where all its cells differ, the title as the longest text.
    """
    found = {
        kind: next((name for name in wanted if name in columns and name != metric), None)
        for kind, wanted in NAMES.items()
    }
    free = [name for name in columns if name not in (metric, *found.values())]
    texts = [name for name in free if share_of_numbers(columns[name]) < 0.3]
    told = (name for name in texts if all(map(verdict_of, filter(None, columns[name]))))
    found["status"] = found["status"] or next(told, None)
    texts = [name for name in texts if name != found["status"] and not NO_SCORE.fullmatch(name)]
    first = list(columns)[-1]  # columns are kept from the last to the first
    apart = first in free and len(set(columns[first])) == len(columns[first])
    if not found["commit"] and apart and texts != [first]:
        found["commit"] = first
    texts = [name for name in texts if name != found["commit"]]
    longest = max(texts, key=lambda name: sum(map(len, columns[name])), default=None)
    found["title"] = found["title"] or longest
    return found


def share_of_numbers(cells: Sequence[str]) -> float:
    filled = [cell for cell in cells if cell not in ("", "-")]
    return sum(number_in(cell) is not None for cell in filled) / len(filled) if filled else 0.0


def verdict_of(cell: str) -> str:
    """What a cell says of an experiment: kept, discarded, failed, under way, or "" for nothing."""
    status = plain(cell.translate(SIGNS))
    words = {status, status.split("_")[0]}
    known = {"failed": FAILED, "kept": KEPT, "discarded": LOST, "under way": UNDER_WAY}
    told = (verdict for verdict, names in known.items() if not words.isdisjoint(names))
    return next(told, "")


def is_higher_better(metric: str, kept: Sequence[float]) -> bool:
    """Whether more is better: as what was kept went, where the name does not say that less is."""
    if LOWER.search(metric):
        return False
    if kept and kept[-1] != kept[0]:
        return kept[-1] > kept[0]
    return bool(HIGHER.search(metric))


def outcomes_of(
    scores: Sequence[float | None], verdicts: Sequence[str], higher: bool
) -> Iterator[tuple[float | None, str]]:
    """Yield (score, outcome) of each row; (None, "") for one that is under way."""
    best: float | None = None
    least = statistics.median([abs(score) for score in scores if score] or [0.0]) / 100
    for score, verdict in zip(scores, verdicts, strict=True):
        failed, kept = verdict == "failed", verdict == "kept"
        # In many tables what has no score has a 0.
        if score is None or (abs(score) < least and (failed or (not higher and not kept))):
            yield None, "" if verdict == "under way" else "crashed"
            continue
        outcome = {"failed": "discarded", "kept": "kept", "discarded": "discarded"}.get(verdict)
        if outcome is None:
            better = best is None or (score > best if higher else score < best)
            outcome = "kept" if better else "discarded"
        best = score if outcome == "kept" else best
        yield score, outcome


def rows_of(
    columns: dict[str, list[str]],
    found: dict[str, str | None],
    judged: Sequence[tuple[float | None, str]],
) -> Iterator[ForeignRow]:
    """Yield the rows in the table's order, but for those under way."""
    for number, (score, outcome) in enumerate(judged):
        said = {kind: columns[name][number] if name else "" for kind, name in found.items()}
        memory = number_in(said["memory"])
        if memory is not None and found["memory"].endswith("mb"):
            memory /= 1024
        commit = said["commit"].lstrip("#").strip() or f"row{number}"
        if outcome:
            yield ForeignRow(score, outcome, said["title"], commit, memory or None)
