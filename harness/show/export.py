"""A run's best in a folder of its own, for somebody who has not seen the run: its train.py,
weights, a model card, what was measured, and the confirmed changes as commits to be merged.

In: a run. Out: files in a new folder; the repository stays as it is. Refuses a run that kept
nothing, and a folder that is there already.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import harness
from harness.ground.errors import LoopError, ParameterError
from harness.ground.files import read_json, write_text_atomic
from harness.ground.text import one_line
from harness.lab.changes import NotAlone, baseline_with
from harness.lab.close_out import NAME, CloseOut, read_close_out, words_of_claim
from harness.lab.findings import CONFIRMED, Finding, findings_of, sentences
from harness.run import git_history
from harness.run.git_history import CommitPlan, commit_message, git
from harness.run.run import Run, claim_command
from harness.run.settings import clock_words, environment_words
from harness.search.patch import make_diff

CARD = """# {title}

{claim}

| | |
|---|---|
| score | {score:.6f} bits per byte of validation text, {runs} |
| parameters | {parameters} |
| trained on | {tokens} tokens in {steps} steps, {budget:g} s by this clock: {clock} |
| data | {data}, from {source} |
| with | {environment} |
| run | {tag}, experiment {number}, commit {commit} |

## What was changed

{changes}

## What is here

{files}

To train it again, in a checkout of the lab: `python -m harness train {folder}/train.py --profile
{profile}`. The score holds for this machine, this budget and this text. It was judged during the
night that chose it, so it is flattered by luck; only the claim above, on fresh seeds, is not.
"""


def export(run: Run, target: Path) -> list[str]:
    """Write the folder; return sentences on what is in it, and on what is not."""
    state = run.state
    if target.exists():
        raise ParameterError(f"{target} is there already: name a new folder")
    if state.incumbent is None:
        raise LoopError(f"there is no run with a baseline in {run.folder}")
    if not state.incumbent.number:
        raise LoopError(f"run {run.folder.name} kept nothing, so there is nothing to export")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        made.mkdir()
        files = write_files(run, made)
        made.rename(target)
    return [*files, f"`README.md`: the model card, in {target}"]


def write_files(run: Run, target: Path) -> list[str]:
    """All files; return sentences on them."""
    found, best = read_close_out(run.folder), run.folder / "best"
    files = ["`train.py`: the best file, with its numbers", "`provenance.json`: where it is from"]
    for name in ("train.py", "provenance.json"):
        shutil.copy(best / name, target)
    if (best / "weights.safetensors").exists():
        shutil.copy(best / "weights.safetensors", target)
        provenance = read_json(best / "provenance.json")
        seed = f"one training that scored {provenance['weights_val_bpb']:.6f}"
        files.append(f"`weights.safetensors`: of {seed}")
    else:
        files.append("no weights: they are gone from the run, and train.py trains them again")
    if found.comparisons:
        shutil.copy(run.folder / NAME, target)
        files.append(f"`{NAME}`: every training of the close-out")
    files += export_changes(run, findings_of(run.state, found), target)
    write_text_atomic(target / "README.md", card(run, found, files, target))
    return files


def card(run: Run, found: CloseOut, files: Sequence[str], target: Path) -> str:
    """The model card."""
    settings, best = run.settings, run.state.incumbent
    last = best.attempt.scored[-1].trained
    claimed = found.claimed if found.claimed and found.claimed["best"] == best.number else None
    unmeasured = f"Not measured on fresh seeds yet: `{claim_command(run.folder)}`"
    known = list(sentences(run.state, found)) if claimed else []
    changes = known or [f"experiment {e.number}: {e.decided['title']}" for e in run.state.kept[1:]]
    return CARD.format(
        title=f"{settings.tag}: {one_line(best.decided['title'])}",
        claim=f"{words_of_claim(claimed)}." if claimed else f"{unmeasured}.",
        score=best.mean,
        runs=f"mean of {len(best.attempt.scores)}",
        parameters=f"{last.get('num_params') or 0:,}",
        tokens=f"{last.get('total_tokens') or 0:,}",
        steps=f"{last.get('num_steps') or 0:,}",
        budget=settings.budget_seconds,
        clock=clock_words(settings),
        data=settings.data_id,
        source=settings.profile["source"],
        environment=environment_words(settings),
        tag=settings.tag,
        number=best.number,
        commit=best.commit or "none",
        changes="\n".join(f"- {one_line(words)}" for words in changes),
        files="\n".join(f"- {words}" for words in files),
        folder=target.name,
        profile=settings.profile["name"],
    )


def export_changes(run: Run, findings: Sequence[Finding], target: Path) -> list[str]:
    """Write each confirmed change as a patch, and where there is history as a commit of a bundle;
    return sentences on them."""
    confirmed = [finding for finding in findings if finding.verdict == CONFIRMED]
    if not confirmed:
        return ["no commits: no change is confirmed alone"]
    series, left_out, numbers = [], [], []
    for finding in confirmed:
        try:
            source = baseline_with(run, [*numbers, finding.experiment])
        except NotAlone as error:
            needs = "it needs a change that is not confirmed"
            left_out.append(f"no commit of experiment {finding.experiment}: {needs} ({error})")
            continue
        numbers.append(finding.experiment)
        series.append((finding, source))
    if not series:
        return left_out
    if run.state.kept[0].commit:
        return [*export_commits(run, series, target), *left_out]
    before = baseline_with(run, [])
    folder = target / "changes"
    folder.mkdir()
    for finding, source in series:
        name = f"{finding.experiment:04d}.patch"
        write_text_atomic(folder / name, make_diff(before, source))
        before = source
    what = "the confirmed changes one by one, for `git apply` on the baseline's train.py"
    return [f"`changes/`: {what}", *left_out]


def export_commits(run: Run, series: Sequence[tuple[Finding, str]], target: Path) -> list[str]:
    """One commit a change on top of the baseline's, made in a repository that is thrown away."""
    base, baseline = run.settings.base_commit, run.state.kept[0]
    branch = f"autoresearch/{run.settings.tag}-confirmed"
    with tempfile.TemporaryDirectory() as folder:
        copy, train_py = Path(folder, "copy.git"), Path(folder, "train.py")
        repository = harness.REPOSITORY
        git(repository, "clone", "--quiet", "--bare", "--shared", str(repository), str(copy))
        parent = baseline.commit
        for finding, source in series:
            experiment = run.state.experiments[finding.experiment]
            plan = CommitPlan(**experiment.decided["git"])
            message = commit_message(finding.experiment, finding.title, [finding.words])
            train_py.write_text(source, encoding="utf-8")
            plan = replace(plan, parent=parent, message=message)
            parent = git_history.make_commit(copy, plan, train_py)
        git_history.set_ref(copy, f"refs/heads/{branch}", parent, None)
        git(copy, "bundle", "create", "-q", str(target / "changes.bundle"), branch, f"^{base}")
        out = str(target / "changes")
        git(copy, "format-patch", "-q", "--no-signature", "-o", out, f"{base}..{branch}")
    pull = f"git pull {target.name}/changes.bundle {branch}"
    return [
        f"`changes.bundle`: the baseline, and a commit for each confirmed change: `{pull}`",
        "`changes/`: the same as patches, for `git am`",
    ]
