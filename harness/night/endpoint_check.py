"""Which proposer a night has: checked before any work is done, so that a mistyped model costs a
minute and not the night.

In: what was asked for, and what a person exported. Out: proposer, and sentences on it.
Refuses a proposer without an endpoint, options that cannot be read, a key that is not taken, a
model that is not served, and several served where none was named. An endpoint that cannot be
reached now is no reason: the night begins with `tpe`, says so, and asks again later.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.ground.errors import LoopError
from harness.ground.files import write_json_atomic
from harness.ground.text import without_escapes
from harness.lab.proposal_request import model_before
from harness.lab.proposing import default_proposer
from harness.night.wishes import Wishes
from harness.sandbox import keys
from harness.sandbox.child import child_command, child_environment
from harness.search.llm.endpoint import parse_options
from harness.search.llm.prompt import least_tokens
from harness.search.program import read_program

ASK_SECONDS = 120.0  # for the list of models and one word from the model
UNREACHABLE = 2  # exit status of `python -m harness.search.llm.endpoint`
HOW = (
    "export OPENAI_API_KEY, or OPENAI_BASE_URL=http://127.0.0.1:11434/v1 for a server of your own "
    "(Ollama there; llama.cpp, vLLM and LM Studio have theirs)"
)
LIMITS = ("budget_tokens", "budget_usd", "budget_requests", "budget_hours")


@dataclass(frozen=True)
class Proposers:
    """proposer: tpe, llm or hybrid. words: what a person is told."""

    proposer: str
    words: str


def choose_proposers(wishes: Wishes) -> Proposers:
    """Who proposes in this night. Raises LoopError with what to change."""
    wanted = proposer_of(wishes)
    if wanted == "tpe":
        if asked := "--model" if wishes.model else "--llm" if wishes.llm else "":
            if wishes.proposer:
                raise LoopError(f"{asked} cannot be obeyed: --proposer tpe asks no language model")
            raise LoopError(f"{asked} needs a language model, and none is known here: {HOW}")
        return Proposers("tpe", "ideas by tpe and the bank, which need no key")
    if not keys.has_endpoint(wishes.llm):
        raise LoopError(f"--proposer {wanted} needs a language model: {HOW}")
    status, answer = ask_endpoint(wishes)
    if status == UNREACHABLE:
        later = "Until it answers, ideas are by tpe; it is asked again later"
        return Proposers(wanted, f"{answer}. {later}")
    if status:
        raise LoopError(answer)
    found = json.loads(answer)
    check_context(wishes, found.get("context"))
    turns = "in turn with tpe, which takes the numbers" if wanted == "hybrid" else "alone"
    options = wishes.llm.replace(",", " ").split()
    limits = [option for option in options if option.startswith(LIMITS)]
    budget = "no budget is set (--llm budget_tokens=... or budget_usd=...)"
    if limits:
        budget = f"at most {', '.join(limits)}"
    ideas = f"ideas by {found['model']} at {found['base_url']}"
    return Proposers(wanted, f"{ideas}, {turns}; {budget}")


def proposer_of(wishes: Wishes) -> str:
    return wishes.proposer or default_proposer(wishes.llm)


def check_context(wishes: Wishes, served: int | None) -> None:
    """Raise LoopError where no prompt of this night fits into context_tokens, or into what the
    server says that it has."""
    program = read_program(harness.REPOSITORY / "program.md")
    need = least_tokens(program, wishes.best_source())
    given = parse_options(wishes.llm, wishes.model)
    if given.context_tokens < need:
        raise LoopError(
            f"context_tokens={given.context_tokens} is too small: program.md, train.py and the "
            f"rules alone are about {need:,} tokens. Set --llm context_tokens={need} or more, and "
            "let the server have room for that and "
            f"max_output_tokens={given.max_output_tokens}"
        )
    if served is not None and served < need:
        raise LoopError(
            f"the server gives the model a context of {served:,} tokens, and program.md, train.py "
            f"and the rules alone are about {need:,}: start it there with a context of "
            f"{need + given.max_output_tokens:,} or more (vLLM: --max-model-len, llama.cpp: -c)"
        )


def deadline_seconds(wishes: Wishes) -> float:
    """How long a language model may take for one proposal of this night; 0 where none is asked."""
    if proposer_of(wishes) == "tpe":
        return 0.0
    return parse_options(wishes.llm, wishes.model).deadline_seconds


def ask_endpoint(wishes: Wishes) -> tuple[int, str]:
    """Let a process that may read the key choose and check the model; return its exit status and
    its answer, or the line on what is wrong."""
    try:
        key_file, extra = keys.for_proposer()
    except keys.KeyFileError as error:
        raise LoopError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder) / "request.json"
        llm = {"model": wishes.model, "options": wishes.llm, "key_file": key_file}
        llm |= {"before": model_before(wishes.run.state)}
        write_json_atomic(request, {"llm": llm})
        command = child_command("harness.search.llm.endpoint", str(request))
        run = {"env": child_environment(**extra), "capture_output": True, "text": True}
        try:
            done = subprocess.run(command, **run, check=False, timeout=ASK_SECONDS)
        except subprocess.TimeoutExpired:
            words = f"the language model's endpoint gave no answer within {ASK_SECONDS:.0f} s"
            return UNREACHABLE, words
    said = done.stdout if done.returncode == 0 else done.stderr
    return done.returncode, without_escapes((said.strip().splitlines() or ["no message"])[-1])
