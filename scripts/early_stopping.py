"""Would it pay to end hopeless trainings early? A replay over recorded curves; nothing is trained.

    python scripts/early_stopping.py            print the table
    python scripts/early_stopping.py --write    as results/benchmarks/early_stopping.md, too

In: yardstick_curves.jsonl, a row for each training of the yardstick's nights. A training would be
ended as `harness.rules.hopeless` has it: its training loss over the 5% of the budget before a place
is above that of the file that it was made from by a margin. Never one whose schedule or batch
differs from that file's: its curve says nothing before its end. Out: a line for each margin and
place, and for all places together, with the training time saved and the good trainings lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from benches.markdown import table
from benches.rows import read_rows

from harness.rules.hopeless import is_bent

CURVES = ROOT / "results/benchmarks/yardstick_curves.jsonl"
PAGE = ROOT / "results/benchmarks/early_stopping.md"
PLACES = (0.25, 0.5, 0.75)  # of the budget
MARGINS = (0.05, 0.1, 0.2, 0.4)  # nats of the training loss
POINTS = 20  # of a curve: 5% each


def loss_at(curve: Sequence[float | None], place: float) -> float | None:
    """Training loss, nats, over the last point of the curve before a place of the budget."""
    return curve[round(place * POINTS) - 1]


def by_experiment(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """The trainings of each file, by proposer, night and experiment."""
    files = defaultdict(list)
    for row in rows:
        files[row["proposer"], row["night"], row["experiment"]].append(row)
    return files


def replay(rows: Sequence[dict], places: Sequence[float], margin: float) -> dict:
    """How many trainings would be ended at one of the places, and what that saves and costs.

    better: of those ended, the ones that scored below the mean of the file they were made from;
    kept: the ones whose file another was made from later.
    """
    files = by_experiment(rows)
    parents = {(*key[:2], row["parent"]) for key, own in files.items() for row in own[:1]}
    ended = []
    for key, own in files.items():
        theirs = files.get((*key[:2], own[0]["parent"]), [])
        if not theirs or is_bent(own[0]):
            continue
        score = statistics.mean(each["val_bpb"] for each in theirs)
        for row in own:
            place = next((p for p in places if is_behind(row, theirs, p, margin)), None)
            if place is not None:
                ended.append((1 - place, row["val_bpb"] < score, key in parents))
    saved, better, kept = (sum(each) for each in zip(*ended, strict=True)) if ended else (0, 0, 0)
    return {"ended": len(ended), "saved": saved / len(rows), "better": better, "kept": kept}


def is_behind(row: dict, theirs: Sequence[dict], place: float, margin: float) -> bool:
    """Whether a training's loss at a place is above the mean of those trainings by the margin."""
    losses = [loss for each in theirs if (loss := loss_at(each["curve"], place)) is not None]
    loss = loss_at(row["curve"], place)
    return bool(losses) and loss is not None and loss > statistics.mean(losses) + margin


def page(rows: Sequence[dict]) -> str:
    """The table, as Markdown."""
    lines = []
    for places in (PLACES, *((place,) for place in PLACES)):
        for margin in MARGINS:
            found = replay(rows, places, margin)
            shares = f"{found['ended'] / len(rows):.0%}", f"{found['saved']:.1%}"
            at = ", ".join(f"{place:.0%}" for place in places)
            lines.append([at, margin, *shares, found["better"], found["kept"]])
    nights = len({(row["proposer"], row["night"]) for row in rows})
    experiments = len(by_experiment(rows)) - nights
    heads = ["at", "margin, nats", "ended", "time saved", "better ones lost", "kept ones lost"]
    text = "# Ending hopeless trainings early, replayed\n\nMade by `python "
    text += f"scripts/early_stopping.py --write` from {len(rows)} trainings of {experiments} ideas "
    text += f"in {nights} nights of the yardstick. A training is ended where its training loss is "
    text += "above that of the file it was made from, at equal progress, by the margin; never "
    text += "where schedule or batch differ. *Time saved* is of all trainings' time; *better ones "
    text += "lost* had a score below that file's mean, by noise or in truth; *kept ones lost* are "
    text += "of files that were kept.\n\n"
    return text + table(heads, lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write the page too")
    options = parser.parse_args()
    text = page(list(read_rows(CURVES)))
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
