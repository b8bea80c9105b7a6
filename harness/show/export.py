"""A run's best in a folder of its own, for somebody who has not seen the run: its train.py,
weights, a model card, what was measured, and the confirmed changes as commits to be merged.

In: a run. Out: files in a new folder; the repository stays as it is. Refuses a run that kept
nothing, and a folder that is there already.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import harness
from harness.data.manifest import open_prepared
from harness.ground.errors import DataError, LoopError, ParameterError
from harness.ground.files import write_text_atomic
from harness.ground.text import one_line
from harness.lab.changes import NotAlone, baseline_with
from harness.lab.close_out import NAME, CloseOut, read_close_out, words_of_claim
from harness.lab.close_out_findings import CONFIRMED, Finding, findings_of, sentences
from harness.run.git_history import (
    CommitPlan,
    commit_message,
    git,
    make_commit,
    read_ref,
    set_ref,
)
from harness.run.profiles import OVERRIDABLE, PROFILES
from harness.run.run import Run, claim_command
from harness.run.settings import Settings, environment_words
from harness.show.sentences import quoted

CARD = """# {tag}: {title}

{claim}. It scored {score:.6f} bits per byte of validation text (mean of {runs}) in the night that
chose it, a figure that luck flatters.

- run {tag}, experiment {number}, commit {commit}
- {parameters:,} parameters, trained on {tokens:,} tokens in {steps:,} steps
- {environment}

## What was changed

{changes}

## What is here

{files}

`{again}` trains it again, in a checkout of the lab.
All figures hold for this machine, this budget and this text.
"""
FILES = {
    "best/train.py": "the best file, with its numbers",
    "best/provenance.json": "run, commits, data, machine, clock and claim",
    "best/weights.safetensors": "of one of its trainings",
    NAME: "every training of the close-out",
}


def export(run: Run, target: Path) -> list[str]:
    """Write the folder; return sentences on what is in it, and on what is not."""
    if target.exists():
        raise ParameterError(f"{target} is there already: name a new folder")
    if run.state.incumbent is None:
        raise LoopError(f"there is no run with a baseline in {run.folder}")
    if not run.state.incumbent.number:
        raise LoopError(f"run {run.folder.name} kept nothing, so there is nothing to export")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        made.mkdir()
        found = read_close_out(run.folder).about(run.state.incumbent.number)
        files = []
        for name, what in FILES.items():
            path = run.folder / name
            there = path.exists() and path.resolve() == run.folder.resolve() / name  # no link
            if there:
                shutil.copy(path, made)
            files.append(f"{path.name}: {what if there else 'gone, or never made'}")
        if tokenizer := tokenizer_of(run):
            shutil.copy(tokenizer, made)
        what = "its vocabulary" if tokenizer else "gone, with the prepared data"
        files.append(f"tokenizer.json: {what}")
        files += export_changes(run, findings_of(run.state, found), made)
        write_text_atomic(made / "README.md", card(run, found, files))
        made.rename(target)
    return [*files, f"README.md: the model card, in {target}"]


def card(run: Run, found: CloseOut, files: Sequence[str]) -> str:
    """The model card."""
    best = run.state.incumbent
    last = best.attempt.scored[-1].trained
    claim = f"It is not measured on fresh seeds yet (`{claim_command(run.folder)}`)"
    if found.claimed:
        claim = f"On fresh seeds {words_of_claim(found.claimed)}"
    changes = list(sentences(run.state, found, quoted))
    changes = changes or [
        f"experiment {e.number}: {quoted(e.decided['title'])}" for e in run.state.kept[1:]
    ]
    return CARD.format(
        tag=run.settings.tag,
        title=quoted(best.decided["title"]),
        claim=claim,
        score=best.mean,
        runs=len(best.attempt.scores),
        number=best.number,
        commit=best.commit or "none",
        parameters=last.get("num_params") or 0,
        tokens=last.get("total_tokens") or 0,
        steps=last.get("num_steps") or 0,
        environment=environment_words(run.settings),
        changes="\n".join(f"- {one_line(words)}" for words in changes),
        files="\n".join(f"- {words}" for words in files),
        again=" ".join(["python -m harness train train.py", *profile_options(run.settings)]),
    )


def profile_options(settings: Settings) -> list[str]:
    """Options with which a training has the run's profile; constants are in train.py."""
    name, fields = settings.profile["name"], settings.profile
    shipped = asdict(PROFILES[name]) if name in PROFILES else {}
    changed = [f for f in OVERRIDABLE if f in shipped and fields.get(f, shipped[f]) != shipped[f]]
    return [f"--profile {name}", *(shlex.quote(f"--set={f}={fields[f]}") for f in changed)]


def tokenizer_of(run: Run) -> Path | None:
    """The tokenizer of the run's data; None where these are gone or others."""
    try:
        data = open_prepared(run.settings.data_folder)
    except DataError:
        return None
    is_its_own = data.data_hash == run.settings.data_hash
    return data.folder / "train/tokenizer.json" if is_its_own else None


def export_changes(run: Run, findings: Sequence[Finding], target: Path) -> list[str]:
    """A commit for each confirmed change on top of the baseline's, made in a repository that is
    thrown away, as a bundle and as patches; return sentences on them."""
    confirmed = [finding for finding in findings if finding.verdict == CONFIRMED]
    base, parent = run.settings.base_commit, run.state.kept[0].commit
    if not confirmed:
        return ["no commits: no change is confirmed alone"]
    if not parent:
        return ["no commits: no git history"]
    if read_ref(harness.REPOSITORY, f"{parent}^{{commit}}") is None:
        return [
            "no commits: this checkout lacks those of the run, which clones do not bring: export "
            "where the run was made"
        ]
    branch, left_out, numbers = f"autoresearch/{run.settings.tag}-confirmed", [], []
    with tempfile.TemporaryDirectory() as folder:
        copy, train_py, repository = Path(folder, "copy.git"), Path(folder, "x"), harness.REPOSITORY
        git(repository, "clone", "--quiet", "--bare", "--shared", str(repository), str(copy))
        for finding in confirmed:
            number = finding.experiment
            try:
                train_py.write_text(baseline_with(run, [*numbers, number]), encoding="utf-8")
            except NotAlone as error:
                needs = f"it needs a change that is not confirmed ({error})"
                left_out.append(f"no commit of experiment {number}: {needs}")
                continue
            numbers.append(number)
            plan = CommitPlan(**run.state.experiments[number].decided["git"])
            message = commit_message(number, finding.title, [f"the change {finding.words}"])
            parent = make_commit(copy, replace(plan, parent=parent, message=message), train_py)
        set_ref(copy, f"refs/heads/{branch}", parent, None)
        git(copy, "bundle", "create", "-q", str(target / "changes.bundle"), branch, f"^{base}")
        git(copy, "format-patch", "-q", "-o", str(target / "changes"), f"{base}..{branch}")
    pull = f"git pull changes.bundle {branch}"
    made = (
        f"changes.bundle: the baseline and {len(numbers)} confirmed changes, a commit each: {pull}"
    )
    return [made, "changes/: the same as patches, for git am", *left_out]
