"""A planted key, and a server that gives it back wherever it can.

The propose process, whole and real, lets it into nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, TEMPLATE
from fake_openai import FakeOpenAI, completion, refusal
from proposing import request

KEY = "sk-planted-0123456789abcdef"
LINE = next(line for line in TEMPLATE.splitlines() if line.startswith("MLP_RATIO"))


def propose(folder: Path, url: str, given: str) -> tuple[subprocess.CompletedProcess, dict]:
    """Run the propose process; the key in a file or in its environment."""
    out, home = folder / "run" / "exp" / "attempt", folder / "home"
    out.mkdir(parents=True)
    home.mkdir()
    (home / "key").write_text(KEY)
    llm = {
        "model": "scripted",
        "options": f"base_url={url}",
        "ledger": str(folder / "run" / "llm.jsonl"),
    }
    llm["key_file"] = str(home / "key") if given == "file" else ""
    content = request(proposer="llm", llm=llm, repair=None, sigma=0.01, about={}, out_dir=str(out))
    (out / "request.json").write_text(json.dumps(content))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENAI_LOG": "debug",
    }
    environment |= {} if given == "file" else {"OPENAI_API_KEY": KEY}
    command = [sys.executable, "-m", "harness.search.propose", str(out / "request.json")]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    return done, json.loads((out / "proposal.json").read_text())


@pytest.mark.parametrize(("kind", "given"), [("answer", "file"), ("error", "environment")])
def test_the_key_is_in_nothing_that_the_process_leaves(tmp_path, kind, given):
    def answer(body, number):
        echo = f"you sent {server.headers[-1]['authorization']}"
        if kind == "error":
            return refusal(401, echo, {"X-Echo": echo})
        edit = (
            "<<<<<<< SEARCH\n"
            f"{LINE}\n"
            "=======\n"
            f"# {echo}\n"
            f"{LINE.replace('4', '5', 1)}\n"
            ">>>>>>> REPLACE"
        )
        said = (
            f"Title: wider MLP, {echo}\n"
            f"Hypothesis: {echo}\n"
            "Category: architecture\n"
            "Expected delta: -0.01\n\n"
            f"{edit}"
        )
        return completion(said, reasoning_content=echo)

    with FakeOpenAI(answer) as server:
        done, proposal = propose(tmp_path, server.url, given)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was used
    assert done.returncode == 0, done.stderr
    assert proposal["proposer"] == ("llm" if kind == "answer" else "tpe")
    assert "removed" in (proposal["title"] if kind == "answer" else proposal["llm_failed"])
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"train.py", "proposal.json", "llm.jsonl", "01.json"} <= {path.name for path in left}
    for text in (*(path.read_text() for path in left), done.stdout, done.stderr):
        assert "planted" not in text
