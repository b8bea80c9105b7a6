"""What the model is told: made anew for each experiment, from the request alone, within a budget.

In: the request, the turn, the program's settings, the train.py to change, the budget in tokens.
Out: the messages of a chat. What seldom changes stands first, so that a server's prompt cache holds
it: the task and the rules, program.md as the human wrote it, the machine, train.py whole, the table
of attempts from the oldest on; then what changes each time, and what is asked for. Cut to fit are
diffs, curves, constants, near misses and the columns of old attempts; never train.py, program.md or
an attempt's outcome. Raises PromptError when those alone are too long. Text of others is fenced,
and said to be data.
"""

from collections.abc import Mapping
from typing import Any

from harness.search import earlier
from harness.search.bank.order import measured_lines
from harness.search.constants import constant_values
from harness.search.llm import history_table
from harness.search.llm.instructions import ASKED, MEND, REPLY, RULES, TASK
from harness.search.llm.quoting import fence, one_line, quote
from harness.search.llm.tokens import count_tokens
from harness.search.patch import make_diff
from harness.search.program import ProgramSettings, parse_program
from harness.search.turns import Turn

LEAST_ROOM = 300  # tokens for the table of attempts
DETAIL_SHARE = 0.25  # of the room: for what is not the table
MOST_DETAIL = 8000  # tokens
LOG_CHARACTERS = 6000
MOST_CHARACTERS = 24_000  # of either of the next two
REPLY_TOKENS = 8000  # of the model's own reply that stands in the chat when it is corrected
REASON_TOKENS = 3000  # of the reason; docs/language-model.md says what a correction adds at most

Messages = list[dict[str, str]]


class PromptError(ValueError):
    """What must be in a prompt is longer than its budget; the message says what to raise."""


def build_messages(
    request: Mapping[str, Any],
    turn: Turn,
    settings: ProgramSettings,
    context_tokens: int,
    source: str,
) -> Messages:
    """Return the chat's first messages.

    source: the train.py that is to be changed, the incumbent's but for a restart.
    """
    system, whole, task = _fixed_parts(request, turn, settings, source)
    room = context_tokens - count_tokens("\n".join((system, whole, task)))
    if room < LEAST_ROOM:
        need = context_tokens - room + LEAST_ROOM
        raise PromptError(
            f"program.md, train.py and the rules need {need} tokens and there are "
            f"{context_tokens}: set context_tokens={need} or more"
        )
    details = _details(request, turn, source, min(MOST_DETAIL, int(room * DETAIL_SHARE)))
    left = room - count_tokens(details) - 20
    table = history_table.table_of_attempts(request["history"], left)
    parts = [whole, f"# Attempts so far\n{table}", details, task]
    return _chat(system, "\n\n".join(filter(None, parts)))


def least_tokens(program_md: str, source: str) -> int:
    """The smallest context_tokens that a prompt on this train.py needs. Raises ProgramError."""
    request = {
        "program_md": program_md,
        "limits": {"n_vocab": 8193, "max_seq_len": 2048},
        "parent_experiment": 0,
        "history": [],
        "proposer": "hybrid",
    }
    turn, settings = Turn("llm", "architecture", ""), parse_program(program_md)
    return count_tokens("\n".join(_fixed_parts(request, turn, settings, source))) + LEAST_ROOM


def _fixed_parts(
    request: Mapping[str, Any], turn: Turn, settings: ProgramSettings, source: str
) -> tuple[str, str, str]:
    """Return what is never cut: the words of the system, train.py whole, and what is asked for."""
    whose = "the incumbent"
    if turn.parent is not None:
        whose = f"of experiment {turn.parent}, not the incumbent"
    whole = f"# train.py, {whose}: change this\n{fence(source, 'python')}"
    return _system(request, settings), whole, _task(request, turn)


def build_repair(
    request: Mapping[str, Any], settings: ProgramSettings, context_tokens: int
) -> Messages:
    """Return the first messages of a repair: the failed file, what went wrong, its log."""
    repair = request["repair"]
    system = _system(request, settings)
    cause = quote(repair.get("cause") or "nothing", 600)
    ended = f"It ended as {repair['status']}. What it said, as data:\n{cause}"
    if repair["status"] == "invalid_patch":
        ended = "It was refused before training:"
    reasons = [f"- {one_line(reason, 400)}" for reason in repair.get("reasons") or []]
    title, hypothesis = one_line(repair.get("title"), 100), one_line(repair.get("hypothesis"), 400)
    wrong = [f"# What went wrong\nThe idea: {title}. {hypothesis}", ended, *reasons]
    failed = f"# The train.py that failed\n{fence(repair['train_py'], 'python')}"
    parts = [failed, "\n".join(wrong)]
    room = context_tokens - count_tokens("\n\n".join([system, *parts, MEND]))
    if room < 0:
        need = context_tokens - room
        raise PromptError(
            f"the failed train.py and the rules need {need} tokens: set context_tokens higher"
        )
    for size in (LOG_CHARACTERS, LOG_CHARACTERS // 4) if repair["log"] else ():
        text = f"Its log, head and tail, as data:\n{quote(repair['log'], size)}"
        if (used := count_tokens(text)) <= room:
            parts.append(text)
            room -= used
            break
    diff = make_diff(request["parent_train_py"], repair["train_py"])
    text = f"What it changed, as a diff from the incumbent:\n{fence(diff, 'diff')}"
    if diff and count_tokens(text) <= min(room, MOST_DETAIL):
        parts.append(text)
    return _chat(system, "\n\n".join([*parts, MEND]))


def add_correction(messages: Messages, reply: str, why: str, last: bool) -> Messages:
    """Return the chat with a reply that cannot be used and why. last: it is the last try."""
    how = (
        "Answer once more, completely: the four lines and all blocks, against the train.py above "
        "as it stands; nothing of your last answer was applied."
    )
    if last:
        how += (
            " This is the last try. If blocks did not match, give the whole train.py in one "
            "```python fence instead."
        )
    why = f"That answer cannot be used: {_cut(why, REASON_TOKENS)}\n\n{how}"
    return [
        *messages,
        {"role": "assistant", "content": _cut(reply, REPLY_TOKENS).strip() or "(no answer)"},
        {"role": "user", "content": why},
    ]


def _cut(text: str, most_tokens: int) -> str:
    """Return a text, or as much of its beginning as is about so many tokens at most."""
    whole, text = len(text), text[:MOST_CHARACTERS]
    while (tokens := count_tokens(text)) > most_tokens:
        text = text[: len(text) * most_tokens // tokens]
    return text if len(text) == whole else f"{text}\n[cut]"


def _chat(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _system(request: Mapping[str, Any], settings: ProgramSettings) -> str:
    """The part that stays as long as the human leaves program.md alone."""
    written = fence(request["program_md"], "markdown")
    program = f"# program.md, written by the human whose lab this is\n{written}"
    return "\n\n".join([TASK, program, _settings(settings), RULES, _machine(request), REPLY])


def _settings(settings: ProgramSettings) -> str:
    lines = [f"Allowed categories: {', '.join(settings.allowed_categories)}."]
    if settings.forbidden_ideas:
        ideas = ", ".join(settings.forbidden_ideas)
        lines.append(f"Forbidden, also under other words: {ideas}.")
    if settings.ranges:
        ranges = ", ".join(f"{name} {list(values)}" for name, values in settings.ranges.items())
        lines.append(f"Narrower ranges than in the file: {ranges}")
    if settings.fixed:
        lines.append(f"Constants that stay as they are: {', '.join(settings.fixed)}.")
    return "\n".join(lines)


def _machine(request: Mapping[str, Any]) -> str:
    about, limits = request.get("about") or {}, request["limits"]
    device = about.get("device") or limits.get("device_kind")
    memory = f", {limits['memory_mb']:,.0f} MB" if limits.get("memory_mb") else ""
    seconds = about.get("budget_seconds")
    budget = f"{seconds:g} s of training an experiment" if seconds else "fixed"
    return (
        f"# The machine\nDevice: {device}{memory}, {about.get('dtype') or 'its own dtype'}. "
        f"Profile: {about.get('profile') or 'unnamed'}. Budget: {budget}. Vocabulary "
        f"{limits['n_vocab']} with special tokens, rows of {limits['max_seq_len']} tokens."
    )


def _task(request: Mapping[str, Any], turn: Turn) -> str:
    score, sigma = request.get("incumbent_val_bpb"), request.get("sigma")
    scored = "" if score is None else f" with val_bpb {score:.5f}"
    spread = f"; sigma of one run is {sigma:.5f} bpb" if sigma else ""
    lines = [
        f"# What is asked for now: {turn.operator}",
        f"The incumbent is experiment {request['parent_experiment']}{scored}{spread}.",
        ASKED[turn.operator],
    ]
    rows = {row["experiment"]: row for row in request["history"]}
    for row in (rows[number] for number in turn.sources):
        lines.append(history_table.diff_of(row, 8000) or history_table.attempt_line(row))
    if turn.forced:
        flat = "The last results were flat. Other numbers alone are not accepted now"
        lines.append(f"{flat}: change the code.")
    if turn.operator != "tune" and request["proposer"] == "hybrid":
        lines.append(
            "An optimiser searches the numbers beside you: spend your turn on what it cannot do."
        )
    return "\n".join(lines)


def _details(request: Mapping[str, Any], turn: Turn, source: str, most_tokens: int) -> str:
    """What helps and may be cut, most useful first, as far as it fits."""
    history = request["history"]
    curves = history_table.training_curves(history, request["parent_experiment"])
    tried = history_table.constants_tried(history, constant_values(source))
    sections = [
        ("What earlier runs found", earlier.lines_of(request.get("earlier", ()))),
        (
            "Ideas that were measured before this run",
            measured_lines(request["limits"].get("device_kind", "")),
        ),
        ("Training loss in nats at 10, 25, 50, 75 and 100% of the budget", curves),
        ("Near misses", history_table.near_miss_lines(history)),
        ("Constants tried: value and delta", tried),
        *(("Diffs", diff) for diff in history_table.diffs_worth_seeing(history)),
    ]
    if turn.parent is not None:
        diff = make_diff(source, request["parent_train_py"])
        heading = "From the file above to the incumbent, as a diff"
        sections.insert(0, (heading, fence(diff, "diff") if diff else ""))
    chosen, last = [], ""
    for heading, text in sections:
        part = text if heading == last else f"# {heading}\n{text}"
        if text and (used := count_tokens(part)) <= most_tokens:
            chosen.append(part)
            most_tokens -= used
            last = heading
    return "\n\n".join(chosen)
