"""A run's index of its experiments, notebooks/index.md.

In: the journal, and which pages there are. Out: Markdown, since JupyterLab and git hosts follow its
links: those of an HTML file JupyterLab answers with 403. Titles are quoted: proposers wrote them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.ground.files import write_text_atomic
from harness.run.journal import read_journal
from harness.run.pace import cells_of_pace, words_of_pace
from harness.run.records import (
    OUTCOME_WORDS,
    Record,
    baseline_of,
    incumbent_of,
    records_from_journal,
)
from harness.run.run import experiment_of_page, page_name
from harness.show.pages import export_missing
from harness.show.sentences import (
    as_judged,
    claim_on_branch,
    headline,
    quoted,
    say_claim,
    say_counts,
    say_standing,
    signed,
)
from harness.show.stage import in_flight

HEADS = ("val_bpb", "gain", "runs", "steps", "tokens/s", "others' cores")


def write_index(run_dir: str | Path) -> Path:
    """Write notebooks/index.md of a run, and pages whose making was cut off; return its path."""
    run_dir = Path(run_dir)
    entries = read_journal(run_dir / "journal.jsonl")
    folder = run_dir / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "index.md"
    try:
        export_missing(folder, records_from_journal(entries))
    finally:
        write_text_atomic(target, index_text(run_dir, entries))
    return target


def index_text(run_dir: Path, entries: Sequence[dict]) -> str:
    """The index: what came of the night, and a row for each experiment, newest first."""
    records, flight = records_from_journal(entries), in_flight(entries)
    folder = run_dir / "notebooks"
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    rows = [_row(record, present) for record in reversed(records)]
    if flight and all(record.experiment != flight.experiment for record in records):
        cells = [f"{flight.experiment:04d}", f"running: {flight.words}", quoted(flight.title)]
        links = _links(flight.experiment, present)
        rows.insert(0, _line([*cells, *[""] * len(HEADS), links]))
    claimed, tip = claim_on_branch(run_dir, records), incumbent_of(records)
    claim = ""
    if tip and tip.experiment:
        claim = f"{say_claim(records, claimed)} On the branch: {as_judged(records)}."
    others = [
        f"[{name.removesuffix('.ipynb').replace('_', ' ')}]({name})"
        for name in sorted(present)
        if name.endswith(".ipynb") and experiment_of_page(Path(name)) is None and ".cut" not in name
    ]
    parts = [
        f"# {headline(records, claimed)}",
        claim,
        _facts(run_dir.name, records),
        " · ".join(["[the report](../report/report.html)", *others]),
        "\n".join([_line(["#", "outcome", "idea", *HEADS, "pages"]), "|---" * 10 + "|", *rows]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_of_index(text: str) -> dict[int, str]:
    """The row of each experiment in an index, without its links."""
    rows = [line for line in text.splitlines() if re.match(r"\| \d{4} \|", line)]
    return {int(row[2:6]): row.rpartition("|")[0].rpartition("|")[0] for row in rows}


def _facts(tag: str, records: Sequence[Record]) -> str:
    """How many experiments ended how, and what the figures are."""
    base, counts = baseline_of(records), say_counts(records)
    stands = f" {say_standing(records)}." if base else ""
    pace = words_of_pace(base.pace) if base else ""
    speed = f"Steps and speed are of one training, the baseline's {pace}. " if pace else ""
    return (
        f"Run {tag}. {counts}.{stands} Scores in bits per byte; a gain is over what was on the "
        f"branch then. {speed}Titles are the proposers' words."
    )


def _row(record: Record, present: set[str]) -> str:
    score = "" if record.val_bpb is None else f"{record.val_bpb:.4f}"
    outcome = OUTCOME_WORDS[record.outcome]
    if record.outcome == "crashed" and record.status != "crash":
        outcome = f"crashed ({record.status.replace('_', ' ')})"
    figures = (score, signed(record.gain), str(record.n_runs or ""), *cells_of_pace(record.pace))
    head = (f"{record.experiment:04d}", outcome, quoted(record.title))
    return _line([*head, *figures, _links(record.experiment, present)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _links(experiment: int, present: set[str]) -> str:
    """The pages of an experiment that there are."""
    name = page_name(experiment)
    files = ((f"{name}.ipynb", "notebook"), (f"{name}.html", "page"))
    return " ".join(f"[{word}]({file})" for file, word in files if file in present)
