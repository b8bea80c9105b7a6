"""Measure what the language model is told as a run grows.

Its length, what survives, and what a server's prompt cache can hold.

In: made-up runs of 10, 100, 1,000 and 3,000 experiments (fixed seed; real ideas of the bank, real
constants, curves, crashes, diffs of 80 lines), and the committed template as the incumbent. Out: a
markdown table on the screen; `--write` puts it into results/benchmarks/context.md. Two minutes.
Tokens are counted by harness.search.llm.tokens, with `--count-with` by a real tokenizer too.
"""

import argparse
import importlib
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.search.bank.order import ON_CARDS
from harness.search.constants import parse_constants
from harness.search.llm.options import LlmOptions
from harness.search.llm.prompt import build_messages
from harness.search.llm.tokens import count_tokens
from harness.search.program import parse_program
from harness.search.turns import Turn

TEMPLATE = (ROOT / "train_template.py").read_text(encoding="utf-8")
PROGRAM = (ROOT / "program.md").read_text(encoding="utf-8")
SIZES = (10, 100, 1000, 3000)
CACHE_PAIRS = 20  # prompts compared with the one before
SMALL_CONTEXT = 16_000  # tokens: a local model's
CAUSES = {
    "crash": (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2048x384 and 512x512), in forward"
        " of Attention at line 143"
    ),
    "oom": "out of memory: 812 MB more were asked for, 79,312 MB of 81,559 MB are in use",
    "nan": "the training loss became nan at step 41",
    "timeout": "no weights 60 s after the budget",
    "invalid_patch": "line 12: a constant must be complete on one line",
}
IDEA = (
    "gate the residual stream by a learnt scalar of each head so that early layers may be skipped"
)
PAGE = """\
# What the language model is told, by the length of a run

Made by `python scripts/context_size.py --write --count-with bpe_openai` from made-up runs (fixed
seed), the committed template and program.md. The budget is the option `context_tokens`,
{context_tokens:,} by default; a server that finds that too long is asked with half. *Same
beginning*: the share of a prompt that equals the one before, which a server's prompt cache need not
read again; mean of {cache_pairs}. Keeps of the made-up runs change only the numbers: their
incumbent stays the template.

{lengths}

Where fewer attempts than there were have a line, the oldest are counted together by category and
outcome."""


def make_history(count: int, folder: Path) -> list[dict]:
    """Return the rows of a made-up run of so many experiments, with diffs in the folder."""
    rng = random.Random(7)
    constants = {
        name: c for name, c in parse_constants(TEMPLATE).items() if c.scale in ("linear", "log")
    }
    values = {name: c.value for name, c in parse_constants(TEMPLATE).items()}
    rows, best = [_row(0, "baseline", "baseline", "ok", 1.6, 0.0, values, rng)], 1.6
    for number in range(1, count + 1):
        changed = dict(values)
        if rng.random() < 0.55:
            name = rng.choice(sorted(constants))
            changed[name] = float(f"{values[name] * rng.uniform(0.6, 1.7) + 1e-3:.3g}")
            title, category = f"{name} {values[name]:g} -> {changed[name]:g}", "tune"
        else:
            idea = rng.choice(ON_CARDS)
            words = " ".join(rng.sample(IDEA.split(), 5))
            title, category = f"{idea.title}, {words}", idea.category
        gain = rng.gauss(-0.002, 0.004)
        status = rng.choices(["ok", *CAUSES], [88, 5, 2, 2, 1, 2])[0]
        keep = status == "ok" and gain > 0.0035
        row = _row(number, title, category, status, best - gain, gain, changed, rng, keep)
        row["parent"] = max((r["experiment"] for r in rows if r["decision"] == "keep"), default=0)
        if keep:
            best -= gain
        if category != "tune":
            row["folder"] = str(folder / f"{number:04d}")
            Path(row["folder"]).mkdir(parents=True, exist_ok=True)
            diff = "".join(
                f"+        x = x + self.part_{i}(norm(x)) * {rng.random():.3f}\n" for i in range(80)
            )
            (Path(row["folder"]) / "train.diff").write_text(
                f"--- a/train.py\n+++ b/train.py\n@@ -1,0 +1,80 @@\n{diff}", encoding="utf-8"
            )
        rows.append(row)
    return rows


def _row(
    number: int,
    title: str,
    category: str,
    status: str,
    score: float,
    gain: float,
    constants: dict,
    rng: random.Random,
    keep: bool = False,
) -> dict:
    scored = status == "ok"
    kind = "gain" if keep else "within noise" if abs(gain) < 0.0035 else "worse"
    return {
        "experiment": number,
        "title": title,
        "category": category,
        "operator": category,
        "proposer": "llm" if category != "tune" else "tpe",
        "status": status,
        "hypothesis": f"It should help because {IDEA}, at this size and within this budget.",
        "constants": constants,
        "parent": None,
        "decision": "baseline" if not number else "keep" if keep else "discard",
        "kind": kind if scored else status,
        "folder": "",
        "val_bpb": score if scored else None,
        "gain": gain if scored and number else None,
        "sigma": 0.0018,
        "cause": CAUSES.get(status, kind),
        "memory_mb": 1000 + 400 * rng.random(),
        "tok_per_sec": 15000 + 2000 * rng.random(),
        "num_steps": 2000 + rng.randrange(300),
        "losses": {
            share: 8 / (1 + i) ** 0.6 + rng.random() / 50
            for i, share in enumerate(("10", "25", "50", "75", "100"))
        }
        if scored
        else None,
        "llm_failed": "",
        "n_runs": 1,
    }


def make_request(history: Sequence[dict]) -> dict:
    """Return a request whose history is the given one and whose incumbent is the template."""
    kept = [row for row in history if row["decision"] == "keep"] or [history[0]]
    return {
        "experiment": len(history),
        "attempt": 0,
        "run_seed": 7,
        "out_dir": "unused",
        "program_md": PROGRAM,
        "proposer": "hybrid",
        "parent_train_py": TEMPLATE,
        "parent_experiment": kept[-1]["experiment"],
        "incumbent_val_bpb": kept[-1]["val_bpb"],
        "sigma": 0.0018,
        "history": list(history),
        "repair": None,
        "limits": {"max_seq_len": 512, "n_vocab": 4097, "memory_mb": 81559, "device_kind": "cuda"},
        "about": {
            "profile": "small",
            "budget_seconds": 300.0,
            "device": "a card",
            "device_kind": "cuda",
            "dtype": "bfloat16",
        },
    }


def prompt(history: Sequence[dict], context_tokens: int) -> str:
    """Return the two messages of an ordinary turn as one text."""
    request = make_request(history)
    turn = Turn("llm", "architecture", "")
    messages = build_messages(request, turn, parse_program(PROGRAM), context_tokens, TEMPLATE)
    return "\n".join(message["content"] for message in messages)


def lines_of_their_own(text: str, history: Sequence[dict]) -> int:
    """Return how many attempts have a line of their own in the table."""
    table = text.partition("# Attempts so far")[2].partition("\n\n")[0]
    found = {int(match[1]) for match in re.finditer(r"^(\d+)(?: \| | [-+])", table, re.MULTILINE)}
    return len(found & {row["experiment"] for row in history})


def same_beginning(history: Sequence[dict], context_tokens: int) -> float:
    """Return the share of a prompt that equals the beginning of the one before."""
    text, before = prompt(history, context_tokens), prompt(history[:-1], context_tokens)
    return len(os.path.commonprefix([text, before])) / len(text)


def measure(counter: Callable[[str], int] | None) -> list[str]:
    """Return the table's lines."""
    budget = LlmOptions().context_tokens
    lines = [
        (
            "| experiments | budget | tokens, our count | tokens, o200k_base | train.py whole |"
            " attempts with a line | same beginning | made in |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = make_history(max(SIZES), Path(folder))
        for context_tokens in (budget, SMALL_CONTEXT):
            for size in SIZES:
                began = time.perf_counter()
                text = prompt(rows[: size + 1], context_tokens)
                seconds = time.perf_counter() - began
                shared = statistics.mean(
                    same_beginning(rows[: size + 1 - back], context_tokens)
                    for back in range(min(size - 1, CACHE_PAIRS))
                )
                real = f"{counter(text):,}" if counter else "not counted"
                whole = "yes" if TEMPLATE.rstrip() in text else "NO"
                lines.append(
                    f"| {size:,} | {context_tokens:,} | {count_tokens(text):,} | {real} | {whole} |"
                    f" {lines_of_their_own(text, rows[: size + 1]):,} of {size + 1:,} |"
                    f" {shared:.0%} | {seconds:.2f} s |"
                )
    return lines


def compare_counts(counter: Callable[[str], int]) -> list[str]:
    """Return the table of our count against a tokenizer's."""
    names = (
        *("train_template.py", "program.md", "README.md", "harness/search/tpe.py"),
        *("results/sample/results.tsv", "results/benchmarks/keep_rule.md"),
    )
    names += (
        "results/sample/experiments/0001/attempts/00/train.diff",
        "results/sample/experiments/0001/attempts/00/runs/00/run.log",
    )
    lines = [
        "| text | characters | our count | o200k_base | ours is higher by |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        text = (ROOT / name).read_text(encoding="utf-8")
        ours, real = count_tokens(text), counter(text)
        lines.append(f"| {name} | {len(text):,} | {ours:,} | {real:,} | {ours / real - 1:.0%} |")
    return lines


def o200k_counter(module: str) -> Callable[[str], int]:
    """Return what counts a text's tokens by o200k_base, as that module has it."""
    encoding = importlib.import_module(module).get_encoding("o200k_base")
    return lambda text: len(encoding.encode(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write results/benchmarks/context.md")
    parser.add_argument(
        "--count-with",
        metavar="MODULE",
        help="count by o200k_base too, as tiktoken (downloads it) or bpe_openai (brings it) has it",
    )
    arguments = parser.parse_args()
    counter = o200k_counter(arguments.count_with) if arguments.count_with else None
    text = PAGE.format(
        context_tokens=LlmOptions().context_tokens,
        cache_pairs=CACHE_PAIRS,
        lengths="\n".join(measure(counter)),
    )
    if counter:
        text += "\n\n## Our count of tokens\n\n" + "\n".join(compare_counts(counter))
    print(text)
    if arguments.write:
        (ROOT / "results/benchmarks/context.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
