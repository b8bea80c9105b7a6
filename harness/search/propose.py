"""One proposal, in a process of its own: `python -m harness.search.propose REQUEST.json [PARENT]`.

In: the request, plain data (program.md, the incumbent's train.py, the history, the limits, a seed;
for a language model its name and options, and where its key lies). Out, in its `out_dir`: train.py,
then proposal.json, each written atomically; exit 0. Or one line on standard error and exit 1, and
no proposal.json. The journal is not read, nothing is trained. This process alone may hold the key.

`turns` says whose turn it is. When the model cannot be asked, the proposal is the keyless one, and
says why; a repair is given up. The same request gives the same answer, from a model whose replies
are the same.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.ground.errors import ConstantsError, ProgramError, ProposalError
from harness.ground.files import read_json
from harness.ground.parent import die_with_parent
from harness.search.keyless import propose_keyless
from harness.search.program import ProgramSettings, parse_program
from harness.search.proposal import Proposal, write_proposal
from harness.search.turns import Turn, choose_turn, keyless_turn


def propose(request: Mapping[str, Any]) -> Proposal:
    """Return the proposal for a request. Raises ProgramError, ConstantsError or ProposalError."""
    settings = parse_program(request["program_md"])
    if not settings.earlier_runs:
        request = {**request, "earlier": []}
    if request.get("repair"):
        return _repair(request, settings)
    turn = choose_turn(request, settings)
    if turn.who == "llm":
        return _from_model(request, turn, settings)
    proposal = propose_keyless(request, settings, turn.operator == "structural")
    if request["proposer"] != "tpe":  # a page should say why it is not the model's
        proposal.note = turn.why
    return proposal


def _from_model(request: Mapping[str, Any], turn: Turn, settings: ProgramSettings) -> Proposal:
    """Return the model's proposal, or the keyless one with why and what the model took."""
    from harness.search.llm.converse import ask_model, propose_llm  # needless in a keyless night

    proposal, why, used = ask_model(
        request, lambda chat: propose_llm(request, turn, settings, chat)
    )
    if proposal is not None:
        return proposal
    instead = keyless_turn(request, why, structural=turn.forced)
    proposal = propose_keyless(request, settings, instead.operator == "structural")
    note = f"the model was to propose this ({turn.operator}); {why}"
    return replace(proposal, llm_failed=why, note=note, **used)


def _repair(request: Mapping[str, Any], settings: ProgramSettings) -> Proposal:
    """Return the model's repair of a failed attempt, or a proposal that says why there is none.

    Another idea would be no repair.
    """
    from harness.search.llm.converse import ask_model, gave_up, repair_llm

    if not request.get("llm"):
        return gave_up("no language model is set for this run")
    proposal, why, used = ask_model(request, lambda chat: repair_llm(request, settings, chat))
    return proposal or gave_up(why, **used)


def main(arguments: Sequence[str]) -> int:
    """Carry out one request; return the exit status."""
    path, *asker = arguments
    if asker:  # an answer that nobody waits for should not be paid for
        die_with_parent(int(asker[0]))
    try:
        request = read_json(path)
        write_proposal(request, propose(request))
    except (ProgramError, ConstantsError, ProposalError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
