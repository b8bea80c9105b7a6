"""What a run has tried, as text for a prompt: a table of all attempts, near misses, constants,
curves, diffs.

In: the history as plain rows, and how many tokens there are. Out: text that fits. Every attempt
keeps its line, with its outcome and cause; older lines lose columns when the room is short, and
only when even that is too much are the oldest counted together. Titles and causes are the words of
others: cleaned, on one line, cut.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.search.duplicates import read_file
from harness.search.llm.quoting import clean, fence, head_and_tail, one_line
from harness.search.llm.tokens import count_tokens
from harness.search.turns import near_misses

FULL, SHORT, BRIEF = range(3)
# Lines lose detail in steps, so that a prompt begins as the one before, which a server has cached.
STEP = 20
OLD_STEP = 100  # the same for all but the newest
CURVE = ("10", "25", "50", "75", "100")  # % of the budget
MOST_VALUES = 8  # of one constant
DIFF_CHARACTERS = 2500

Row = Mapping[str, Any]

COLUMNS = (
    "One line an experiment, oldest first: number | val_bpb | delta | sigmas | MB | tok/s | "
    "category | outcome | idea | cause. delta: val_bpb against the incumbent of that time, "
    "negative is better; sigmas: the same in sigma of one run. Older lines have fewer columns: "
    "number | delta | sigmas | category | outcome | idea | cause, or number delta outcome: idea "
    "(cause)."
)


def table_of_attempts(history: Sequence[Row], most_tokens: int) -> str:
    """Return all attempts, a line each; where room is short the oldest lose columns first."""
    size = len(history)
    recent = max(0, (size // STEP - 1) * STEP)
    lines = [[attempt_line(row, detail) for detail in (FULL, SHORT, BRIEF)] for row in history]
    tokens = [[count_tokens(line) + 1 for line in forms] for forms in lines]
    details = [FULL] * size
    used = count_tokens(COLUMNS) + sum(counts[FULL] for counts in tokens)
    old, new = (0, recent, OLD_STEP), (recent, size, STEP)
    for detail, (begin, end, step) in ((SHORT, old), (BRIEF, old), (SHORT, new), (BRIEF, new)):
        for start in range(begin, end, step):
            if used <= most_tokens:
                break
            for i in range(start, min(start + step, end)):
                used += tokens[i][detail] - tokens[i][details[i]]
                details[i] = detail
    shown = [lines[i][detail] for i, detail in enumerate(details)]
    for cut in range(0, size + STEP, STEP):
        used -= sum(counts[BRIEF] for counts in tokens[max(0, cut - STEP) : cut])
        counted = _counted(history[:cut]) if used <= most_tokens else []
        if used + count_tokens("\n".join(counted)) <= most_tokens:
            return "\n".join([COLUMNS, *counted, *shown[cut:]])
    return "\n".join([COLUMNS, *_counted(history)])


def attempt_line(row: Row, detail: int = FULL) -> str:
    """Return an experiment's line."""
    number, delta, sigmas = row["experiment"], _delta(row), _sigmas(row)
    outcome, category = _outcome(row), row.get("category") or ""
    unwell = row.get("status") != "ok" or row.get("decision") == "quarantine"
    cause = row.get("cause") if unwell else ""
    if detail == BRIEF:
        why = f" ({one_line(cause, 24)})" if cause else ""
        return f"{number} {delta} {outcome}: {one_line(row.get('title'), 32)}{why}"
    if detail == SHORT:
        measured, words = [delta, sigmas], [one_line(row.get("title"), 64), one_line(cause, 60)]
    else:
        score = "-" if row.get("val_bpb") is None else f"{row['val_bpb']:.5f}"
        memory, speed = _whole(row.get("memory_mb")), _whole(row.get("tok_per_sec"))
        measured = [score, delta, sigmas, memory, speed]
        words = [one_line(row.get("title"), 100), one_line(cause, 160)]
    cells = [str(number), *measured, category, outcome, *words]
    return " | ".join(cell for cell in cells if cell)


def near_miss_lines(history: Sequence[Row], most: int = 8) -> str:
    """Return the near misses with what was hoped of them, best first."""
    return "\n".join(
        f"{row['experiment']} | {_delta(row)} | {_sigmas(row)} | {one_line(row.get('title'), 80)}"
        f" | {one_line(row.get('hypothesis'), 200)}"
        for row in near_misses(history)[:most]
    )


def constants_tried(history: Sequence[Row], values: Mapping[str, Any]) -> str:
    """Return what values of the incumbent's constants were tried, and what came of each.

    Only experiments that changed nothing but numbers count; + after a value: others changed too.
    """
    by_number = {row["experiment"]: row.get("constants") or {} for row in history}
    tried: dict[str, dict[str, str]] = {}
    for row in history:
        before, after = by_number.get(row.get("parent")), row.get("constants")
        if row.get("category") != "tune" or not before or not after:
            continue
        changed = [name for name in after if name in before and after[name] != before[name]]
        for name in changed:
            value = f"{_value(after[name])}{'+' * (len(changed) > 1)}"
            tried.setdefault(name, {}).pop(value, None)  # the newest last
            tried[name][value] = _delta(row) if row.get("gain") is not None else _outcome(row)
    return "\n".join(
        f"{name} (now {_value(values[name])}): "
        + "; ".join(f"{value} {found}" for value, found in list(tried[name].items())[-MOST_VALUES:])
        for name in values
        if name in tried
    )


def training_curves(history: Sequence[Row], incumbent: int, most: int = 5) -> str:
    """Return losses, speed and memory of the baseline, the incumbent and the last attempts."""
    with_curve = [row for row in history if row.get("losses")]
    chosen = {row["experiment"]: row for row in with_curve if row["experiment"] in (0, incumbent)}
    chosen |= {row["experiment"]: row for row in with_curve[-most:]}
    lines = []
    for number, row in sorted(chosen.items()):
        losses = [row["losses"].get(share) for share in CURVE]
        curve = "  ".join("-" if loss is None else f"{loss:.4f}" for loss in losses)
        name = {0: "baseline", incumbent: "incumbent"}.get(number) or _outcome(row)
        speed, steps = _whole(row.get("tok_per_sec")), _whole(row.get("num_steps"))
        memory = _whole(row.get("memory_mb"))
        lines.append(f"{number} ({name}) | {curve} | {speed} tok/s | {steps} steps | {memory} MB")
    return "\n".join(lines)


def diffs_worth_seeing(history: Sequence[Row]) -> list[str]:
    """Return the diffs of the largest gains that were kept, then of the best near misses."""
    kept = [row for row in history if row.get("decision") == "keep" and row.get("gain") is not None]
    rows = [*sorted(kept, key=lambda row: -row["gain"])[:3], *near_misses(history)[:2]]
    return [text for row in rows if (text := diff_of(row))]


def diff_of(row: Row, most_characters: int = DIFF_CHARACTERS) -> str:
    """Return an experiment's diff under a heading, "" where its folder is gone."""
    if not (diff := read_file(row, "train.diff")):
        return ""
    outcome = f"{_outcome(row)}, {_delta(row)}"
    heading = f"Experiment {row['experiment']} ({outcome}): {one_line(row.get('title'), 100)}"
    return f"{heading}\n{fence(head_and_tail(clean(diff), most_characters), 'diff')}"


def _counted(rows: Sequence[Row]) -> list[str]:
    """Return a line for each category and outcome of rows that lost the lines of their own."""
    if not rows:
        return []
    counts = Counter((row.get("category") or "", _outcome(row)) for row in rows)
    first, last = rows[0]["experiment"], rows[-1]["experiment"]
    return [
        f"{first} to {last}, {count} of {category}: {outcome}"
        for (category, outcome), count in counts.most_common()
    ]


def _outcome(row: Row) -> str:
    """Return how an experiment ended, in a word or three."""
    if row.get("status") not in ("ok", None):
        return str(row["status"])
    decision, kind = row.get("decision") or "undecided", row.get("kind")
    if decision == "discard" and kind in ("within noise", "worse"):
        return "noise" if kind == "within noise" else "worse"
    return f"{decision}, {kind}" if decision == "keep" and kind == "simplification" else decision


def _delta(row: Row) -> str:
    gain = row.get("gain")
    return "-" if gain is None else f"{-gain:+z.5f}"


def _sigmas(row: Row) -> str:
    gain, sigma = row.get("gain"), row.get("sigma")
    return "-" if gain is None or not sigma else f"{-gain / sigma:+z.1f}"


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else one_line(value, 24)
