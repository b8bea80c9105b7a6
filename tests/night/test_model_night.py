"""A night with a language model and a planted key, through the command line: the key is in no file, page, log, terminal, or process but the one that asks."""

import json
import os
import re
import subprocess
import time

import psutil
import pytest
from checkout import command_of, overnight, warm_environment
from fake_openai import FakeOpenAI, refusal
from labs import copy_with_harness

from harness.check.check import check_run
from harness.run.journal import read_journal
from harness.run.state import fold

PLANTED = "sk-planted-e91a7c44"
SEARCH, REPLACE = (
    "return self.contract(F.relu(self.expand(x)).square())",
    "return self.contract(F.gelu(self.expand(x)))",
)
REPLY = f"""Title: GELU instead of a squared ReLU <img src=x onerror=steal()> [see](http://evil) {PLANTED}
Hypothesis: a smoother activation loses less in few steps
Category: architecture
Expected delta: -0.02

<<<<<<< SEARCH
        {SEARCH}
=======
        {REPLACE}
>>>>>>> REPLACE
"""


def answer(body: dict, number: int) -> object:
    return refusal(500, f"Bearer {PLANTED} had an accident") if number == 1 else REPLY


def processes_with_the_key(checkout, home) -> list[str]:
    """Command lines of living processes of this night that have the key in environment or arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            words = " ".join(process.info["cmdline"] or [])
            if str(checkout) in words or process.environ().get("HOME") == str(home):
                held = PLANTED in words or PLANTED in "\n".join(process.environ().values())
                found += [words] if held else []
        except psutil.Error:
            continue
    return found


def files_with_the_key(*folders) -> list[str]:
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in paths if PLANTED.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_planted_key_is_nowhere_and_the_page_shows_what_was_asked(tmp_path, baseline, cache):
    checkout, home = copy_with_harness(baseline, tmp_path / "lab"), tmp_path / "home"
    run = checkout / "results" / "t"
    home.mkdir()
    command = command_of(
        "--profile", "tiny", "--tag", "t", "--experiments", "1", "--proposer", "llm", "--model", "scripted"
    )
    prices = ["--llm", "price_input=1", "--llm", "price_output=10", "--llm", "budget_usd=5"]
    with FakeOpenAI(answer) as server, (tmp_path / "terminal").open("w+") as terminal:
        told = warm_environment(checkout, cache) | {
            "HOME": str(home),
            "OPENAI_API_KEY": PLANTED,
            "OPENAI_BASE_URL": server.url,
        }
        night = subprocess.Popen([*command, *prices], cwd=checkout, env=told, stdout=terminal, stderr=terminal)
        seen, files = [], set()
        try:
            while night.poll() is None:
                if (run / "night.log").exists():  # it has begun again without the key by then
                    seen += processes_with_the_key(checkout, home)
                    files |= {path.stat().st_mode & 0o777 for path in home.glob(".cache/autoresearch-lab/keys/*.key")}
                time.sleep(0.1)
        finally:
            if night.poll() is None:
                night.kill()
                night.wait()
        terminal.seek(0)
        said = terminal.read()
    assert night.returncode == 0, said
    assert server.bodies and {headers["authorization"] for headers in server.headers} == {f"Bearer {PLANTED}"}
    assert seen == [] and files == {0o600}  # it was there, for its owner alone
    assert PLANTED not in said and files_with_the_key(run, home, checkout / ".git") == []

    state = fold(read_journal(run / "journal.jsonl"))
    proposed = state.experiments[1].attempt.proposed
    assert (proposed["proposer"], proposed["model"], proposed["expected_delta"]) == ("llm", "scripted", -0.02)
    assert proposed["smoke"] and REPLACE in (run / "experiments/0001/attempts/00/train.py").read_text()
    page = (run / "notebooks" / "03_0001.html").read_text()
    links = re.findall(r'<a href="([^"]*exchange[^"]*)">', page)
    assert links and all((run / "notebooks" / link).exists() for link in links)
    assert "hypothesis:" in page and "USD by the prices given" in page and "&lt;img src=x onerror" in page
    assert "<img src=x" not in page and 'href="http://evil' not in page
    report = (run / "report" / "report.md").read_text()
    assert "Whose ideas" in report and "`scripted`" in report and "ideas by scripted at" in said
    found = json.loads(overnight(checkout, cache, "--status", "--json", "--tag", "t").stdout)
    counted = server.usage
    assert (found["llm_prompt_tokens"], found["llm_completion_tokens"]) == (
        counted["prompt_tokens"],
        counted["completion_tokens"],
    )
    assert abs(found["llm_cost_usd"] - (counted["prompt_tokens"] + 10 * counted["completion_tokens"]) / 1e6) < 1e-6
    assert check_run(run) == [] and not os.listdir(home / ".cache/autoresearch-lab/keys")
