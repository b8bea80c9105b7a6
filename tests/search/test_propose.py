"""The propose process."""

import ast
import json
import re
import subprocess
import sys

import pytest
from checkout import ROOT, TEMPLATE
from proposing import BASELINE, history_row, request

from harness.ground.errors import ProposalError
from harness.run.profiles import PROFILES
from harness.search.bank.order import ON_A_CPU, ON_CARDS, known_ideas
from harness.search.constants import constant_values, rewrite_constants
from harness.search.gate import check_candidate, source_hash
from harness.search.patch import PatchError
from harness.search.propose import main, propose

ON_A_CARD = request()["limits"] | {"device_kind": "cuda"}


def applicable(source, ideas=ON_A_CPU):
    """The ideas that apply to a source, in order."""
    found = []
    for idea in ideas:
        try:
            idea.apply(source)
        except PatchError:
            continue
        found.append(idea)
    return found


IDEAS = applicable(TEMPLATE)
ARCHITECTURE = next(idea.id for idea in IDEAS if idea.category == "architecture")


def night(experiments, settings="", **more):
    """Play a night in which nothing is kept; return its proposals."""
    history, proposals = [BASELINE], []
    for experiment in range(1, experiments + 1):
        proposal = propose(request(experiment, history, settings, **more))
        row = history_row(experiment, proposal.source, proposal.bank_id)
        history.append(row | {"category": proposal.category})
        proposals.append(proposal)
    return proposals


def run_process(tmp_path, content) -> subprocess.CompletedProcess:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(content))
    command = [sys.executable, "-m", "harness.search.propose", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_process_writes_a_proposal(tmp_path):
    asked = request(2, limits=ON_A_CARD)
    done = run_process(tmp_path, asked | {"out_dir": str(tmp_path / "out")})
    assert (done.returncode, done.stderr) == (0, "")
    source = (tmp_path / "out/train.py").read_text(encoding="utf-8")
    proposal = json.loads((tmp_path / "out/proposal.json").read_text(encoding="utf-8"))
    told = {"format_version", "title", "hypothesis", "category", "proposer", "parent", "sha256"}
    assert set(proposal) >= told | {"constants_changed", "bank_id", "not_applicable"}
    before, after = constant_values(TEMPLATE), constant_values(source)
    changed = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    assert proposal["constants_changed"] == changed and changed
    assert proposal["sha256"] == source_hash(source) != source_hash(TEMPLATE)
    assert check_candidate(source, {BASELINE["sha256"]}) == []
    assert source == rewrite_constants(TEMPLATE, {name: after[name] for name in changed})
    assert all(name in proposal["title"] for name in changed)
    again = run_process(tmp_path, asked | {"out_dir": str(tmp_path / "again")})
    assert again.returncode == 0
    for name in ("train.py", "proposal.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (request(program_md="```settings\n"), "settings"),
        (request(settings='allowed_categories = ["tun"]'), "did you mean tune"),
        (request(source="x = 1\n"), "constants"),
    ],
)
def test_failures_are_one_line_and_leave_no_proposal(tmp_path, capsys, content, words):
    out, path = tmp_path / "out", tmp_path / "request.json"
    path.write_text(json.dumps(content | {"out_dir": str(out)}))
    assert main([str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (out / "proposal.json").exists()


def test_a_process_that_fails_says_why(tmp_path):
    done = run_process(tmp_path, request(program_md="```settings\n"))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


def test_a_night_without_repeats_and_with_structure_early():
    """On a card; on a CPU ideas that are known to gain there come before the turns begin."""
    proposals = night(12, limits=ON_A_CARD)
    kinds = [proposal.bank_id for proposal in proposals]
    assert [kind is not None for kind in kinds] == [True, False, False] * 4
    assert kinds[::3] == [idea.id for idea in applicable(TEMPLATE, ON_CARDS)[:4]]
    known = [idea.id for idea in IDEAS if idea in known_ideas("cpu")]
    assert [proposal.bank_id for proposal in night(len(known))] == known and known
    assert len({source_hash(proposal.source) for proposal in proposals}) == len(proposals)
    assert all(proposal.category == "tune" for proposal in proposals if proposal.bank_id is None)
    assert all(check_candidate(proposal.source) == [] for proposal in proposals)


@pytest.mark.parametrize("decision", ["keep", "discard"])
def test_a_demo_begins_with_what_was_measured_to_gain_on_its_kind_of_device(decision):
    """From its plain start, under the shipped program; on a card the turns are the usual ones."""
    start = rewrite_constants(TEMPLATE, PROFILES["demo"].constants)
    program = (ROOT / "program.md").read_text(encoding="utf-8")

    def ids(kind: str) -> list[str | None]:
        source, history = start, [history_row(0, start, decision="baseline", category="baseline")]
        for experiment in range(1, 5):
            asked = request(experiment, history, source=source, program_md=program)
            proposal = propose(asked | {"limits": asked["limits"] | {"device_kind": kind}})
            assert check_candidate(proposal.source, {source_hash(source)}) == []
            source = proposal.source if decision == "keep" else source
            row = history_row(experiment, proposal.source, proposal.bank_id, decision)
            history.append(row | {"category": proposal.category})
        return [row["bank_id"] for row in history[1:]]

    known = [idea.id for idea in known_ideas("cpu")]
    assert ids("cpu")[: len(known)] == known[:4]
    assert known[:2] == ["short-convolution", "token-tables"]
    first, second, third, fourth = ids("cuda")
    assert (first, second, third, fourth) == ("short-convolution", None, None, "token-tables")


def test_what_is_known_to_gain_waits_where_another_kind_is_asked_for():
    start = rewrite_constants(TEMPLATE, PROFILES["demo"].constants)
    only = 'allowed_categories = ["tune"]'
    assert propose(request(2, source=start, settings=only)).bank_id is None
    forbidden = 'forbidden_ideas = ["short-convolution"]'
    assert propose(request(2, settings=forbidden, source=start)).bank_id == "token-tables"
    # The template has them already: numbers, as ever.
    assert propose(request(2)).not_applicable == []


def test_structure_changes_code_outside_of_the_block():
    ideas = applicable(TEMPLATE, ON_CARDS)
    first = next(idea for idea in ideas if idea.patch)
    before = [history_row(0, TEMPLATE, idea.id) for idea in ideas[: ideas.index(first)]]
    source = propose(request(1, [BASELINE, *before], limits=ON_A_CARD)).source
    outside = lambda text: ast.dump(ast.parse(rewrite_block(text)))  # noqa: E731
    assert outside(source) != outside(TEMPLATE)
    assert outside(propose(request(2, limits=ON_A_CARD)).source) == outside(TEMPLATE)


def rewrite_block(source: str) -> str:
    head, _, rest = source.partition("# === constants ===")
    return head + rest.partition("# === end of constants ===")[2]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ('allowed_categories = ["tune"]', None),
        ('allowed_categories = ["architecture"]', ARCHITECTURE),
        (f'forbidden_ideas = ["{IDEAS[0].id}"]', IDEAS[1].id),
    ],
)
def test_the_program_steers(settings, kind):
    assert propose(request(1, settings=settings)).bank_id == kind


def test_ranges_and_fixed_names_hold():
    others = constant_values(TEMPLATE)
    del others["MATRIX_LR"]
    settings = "[ranges]\nMATRIX_LR = [0.03, 0.05]\nAVERAGE_LAST = [0.1, 0.2]\n[fixed]\nnames = "
    settings += json.dumps(list(others))
    for experiment in (2, 3, 5):
        values = constant_values(propose(request(experiment, settings=settings)).source)
        assert 0.03 <= values.pop("MATRIX_LR") <= 0.05
        assert values == others


def test_ideas_that_do_not_apply_are_reported():
    first = next(idea for idea in IDEAS if idea.patch)
    # A line that it looks for, changed by other hands.
    changed = first.edits[-1].search.rstrip()
    source = TEMPLATE.replace(changed, re.sub(r"([=(,])", r"\1 1 *", changed, count=1))
    then = applicable(source)
    assert first not in then
    proposal = propose(request(1, source=source, history=[BASELINE]))
    assert proposal.bank_id == then[0].id
    before = ON_A_CPU[: ON_A_CPU.index(then[0])]
    assert proposal.not_applicable == sorted(idea.id for idea in before)
    assert first.id in proposal.not_applicable or IDEAS.index(first) > 0


def test_each_kind_of_device_has_an_order_of_its_own():
    source = rewrite_constants(TEMPLATE, {"DEPTH": 4})
    cards, cpu = applicable(source, ON_CARDS), applicable(source, ON_A_CPU)
    assert cards[0] != cpu[0]
    for kind, ideas in (("cpu", cpu), ("cuda", cards)):
        limits = request()["limits"] | {"device_kind": kind}
        assert propose(request(1, source=source, limits=limits)).bank_id == ideas[0].id


@pytest.mark.parametrize(
    ("wanted", "settings"),
    [
        ("half-batch", '[fixed]\nnames = ["ADAM_BETA2"]'),  # one of the constants that it changes
        ("half-batch", "[ranges]\nTOTAL_BATCH_SIZE = [%(TOTAL_BATCH_SIZE)d, 1048576]"),
        ("weight-average", "[ranges]\nAVERAGE_LAST = [0.2, 0.4]"),  # one that it would bring
    ],
)
def test_ideas_obey_ranges_and_fixed_constants(wanted, settings):
    others = ", ".join(f'"{idea.id}"' for idea in IDEAS if idea.id != wanted)
    only = f'allowed_categories = ["optimizer"]\nforbidden_ideas = [{others}]\n'
    assert propose(request(1, settings=only)).bank_id == wanted
    with pytest.raises(ProposalError, match="nothing is left"):
        propose(request(1, settings=only + settings % constant_values(TEMPLATE)))


def test_exhausted_ideas():
    history = [BASELINE]
    for number, idea in enumerate(IDEAS, 1):
        score = 1.601 if number == 2 else 1.7
        history.append(history_row(number, idea.apply(TEMPLATE), idea.id, score=score))
    assert propose(request(4, history)).category == "tune"
    with pytest.raises(ProposalError, match='add "tune"'):
        propose(request(4, history, settings='allowed_categories = ["architecture"]'))
    # On a new incumbent the near miss gets another chance.
    kept = rewrite_constants(TEMPLATE, {"MATRIX_LR": 0.05})
    history.append(history_row(4, kept, decision="keep", score=1.59))
    again = propose(request(7, history, source=kept, parent_experiment=4))
    assert again.bank_id == IDEAS[1].id
    history.append(history_row(5, again.source, again.bank_id, score=1.6, parent=4))
    assert propose(request(7, history, source=kept, parent_experiment=4)).category == "tune"


def test_what_was_tried_is_not_proposed_again():
    first = propose(request(2))
    history = [BASELINE, history_row(1, first.source)]
    assert source_hash(propose(request(2, history)).source) != source_hash(first.source)


def test_search_never_imports_torch():
    code = "import harness.search.propose, harness.rules.keep, sys\n"
    code += "print(sorted({'torch', 'optuna'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"  # nor optuna before it is needed
