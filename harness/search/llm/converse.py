"""The language model's proposals: ask, read the reply, apply it, say in the same chat what is wrong
with it, at most three rounds.

In: the request, the turn, the program's settings, a chat. Out: a Proposal that carries the change,
what was used and where the exchange is saved. All or nothing: a reply whose change does not apply,
breaks program.md, was tried before or is no change is never trained, and nothing falls back to the
unpatched file. Raises Unusable after the last round; LlmError where the model cannot be asked,
ProgramError before anybody is asked. What the gate refuses is trained by nobody either, but is an
attempt, which comes back here to be mended.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import parse_constants
from harness.search.duplicates import near_duplicate, read_file
from harness.search.gate import source_hash
from harness.search.keyless import known_names
from harness.search.llm.acceptance import against_program, against_turn, category_of
from harness.search.llm.client import Answer, Chat
from harness.search.llm.endpoint import reach_model
from harness.search.llm.exchanges import Exchanges
from harness.search.llm.failures import LlmError
from harness.search.llm.prompt import (
    Messages,
    PromptError,
    add_correction,
    build_messages,
    build_repair,
)
from harness.search.llm.quoting import one_line
from harness.search.llm.reply import Reply, ReplyError, apply_reply, parse_reply
from harness.search.patch import PatchError
from harness.search.program import ProgramSettings, narrow_constants
from harness.search.proposal import Proposal
from harness.search.turns import Turn, choose_turn

ROUNDS = 3
MOST_THOUGHT = 2  # answers that are all reasoning before a person is told
LESS_CONTEXT = 2  # times that the context is halved for a server that finds it too long
TITLE_CHARACTERS, HYPOTHESIS_CHARACTERS = 120, 800

_GIVE_UP = re.compile(r"\s*\W*GIVE UP\b\W*(?P<why>.*)", re.IGNORECASE | re.DOTALL)


class Unusable(RuntimeError):
    """The model answered, and none of its answers could be used; the message is the last reason."""


class Ended(Unusable):
    """The server ended the answer, and asking again does not mend that; a person reads why."""


@dataclass(frozen=True)
class Change:
    """A reply, and the train.py that it makes."""

    reply: Reply
    source: str
    warning: str


@dataclass(frozen=True)
class _Conversation:
    """A chat about one train.py, until a reply can be used.

    build: makes the first messages for so many tokens. refused: says what else is wrong with a
    candidate, "" for nothing.
    """

    chat: Chat
    build: Callable[[int], Messages]
    source: str
    refused: Callable[[Reply, str], str]

    def ask_for_change(self) -> Change:
        """Return the change in the first reply that can be used. Raises Unusable, LlmError."""
        messages, before, why, thought = [], "", "", 0
        for number in range(1, ROUNDS + 1):
            answer, messages = self._ask(messages)
            try:
                return self._read(answer, before)
            except (ReplyError, PatchError, ConstantsError) as error:
                before, why = answer.text, str(error)
            if not answer.text.strip() and (answer.end == "cut off" or answer.reasoning.strip()):
                thought += 1
            if thought == MOST_THOUGHT:
                raise Ended(self._all_thought(answer))
            messages = add_correction(messages, answer.text, why, last=number == ROUNDS - 1)
        raise Unusable(f"{ROUNDS} answers could not be used, the last one because {why}")

    def _ask(self, messages: Messages) -> tuple[Answer, Messages]:
        """Ask; first messages that the server finds too long are made again, half as long, where
        they can be.
        """
        tokens = self.chat.options.context_tokens
        least = tokens // 2**LESS_CONTEXT
        asked = messages or self.build(tokens)
        while True:
            try:
                return self.chat.ask(asked), asked
            except LlmError as error:
                shorter = asked
                while error.kind == "context_too_long" and shorter == asked and tokens > least:
                    tokens //= 2
                    with contextlib.suppress(PromptError):
                        shorter = messages or self.build(tokens)
                if shorter == asked:
                    raise
                asked = shorter

    def _read(self, answer: Answer, before: str) -> Change:
        """Return the change in an answer.

        Raises ReplyError, PatchError or ConstantsError with what the model should know. before: the
        last answer, whose title holds where the model sends mended blocks alone.
        """
        refusal = one_line(answer.refusal, 200)
        if answer.end == "cut off":
            cut = f"it was cut off at {self.chat.options.max_output_tokens:,} tokens"
            raise ReplyError(f"{cut}: think and write less, and change fewer lines at a time")
        if answer.end == "filtered":
            raise Ended(f"{refusal}: reword program.md, or ask another model")
        if answer.refusal:
            raise ReplyError(f"it is a refusal: {refusal}. Answer in the form described")
        if answer.end != "finished":
            end = one_line(answer.finish_reason, 60)
            raise Ended(
                f"the server ended the answer with {end!r}, which is no end of an answer: ask "
                "another model, or change what makes the server end it so"
            )
        if not answer.text.strip():
            raise ReplyError("it is empty. Answer in the form described")
        if (found := _GIVE_UP.match(answer.text)) and "<<<<<" not in answer.text:
            raise Unusable(f"the model gave up: {one_line(found['why'], 400)}")
        reply = parse_reply(answer.text, before)
        candidate = apply_reply(reply, self.source)
        if why := self.refused(reply, candidate):
            raise ReplyError(why)
        idle = 0 if isinstance(reply.change, str) else sum(e.changes_nothing for e in reply.change)
        note = f"{idle} of its {len(reply.change)} edits changed nothing: passed over" * bool(idle)
        return Change(reply, candidate, "; ".join(filter(None, (answer.warning, note))))

    def _all_thought(self, answer: Answer) -> str:
        """What a person can do about a model whose answers are reasoning and nothing else."""
        if answer.end == "cut off":
            return (
                f"it wrote {self.chat.options.max_output_tokens:,} tokens {MOST_THOUGHT} times and "
                "no answer: it reasons longer than that. Raise it with --llm max_output_tokens=..."
                ", or let it reason less with --llm reasoning_effort=low"
            )
        return (
            f"{MOST_THOUGHT} replies were reasoning and no answer, though they were not cut off: "
            "the server takes the answer for reasoning. Let it reason less with --llm "
            "reasoning_effort=low, or change how the server tells the two apart (its reasoning "
            "parser or chat template)"
        )


def open_chat(request: Mapping[str, Any]) -> Chat:
    """Return a chat with the model that a request names. Raises LlmError."""
    options, endpoint, model = reach_model(request["llm"])
    place = {"experiment": request["experiment"], "attempt": request["attempt"]}
    folder = Path(request["out_dir"])
    since = request.get("asked_since", 0)
    exchanges = Exchanges(folder / "exchange", request["llm"]["ledger"], options, place, since)
    return Chat(endpoint, options, model, exchanges)


def ask_model(
    request: Mapping[str, Any], make: Callable[[Chat], Proposal]
) -> tuple[Proposal | None, str, dict[str, Any]]:
    """Return (what make makes of a chat, "", {}).

    Where the model cannot be asked or used: (None, why, what was spent).
    """
    chat = None
    try:
        chat = open_chat(request)
        return make(chat), "", {}
    except LlmError as error:
        why = f"{error.kind}: {error}"
    except PromptError as error:
        why = f"context_too_long: {error}"
    except Ended as error:
        why = str(error)
    except Unusable as error:
        why = f"not_applicable: {error}"
    return None, one_line(why, HYPOTHESIS_CHARACTERS), spent(chat) if chat else {}


def propose_llm(
    request: Mapping[str, Any], turn: Turn, settings: ProgramSettings, chat: Chat
) -> Proposal:
    """Return the model's proposal for a turn of its own."""
    history = request["history"]
    narrow_constants(settings, parse_constants(request["parent_train_py"]), known_names(history))
    turn, source = _start(request, turn, settings)

    def refused(reply: Reply, candidate: str) -> str:
        return (
            against_program(request, settings, reply, candidate)
            or against_turn(turn, settings, source, reply, candidate)
            or near_duplicate(candidate, source, history)
        )

    build = functools.partial(build_messages, request, turn, settings, source=source)
    change = _Conversation(chat, build, source, refused).ask_for_change()
    return Proposal(
        change.source,
        one_line(change.reply.title, TITLE_CHARACTERS),
        one_line(change.reply.hypothesis, HYPOTHESIS_CHARACTERS),
        category_of(turn, settings, source, change.reply, change.source),
        proposer="llm",
        operator=turn.operator,
        expected_delta=change.reply.expected_delta,
        parent=turn.parent,
        sources=turn.sources,
        note="; ".join(filter(None, (turn.why if turn.forced else "", change.warning))),
        **spent(chat),
    )


def repair_llm(request: Mapping[str, Any], settings: ProgramSettings, chat: Chat) -> Proposal:
    """Return the model's repair of a failed attempt: the same idea, another file; or gave_up."""
    repair = request["repair"]
    source = repair["train_py"]

    def refused(reply: Reply, candidate: str) -> str:
        if source_hash(candidate) == source_hash(source):
            return "it does what the failed file does: only comments or layout differ"
        return against_program(request, settings, reply, candidate)

    build = functools.partial(build_repair, request, settings)
    try:
        change = _Conversation(chat, build, source, refused).ask_for_change()
    except Unusable as error:
        return gave_up(str(error), **spent(chat))
    wrong = one_line(change.reply.hypothesis, 300)
    note = f"repaired: {wrong}" if wrong else "repaired"
    return Proposal(
        change.source,
        repair["title"],
        repair["hypothesis"],
        repair["category"],
        proposer="llm",
        operator=repair.get("operator") or "",
        expected_delta=repair.get("expected_delta"),
        parent=repair.get("parent"),
        note="; ".join(filter(None, (note, change.warning))),
        **spent(chat),
    )


def gave_up(why: str, **used: Any) -> Proposal:
    """Return what stands for a repair that could not be made."""
    why = one_line(why, HYPOTHESIS_CHARACTERS)
    return Proposal("", "", "", "", proposer="llm", gave_up=why, **used)


def spent(chat: Chat) -> dict[str, Any]:
    """Return the model, what was used so far and where exchanges are, as a Proposal has them."""
    exchanges = chat.exchanges
    if not any(exchanges.folder.glob("*.json")):
        return {"model": chat.model}
    return {
        "model": chat.model,
        "answered_by": chat.answered_by,
        "usage": exchanges.usage(),
        "exchange": exchanges.folder.name,
    }


def _start(request: Mapping[str, Any], turn: Turn, settings: ProgramSettings) -> tuple[Turn, str]:
    """Return the turn and the train.py it changes; another turn where a restart's is lost."""
    history = list(request["history"])
    while turn.parent is not None:
        index = next(i for i, row in enumerate(history) if row["experiment"] == turn.parent)
        source = read_file(history[index], "train.py")
        if source_hash(source) == history[index].get("sha256"):
            return turn, source
        history[index] = {**history[index], "folder": ""}
        turn = choose_turn({**request, "history": history}, settings)
    return turn, request["parent_train_py"]
