"""Make results/sample/ of a finished run: what notebook 04 and the README show on a fresh clone.

    python scripts/make_sample.py results/demo "two CPU cores, beside nothing else"

In: a run's folder, and words on where it ran. Out: results/sample/ without what is heavy (weights, losses, caches), what is
made again (executed pages), and what names this machine's folders. The chart and the report are made of it anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.show.report import write_report

SAMPLE = ROOT / "results" / "sample"
KEPT = {
    *("run.json", "journal.jsonl", "close_out.jsonl", "results.tsv", "program.md", "provenance.json", "model_text.json"),
    *("proposal.json", "train.py", "train.diff", "events.jsonl", "result.json", "run.log"),
}
FOLDERS = ("best", "experiments")
README = """# A real run, committed

`python3 scripts/overnight.py --demo` on a fresh clone, {where}, {day}, commit {commit}.
The chart in the top README and what `notebooks/04_analysis.ipynb` shows on a fresh clone come from it. Made by `scripts/make_sample.py`: left out are
weights, losses, executed pages, and the names of folders of the machine that it ran on. All else is as the run left it.
"""


def shortened(value: object) -> object:
    """JSON with each absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shortened(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") and "\n" not in value else value


def without_folders(path: Path) -> str:
    """The text of a file, absolute paths in JSON cut to their last part."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return "".join(json.dumps(shortened(json.loads(line)), ensure_ascii=False) + "\n" for line in text.splitlines())
    return json.dumps(shortened(json.loads(text)), ensure_ascii=False, indent=1) + "\n" if path.suffix == ".json" else text


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run, where = Path(sys.argv[1]).resolve(), sys.argv[2]
    shutil.rmtree(SAMPLE, ignore_errors=True)
    files = [path for path in run.iterdir() if path.is_file()]
    files += [path for folder in FOLDERS for path in (run / folder).rglob("*") if path.is_file()]
    for path in files:
        if path.name in KEPT and (path.name != "run.json" or path.parent == run):  # a training's own names folders alone
            target = SAMPLE / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(without_folders(path), encoding="utf-8")
    words = README.format(where=where, day=date.today(), commit=json.loads((run / "run.json").read_text())["base_commit"][:10])
    (SAMPLE / "README.md").write_text(words, encoding="utf-8")
    print(write_report(SAMPLE))


if __name__ == "__main__":
    main()
