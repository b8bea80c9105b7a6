"""Every command of README, docs and program.md is run as it stands, or its exception is here.

In: code blocks and inline code that begin like a command. They run one after the other in one
checkout, by a shell, as a person types them; what is added makes a night of it that fits a test.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout, warm_environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "program.md"]
BEGINS = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:python3?|\.venv/bin/\S+|git|uv|conda|tmux|jupyter|papermill|ssh|grep) "
)
# Trainings that take so many steps, however busy the machine is.
TINY = "--profile tiny --set clock_step_seconds=0.15 --set budget_seconds=3"

# Command -> (the line that is run, {} for the command; words of its output), in this order.
RUN = {
    "python3 scripts/overnight.py --tag nov23 --hours 8": (
        f"{{}} --experiments 1 {TINY}",
        "1 experiment",
    ),
    "python3 scripts/overnight.py --status --tag nov23": ("{}", "baseline"),
    "python3 scripts/overnight.py --status --json --tag nov23 | jq -r .state": ("{}", ""),
    "python3 scripts/overnight.py --check --tag nov23": ("{}", "agree"),
    "python3 scripts/overnight.py --report --tag nov23": ("{}", "report"),
    "python3 scripts/overnight.py --stop --tag nov23": ("{}", "no night"),
    "python3 scripts/overnight.py --close-out --tag nov23": ("{} --hours 0.01", "claim"),
    ".venv/bin/python -m harness compare nov22 nov23": (
        "cp -r results/nov23 results/nov22 && {} && rm -r results/nov22",
        "side by side",
    ),
    ".venv/bin/papermill notebooks/03_agent_loop.ipynb out.ipynb -p tag nov23": ("{}", ""),
    'grep "^val_bpb:" run.log': (
        "cd results/nov23/experiments/0000/attempts/00/runs/00 && {}",
        "val_bpb:",
    ),
    "git log --oneline autoresearch/nov23": ("{}", "baseline"),
    "git for-each-ref refs/experiments/nov23 --format='%(refname:lstrip=3) %(subject)'": (
        "{}",
        "0001",
    ),
    "git log --oneline --graph --glob='refs/experiments/nov23/*'": ("{}", "baseline"),
    "git diff autoresearch/nov23 refs/experiments/nov23/0001 -- train.py": ("{}", ""),
    "git show refs/experiments/nov23/0001:train.py > train_0001.py": (
        "{} && cat train_0001.py",
        "def build_model",
    ),
    "git switch --detach autoresearch/nov23": ("{} && git switch main", ""),
    "git for-each-ref --format='delete %(refname)' --no-merged autoresearch/nov23"
    " refs/experiments/nov23 | git update-ref --stdin": ("{}", ""),
    "git for-each-ref --format='delete %(refname)' refs/experiments/nov23"
    " refs/heads/autoresearch/nov23 | git update-ref --stdin": (
        "{} && git for-each-ref | grep -c nov23 || true",
        "0",
    ),
    "python3 scripts/overnight.py --tag nov25 --experiments 0": (f"{{}} {TINY}", "baseline"),
    '.venv/bin/python -m harness try idea.py --tag nov25 --idea "wider embeddings"'
    ' --hypothesis "more room for rare words" --by claude-code': ("{}", '"outcome"'),
    ".venv/bin/python -m harness train idea.py --profile demo --set DEPTH=3": (
        "{} --profile tiny --set DEPTH=1",
        "val_bpb",
    ),
    ".venv/bin/python -m harness port train.py": (
        "printf 'import prepare\\nDEPTH = 3\\n' > train.py && {}",
        "carried over: DEPTH = 3",
    ),
    "python3 scripts/overnight.py --tag TAG --experiments 0": (f"{{}} {TINY}", "baseline"),
    "python3 scripts/overnight.py --status --tag TAG": ("{}", "baseline"),
    "git log autoresearch/TAG": ("{}", "baseline"),
    "python3 scripts/overnight.py --demo": (
        "{} --experiments 0 --set budget_seconds=2",
        "baseline",
    ),
    "python scripts/recover_replies.py": ("{}", "as asked: 8 of 8"),
    "python tests/support/scripted_researcher.py": (
        "timeout -s INT 10 {} || test $? = 124",
        "overnight --demo",
    ),
    "python scripts/make_docs.py": ("mkdir docs && {} && cat docs/commands.md", "harness try"),
}

# Command -> the test that runs it, and how it says so.
ELSEWHERE = {
    "python3 scripts/test.py": ("scripts/test_setup.py", '"test.py"'),
    "python3 scripts/card_rehearsal.py": (
        "scripts/test_card_rehearsal.py",
        '"card_rehearsal.py"',
    ),
    "python3 scripts/gpu_check.py": ("scripts/test_gpu_check.py", '"gpu_check.py"'),
    **{
        f"python3 scripts/gpu_check.py --only {parts}": (
            "scripts/test_gpu_check.py",
            "documented_parts",
        )
        for parts in ("training", "start-up,evaluation", "experiment")
    },
    "python scripts/bank_evidence.py table": ("search/test_bank.py", "bank_evidence.page()"),
    "python3 scripts/bench.py loop": ("scripts/test_bench.py", '"bench.py"'),
    ".venv/bin/python -m harness train train_template.py --profile large": (
        "night/test_by_hand.py",
        '"harness", "train"',
    ),
    "python3 scripts/bench.py": ("scripts/test_bench.py", '"bench.py"'),
    "python3 scripts/bench.py template startup loader scoring": (
        "scripts/test_bench.py",
        '"bench.py"',
    ),
    ".venv/bin/python train_template.py": ("night/test_by_hand.py", '"train_template.py"'),
    ".venv/bin/python -m harness train train_template.py --profile cpu"
    " --set budget_seconds=60 --set compile=True": ("night/test_by_hand.py", '"harness", "train"'),
    "python -m harness train": ("night/test_by_hand.py", '"harness", "train"'),
    "python -m harness export": ("show/test_export.py", '["export"'),
    "python -m harness port": ("search/test_port.py", '["port"'),
    "python -m harness compare": ("show/test_nights.py", '"compare"'),
    "python -m harness try": ("project/test_documented_commands.py", "harness try"),
    "python3 scripts/lab.py": ("scripts/test_setup.py", '"lab.py"'),
    ".venv/bin/jupyter lab --no-browser --ip 127.0.0.1": (
        "support/browsing.py",
        '"--ip=127.0.0.1"',
    ),
    "AUTORESEARCH_KEY_FILE=~/openai.key .venv/bin/jupyter lab": (
        "sandbox/test_keys.py",
        "keys.KEY_FILE",
    ),
    "python3 scripts/overnight.py --tag nov24 --model NAME --llm budget_tokens=2000000": (
        "night/test_model_night.py",
        '"--model"',
    ),
}

NOT_HERE = {
    "uv run scripts/overnight.py --demo": "uv downloads packages",
    "conda env create -f environment.yml": (
        "conda downloads packages; test_packaging compares the file with the locks"
    ),
    "python3 scripts/card_rehearsal.py": "needs triton, which is no package of the lab's",
    "ssh box": "another machine",
    "ssh -L 8888:localhost:8888 box": "another machine",
    "git clone <your fork> lab && cd lab": "a repository of the reader's own",
    "tmux new -s night python3 scripts/overnight.py --tag nov23 --hours 8": "needs a terminal",
}


def documented_commands() -> set[str]:
    found = set()
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
        prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
        inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
        lines = [line for block in blocks for line in block.splitlines()] + inline
        found |= {
            re.sub(r"\s+# .*", "", line).strip().replace("/0007", "/0001").replace("_0007", "_0001")
            for line in lines
            if BEGINS.match(line)
        }
    return found


def test_every_documented_command_is_run_or_says_why_not():
    known = {*RUN, *ELSEWHERE, *NOT_HERE}
    assert documented_commands() == known
    assert not [
        path
        for path, words in ELSEWHERE.values()
        if words not in (ROOT / "tests" / path).read_text()
    ]


def shim(folder: Path, name: str, command: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_documented_commands_do_what_they_say(tmp_path, cache):
    checkout = copy_checkout(tmp_path / "lab")
    for folder in ("scripts", "tests/support"):
        shutil.copytree(
            ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    shutil.copy(checkout / "train_template.py", checkout / "idea.py")
    for name in ("python", "python3"):
        shim(tmp_path / "bin", name, sys.executable)
    shim(
        tmp_path / "bin",
        "jq",
        f"{sys.executable} -c 'import json, sys; print(json.load(sys.stdin)[\"state\"])'",
    )
    variables = warm_environment(checkout, cache) | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "GIT_PAGER": "cat",
    }
    for command, (line, words) in RUN.items():
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.replace("{}", command)],
            cwd=checkout,
            env=variables,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        assert words in done.stdout + done.stderr, (
            command,
            done.stdout[-2000:],
            done.stderr[-2000:],
        )
