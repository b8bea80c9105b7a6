"""Would it pay to end hopeless trainings early? A replay over recorded curves; nothing is trained.

    python scripts/early_stopping.py            print the table
    python scripts/early_stopping.py --write    as results/benchmarks/early_stopping.md, too

In: yardstick_curves.jsonl, a row for each training of the yardstick's nights. A training would be
ended where its mean training loss over the last fifth of the budget so far is above that of the
file that it was made from, at equal progress, by a margin. Never one whose schedule or batch
differs from that file's: its curve says nothing before its end. Out: a line for each place and
margin, with the training time saved and the good trainings that would have been lost.
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

CURVES = ROOT / "results/benchmarks/yardstick_curves.jsonl"
PAGE = ROOT / "results/benchmarks/early_stopping.md"
PLACES = (0.25, 0.5, 0.75)  # of the budget
MARGINS = (0.05, 0.1, 0.2, 0.4)  # nats of the training loss
SHARE = 0.2  # of the budget, that a mean is taken over
# Constants that bend a curve, so that two of them compare at the end alone.
BENT = ("TOTAL_BATCH_SIZE", "WARMUP_RATIO", "WARMDOWN_RATIO", "FINAL_LR_FRAC")


def loss_at(curve: Sequence[float | None], place: float) -> float | None:
    """Mean training loss, nats, over the last SHARE of the budget before a place of it."""
    end = round(place * len(curve))
    seen = [loss for loss in curve[end - round(SHARE * len(curve)) : end] if loss is not None]
    return statistics.mean(seen) if seen else None


def by_experiment(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """The trainings of each file, by proposer, night and experiment."""
    files = defaultdict(list)
    for row in rows:
        files[row["proposer"], row["night"], row["experiment"]].append(row)
    return files


def is_bent(row: dict) -> bool:
    """Whether a file's schedule or batch is not that of the file it was made from."""
    return row["category"] == "schedule" or bool(set(BENT) & set(row["constants_changed"] or ()))


def replay(rows: Sequence[dict], place: float, margin: float) -> dict:
    """How many trainings would be ended, and what that saves and costs.

    better: of those ended, the ones that scored below the mean of the file they were made from;
    kept: the ones whose file another was made from later.
    """
    files = by_experiment(rows)
    parents = {(*key[:2], row["parent"]) for key, own in files.items() for row in own[:1]}
    ended = []
    for key, own in files.items():
        theirs = files.get((*key[:2], own[0]["parent"]), [])
        rival = [loss for each in theirs if (loss := loss_at(each["curve"], place)) is not None]
        for row in own if rival and not is_bent(own[0]) else ():
            loss = loss_at(row["curve"], place)
            if loss is not None and loss > statistics.mean(rival) + margin:
                score = statistics.mean(each["val_bpb"] for each in theirs)
                ended.append((row["val_bpb"] < score, key in parents))
    return {
        "ended": len(ended),
        "saved": len(ended) * (1 - place) / len(rows),
        "better": sum(better for better, _ in ended),
        "kept": sum(kept for _, kept in ended),
    }


def page(rows: Sequence[dict]) -> str:
    """The table, as Markdown."""
    lines = []
    for place in PLACES:
        for margin in MARGINS:
            found = replay(rows, place, margin)
            shares = f"{found['ended'] / len(rows):.0%}", f"{found['saved']:.1%}"
            lines.append([f"{place:.0%}", margin, *shares, found["better"], found["kept"]])
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
