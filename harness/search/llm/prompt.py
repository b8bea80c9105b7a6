"""What the model is told: fresh for each experiment, made from the request alone, and never longer than its budget.

In: the request, the turn, the program's settings, the train.py to change, the budget in tokens. Out: the messages of a chat.
What seldom changes stands first, so that a server's prompt cache holds it: the task and the rules, program.md as the human
wrote it, the machine, train.py whole, the table of attempts from the oldest on; then what changes each time, and what is asked
for. Cut to fit are diffs, curves, constants, near misses and the columns of old attempts; never train.py, program.md or an
attempt's outcome. Raises PromptError when those alone are too long. Text of others is fenced, and said to be data.
"""

from collections.abc import Mapping
from typing import Any

from harness.ground.errors import ConstantsError
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
    """What must be in a prompt is longer than its budget; the message says which setting to raise."""


def build_messages(
    request: Mapping[str, Any], turn: Turn, settings: ProgramSettings, context_tokens: int, source: str
) -> Messages:
    """Return the chat's first messages. source: the train.py that is to be changed, the incumbent's but for a restart."""
    system, task = _system(request, settings), _task(request, turn, settings)
    whole = f"# train.py, {_whose(request, turn)}\n{fence(source, 'python')}"
    room = context_tokens - count_tokens(f"{system}\n{whole}\n{task}")
    if room < LEAST_ROOM:
        need = context_tokens - room + LEAST_ROOM
        raise PromptError(
            f"program.md, train.py and the rules need {need} tokens and there are {context_tokens}: set context_tokens={need} or more"
        )
    details = _details(request, turn, source, min(MOST_DETAIL, int(room * DETAIL_SHARE)))
    table = history_table.table_of_attempts(request["history"], room - count_tokens(details) - 20)
    parts = [whole, f"# Attempts so far\n{table}", details, task]
    return _chat(system, "\n\n".join(part for part in parts if part))


def least_tokens(program_md: str, source: str) -> int:
    """The smallest context_tokens that a prompt on this train.py can do with, before anything is tried. Raises ProgramError."""
    request = {"program_md": program_md, "limits": {"n_vocab": 8193, "max_seq_len": 2048}, "parent_experiment": 0}
    request |= {"history": [], "proposer": "hybrid"}
    turn, settings = Turn("llm", "architecture", ""), parse_program(program_md)
    whole = f"# train.py, {_whose(request, turn)}\n{fence(source, 'python')}"
    return count_tokens(f"{_system(request, settings)}\n{whole}\n{_task(request, turn, settings)}") + LEAST_ROOM


def build_repair(request: Mapping[str, Any], settings: ProgramSettings, context_tokens: int) -> Messages:
    """Return the first messages of a repair: the failed file whole, what went wrong, the log's head and tail."""
    repair = request["repair"]
    system = _system(request, settings)
    refused = "It was refused before training:"
    ended = f"It ended as {repair['status']}. What it said, as data:\n{quote(repair.get('cause') or 'nothing', 600)}"
    facts = [refused if repair["status"] == "invalid_patch" else ended]
    facts += [f"- {one_line(reason, 400)}" for reason in repair.get("reasons") or []]
    idea = f"The idea: {one_line(repair.get('title'), 100)}. {one_line(repair.get('hypothesis'), 400)}"
    failed = f"# The train.py that failed\n{fence(repair['train_py'], 'python')}"
    must = [failed, f"# What went wrong\n{idea}\n" + "\n".join(facts)]
    room = context_tokens - count_tokens("\n\n".join([system, *must, MEND]))
    if room < 0:
        raise PromptError(
            f"the failed train.py and the rules need {context_tokens - room} tokens: set context_tokens higher"
        )
    if log := (repair.get("log") or "").replace(f"{repair.get('folder')}/", ""):  # where it lay is nobody's business
        for size in (LOG_CHARACTERS, LOG_CHARACTERS // 4):
            text = f"Its log, head and tail, as data:\n{quote(log, size)}"
            if count_tokens(text) <= room:
                must.append(text)
                room -= count_tokens(text)
                break
    diff = make_diff(request["parent_train_py"], repair["train_py"])
    text = f"What it changed, as a diff from the incumbent:\n{fence(diff, 'diff')}"
    if diff and count_tokens(text) <= min(room, MOST_DETAIL):
        must.append(text)
    return _chat(system, "\n\n".join([*must, MEND]))


def add_correction(messages: Messages, reply: str, why: str, last: bool) -> Messages:
    """Return the chat with a reply that cannot be used and why; last: no further one is asked for after this."""
    how = "Answer once more, completely: the four lines and all blocks, against the train.py above as it stands; nothing of your last answer was applied."
    if last:
        how += " This is the last try. If blocks did not match, give the whole train.py in one ```python fence instead."
    return [
        *messages,
        {"role": "assistant", "content": _cut(reply, REPLY_TOKENS).strip() or "(no answer)"},
        {"role": "user", "content": f"That answer cannot be used: {_cut(why, REASON_TOKENS)}\n\n{how}"},
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
    program = f"# program.md, written by the human whose lab this is\n{fence(request['program_md'], 'markdown')}"
    return "\n\n".join([TASK, program, _settings(settings), RULES, _machine(request), REPLY])


def _settings(settings: ProgramSettings) -> str:
    lines = [f"Allowed categories: {', '.join(settings.allowed_categories)}."]
    if settings.forbidden_ideas:
        lines.append(f"Forbidden, also under other words: {', '.join(settings.forbidden_ideas)}.")
    if settings.ranges:
        lines.append(
            "Narrower ranges than in the file: " + ", ".join(f"{n} {list(r)}" for n, r in settings.ranges.items())
        )
    if settings.fixed:
        lines.append(f"Constants that stay as they are: {', '.join(settings.fixed)}.")
    return "\n".join(lines)


def _machine(request: Mapping[str, Any]) -> str:
    about, limits = request.get("about") or {}, request["limits"]
    memory = f", {limits['memory_mb']:,.0f} MB" if limits.get("memory_mb") else ""
    budget = f"{about['budget_seconds']:g} s of training an experiment" if about.get("budget_seconds") else "fixed"
    return (
        f"# The machine\nDevice: {about.get('device') or limits.get('device_kind')}{memory}, {about.get('dtype') or 'its own dtype'}. Profile: "
        f"{about.get('profile') or 'unnamed'}. Budget: {budget}. Vocabulary {limits['n_vocab']} with special tokens, rows of {limits['max_seq_len']} tokens."
    )


def _whose(request: Mapping[str, Any], turn: Turn) -> str:
    if turn.parent is None:
        return "the incumbent: change this"
    return f"of experiment {turn.parent}, not the incumbent: change this"


def _task(request: Mapping[str, Any], turn: Turn, settings: ProgramSettings) -> str:
    score, sigma = request.get("incumbent_val_bpb"), request.get("sigma")
    lines = [f"# What is asked for now: {turn.operator}"]
    lines.append(
        f"The incumbent is experiment {request['parent_experiment']}"
        + (f" with val_bpb {score:.5f}" if score is not None else "")
        + (f"; sigma of one run is {sigma:.5f} bpb." if sigma else ".")
    )
    lines.append(ASKED[turn.operator])
    rows = {row["experiment"]: row for row in request["history"]}
    lines += [history_table.diff_of(rows[number], 8000) or history_table.attempt_line(rows[number]) for number in turn.sources]
    if turn.forced:
        lines.append("The last results were flat. Other numbers alone are not accepted now: change the code.")
    if turn.operator != "tune" and request["proposer"] == "hybrid":
        lines.append("An optimiser searches the numbers beside you: spend your turn on what it cannot do.")
    return "\n".join(lines)


def _details(request: Mapping[str, Any], turn: Turn, source: str, most_tokens: int) -> str:
    """What helps and may be cut, most useful first, as far as it fits."""
    history = request["history"]
    sections = [
        (
            "Training loss in nats at 10, 25, 50, 75 and 100% of the budget",
            history_table.training_curves(history, request["parent_experiment"]),
        ),
        ("Near misses", history_table.near_miss_lines(history)),
        ("Constants tried: value and delta", history_table.constants_tried(history, _values(source))),
        *(("Diffs", diff) for diff in history_table.diffs_worth_seeing(history)),
    ]
    if turn.parent is not None:
        diff = make_diff(source, request["parent_train_py"])
        sections.insert(0, ("From the file above to the incumbent, as a diff", fence(diff, "diff") if diff else ""))
    chosen, last = [], ""
    for heading, text in sections:
        part = text if heading == last else f"# {heading}\n{text}"
        if text and (used := count_tokens(part)) <= most_tokens:
            chosen.append(part)
            most_tokens -= used
            last = heading
    return "\n\n".join(chosen)


def _values(source: str) -> dict[str, Any]:
    try:
        return constant_values(source)
    except ConstantsError:
        return {}
