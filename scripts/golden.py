"""Do a run's commands still say and leave what they did? Times and measured numbers are masked.

    python scripts/golden.py make       write tests/golden/, from the tree as it is
    python scripts/golden.py compare    make it elsewhere and show what differs (exit status 1)

In: this checkout, copied. The run, under the step clock: a baseline, two ideas of the harness, an
idea that is repaired after the gate, a crash, one that is quarantined and accepted, one by `try`,
one that `try` refuses, the claim. Out: the journal, tables, refs, names of files, pages and what
commands print, one text file each. About four minutes, on a machine with nothing else to do: a
start-up that others slow down is a doubt, and a doubt is told. Scores, and so what is kept, depend
on how a processor rounds: before a change is compared on another kind of processor than
best_provenance.json names, make the files there from the tree as it was.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

import nbformat
from checkout import environment, git
from killing.kills import SmallNight, make_checkout
from proposals import leave_proposal

GOLDEN = ROOT / "tests" / "golden"
STEPS = "clock_step_seconds=0.5 budget_seconds=20"
SHORT_REACH = "return 1.0 * torch.tanh(logits / 1.0)"
LONG_REACH = "logits = 15.0 * torch.tanh(logits / 15.0)\n        return logits"
UNSTEADY = (
    "logits = 15.0 * torch.tanh(logits / 15.0)\n"
    "        return F.dropout(logits, 0.02, training=True)"
)
# Numbers that a rule, and not a machine, gives.
COUNTS = {
    *("seq", "experiment", "attempt", "run", "n_runs", "num_steps", "best", "seeds"),
    *("parent", "incumbent", "incumbent_runs", "suspects", "beside", "ok", "kind", "df"),
    *("device_batch_limit", "probes", "n_best", "n_baseline", "experiments", "kept"),
    *("simplified", "discarded", "crashed", "quarantined", "in_quarantine"),
    *("best_experiment", "branch_experiment", "exit"),
}
UNTOLD = ("shared_with",)
MASKS = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?", "<time>"),
    (r"\b[0-9a-f]{7,64}\b", "<hash>"),
    (r"\d[\d,]*\.\d+(e[-+]?\d+)?|\b\d[\d,]*\b|\bnan\b", "#"),
    (r"[-+]#", "#"),
    (r"[█▉▊▋▌▍▎▏░▁▂▃▄▅▆▇]+", "<bar>"),
)
# Lines that say where things stand just now, or who else is there.
VARIES = re.compile(
    r" · |claim: training|[\]>] analysis$|speed of one file|budget counts work|others held|of late"
    r"|slower than|faster than|this takes|on this device too|shared the device"
)


def masked(text: str, *folders: Path) -> str:
    """The text without what differs from machine to machine and from day to day."""
    for folder in folders:
        text = text.replace(str(folder), "<dir>")
    for pattern, by in MASKS:
        text = re.sub(pattern, by, text)
    return (
        "\n".join(
            re.sub(r" +", " ", line).rstrip()
            for line in text.splitlines()
            if not VARIES.search(line)
        )
        + "\n"
    )


def masked_json(value: object, key: str = "", folders: tuple[Path, ...] = ()) -> object:
    """The same of what JSON holds: keys, kinds and counts stay."""
    if isinstance(value, dict):
        return {
            name: masked_json(value[name], name, folders)
            for name in sorted(value)
            if name not in UNTOLD
        }
    if isinstance(value, list) and key != "in_quarantine":
        return [masked_json(each, key, folders) for each in value[:3]] + ["..."] * (len(value) > 3)
    if isinstance(value, str):
        return masked(value, *folders).strip()
    if isinstance(value, bool) or value is None or key in COUNTS:
        return value
    return "#" if isinstance(value, int | float) else value


class Golden:
    """The run and its texts, by file name."""

    def __init__(self, folder: Path) -> None:
        self.checkout = make_checkout(folder / "lab", short_reach=True)
        self.night = SmallNight(self.checkout, folder / "cache", tag="t", wishes=STEPS)
        self.folders = (self.checkout, folder / "cache", folder, Path(sys.executable).parent)
        self.texts: dict[str, str] = {}
        self.said: list[str] = []

    def call(self, *arguments: str, as_json: bool = False) -> None:
        """A command: its exit status and what it says on stdout."""
        command = [sys.executable, "-m", "harness", *arguments]
        told = {
            "cwd": self.checkout,
            "env": environment(self.checkout, self.night.cache),
            "stdin": subprocess.DEVNULL,
        }
        done = subprocess.run(command, capture_output=True, text=True, **told)
        said = (
            json.dumps(masked_json(json.loads(done.stdout), folders=self.folders), indent=1)
            if as_json
            else masked(done.stdout, *self.folders)
        )
        self.said.append(
            f"$ {' '.join(arguments)}\n{said.rstrip()}\nexit status {done.returncode}\n"
        )
        print(f"$ {' '.join(arguments)}: {done.returncode}", flush=True)
        if done.returncode not in (0, 5):
            print(done.stdout[-2000:], done.stderr[-2000:], flush=True)

    def overnight(self, experiments: int) -> None:
        wishes = [word for wish in STEPS.split() for word in ("--set", wish)]
        self.call(
            "overnight",
            "--profile",
            "tiny",
            "--tag",
            "t",
            "--experiments",
            str(experiments),
            *wishes,
        )

    def plant(self, experiment: int, end: str, attempt: int = 0, proposer: str = "golden") -> None:
        """Leave a finished proposal: the baseline's file with another end of forward."""
        source = (self.night.folder / "experiments/0000/attempts/00/train.py").read_text()
        assert source.count(SHORT_REACH) == 1
        source = source.replace(SHORT_REACH, end)
        folder = self.night.folder / f"experiments/{experiment:04d}/attempts/{attempt:02d}"
        facts = {"hypothesis": "it can say more", "proposer": proposer, "parent": 0}
        leave_proposal(folder, source, f"planted {experiment}", **facts)

    def run(self) -> dict[str, str]:
        folder = self.night.folder
        self.overnight(2)
        self.plant(3, "import socket\n        return torch.tanh(logits)", 0, "llm")
        self.plant(3, "return 1.1 * torch.tanh(logits / 1.1)", 1, "llm")
        self.plant(4, "raise ValueError('this idea does not fit')")
        self.plant(5, UNSTEADY)
        self.overnight(5)
        self.call("overnight", "--status", "--json", "--tag", "t", as_json=True)
        self.call("overnight", "--accept", "5", "--tag", "t")
        idea = self.checkout / "idea.py"
        best = (folder / "experiments/0000/attempts/00/train.py").read_text()
        idea.write_text(best.replace(SHORT_REACH, LONG_REACH))
        words = ("--tag", "t", "--idea", "reach 15", "--category", "architecture", "--by", "golden")
        self.call("try", "idea.py", *words, as_json=True)
        self.call("try", "idea.py", *words, as_json=True)
        self.call("overnight", "--close-out", "--tag", "t")
        for command in ("--status", "--check", "--report"):
            self.call("overnight", command, "--tag", "t")
        self.call("overnight", "--status", "--json", "--tag", "t", as_json=True)
        self.call("overnight", "--tag", "other", "--status")
        self.texts["commands.txt"] = "\n".join(self.said)
        for name in ("journal.jsonl", "close_out.jsonl"):
            entries = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            self.texts[name] = "".join(
                json.dumps(masked_json(entry, folders=self.folders)) + "\n" for entry in entries
            )
        for name in (
            "run.json",
            "experiments/0003/attempts/01/proposal.json",
            "best/provenance.json",
            "heartbeat.json",
        ):
            found = masked_json(json.loads((folder / name).read_text()), folders=self.folders)
            self.texts[name.replace("/", "_")] = json.dumps(found, indent=1) + "\n"
        self.texts["results.tsv"] = masked((folder / "results.tsv").read_text())
        self.texts["report.md"] = masked((folder / "report/report.md").read_text(), *self.folders)
        self.texts["index.txt"] = masked(
            text_of(self.night.folder / "notebooks/index.md"), *self.folders
        )
        for path in sorted((folder / "notebooks").glob("*.ipynb")):
            self.texts[f"page_{path.stem}.txt"] = masked(outputs_of(path), *self.folders)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        self.texts["names.txt"] = "\n".join(names) + "\n"
        refs = git(
            self.checkout,
            "for-each-ref",
            "--format=%(refname) %(subject)",
            "refs/experiments",
            "refs/heads",
        )
        self.texts["refs.txt"] = masked(refs)
        return self.texts


def text_of(path: Path) -> str:
    """What a page of HTML says, a tag a line."""
    return re.sub(
        r"\n\s*\n+",
        "\n",
        re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", "\n", path.read_text(encoding="utf-8")),
    )


def outputs_of(path: Path) -> str:
    """What the cells of an executed notebook show, pictures left out."""
    shown = []
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found = data.get("text/html") or output.get("text") or data.get("text/plain", "")
            shown.append(
                re.sub(
                    r"\n\s*\n+",
                    "\n",
                    re.sub(r"(?s)<(style|script|svg).*?</\1>|<[^>]*>", "\n", found),
                )
            )
    return "\n".join(shown)


def differences(found: dict[str, str]) -> list[str]:
    """Lines in which the texts differ from the golden ones."""
    golden = {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()}
    print(f"made anew in {write(found, Path(tempfile.mkdtemp(prefix='golden-')))}", flush=True)
    lines = []
    for name in sorted(golden.keys() | found.keys()):
        before, after = golden.get(name, "").splitlines(), found.get(name, "").splitlines()
        lines += difflib.unified_diff(before, after, f"golden/{name}", name, lineterm="", n=0)
    return lines


def write(found: dict[str, str], folder: Path) -> Path:
    """Put the texts into a folder."""
    folder.mkdir(exist_ok=True)
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = Golden(Path(folder)).run()
    if sys.argv[1:] == ["make"]:
        shutil.rmtree(GOLDEN, ignore_errors=True)
        write(found, GOLDEN)
        return 0
    lines = differences(found)
    print("\n".join(lines) or "all as it was")
    return bool(lines)


if __name__ == "__main__":
    if sys.argv[1:] not in (["make"], ["compare"]):
        sys.exit(__doc__)
    sys.exit(main())
