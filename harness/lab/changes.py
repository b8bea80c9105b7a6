"""The changes that a run's best is made of, each put on another file or taken off again.

In: a run, whose kept files lie as they were trained. Out: the text of a train.py with or without
some of them, or NotAlone, which says why a change does not come off, or go on, by itself. Numbers
go by name and the rest by git's merge of three texts, so that neighbouring lines of the constants'
block are no conflict. Writes nothing; the same files give the same text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.ground.errors import ConstantsError, HistoryError
from harness.run.git_history import git
from harness.run.run import Run
from harness.run.state import Experiment
from harness.search.constants import constant_values, rewrite_constants
from harness.search.gate import check_candidate, source_hash


class NotAlone(ValueError):
    """A change cannot be taken off a file, or put on it, by itself; the message says why."""


def best_without(run: Run, numbers: Sequence[int]) -> str:
    """The best's text without what these experiments brought, the newest taken off first."""
    best = source = read_source(run, run.state.incumbent)
    for experiment in reversed(run.state.kept[1:]):
        if experiment.number in numbers:
            before, after = sides_of(run, experiment)
            source = with_change(source, after, before)
    if source_hash(source) == source_hash(best):
        raise NotAlone("nothing of it is left in the best")
    return source


def baseline_with(run: Run, numbers: Sequence[int]) -> str:
    """The baseline's text with what these experiments brought, in the order of the night."""
    source = read_source(run, run.state.kept[0])
    for experiment in run.state.kept[1:]:
        if experiment.number in numbers:
            source = with_change(source, *sides_of(run, experiment))
    return source


def sides_of(run: Run, experiment: Experiment) -> tuple[str, str]:
    """The file that a kept experiment is a change of, and its own.

    That is what was on the branch before; of one that a person accepted later, what it began with.
    """
    kept, parent = run.state.kept, experiment.attempt.proposed.get("parent")
    before = kept[kept.index(experiment) - 1]
    before = next((each for each in kept if each.number == parent), before)
    return read_source(run, before), read_source(run, experiment)


def read_source(run: Run, experiment: Experiment) -> str:
    return run.train_py(experiment).read_text(encoding="utf-8")


def with_change(source: str, before: str, after: str) -> str:
    """source with the change that leads from before to after. Raises NotAlone."""
    try:
        here, old, new = (constant_values(text) for text in (source, before, after))
        moved = {name: new[name] for name in new if name in old and old[name] != new[name]}
        # One that stands at its new value already is no conflict.
        twice = [name for name in moved if here.get(name) not in (old[name], new[name])]
        if twice:
            raise NotAlone(f"another change moved {', '.join(twice)}, too")
        # numbers that others changed are no difference between the three texts
        sides = [
            rewrite_constants(text, {n: here[n] for n in names if n in here}, clamp=False)
            for text, names in ((before, old), (after, new))
        ]
        result = rewrite_constants(merge(source, *sides), moved, clamp=False)
    except ConstantsError as error:
        raise NotAlone(str(error)) from error
    if reasons := check_candidate(result):
        raise NotAlone(f"the rest is no train.py that may run: {reasons[0]}")
    return result


def merge(source: str, before: str, after: str) -> str:
    """source with the lines changed that differ between before and after."""
    if before == after:
        return source
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("source", "before", "after")]
        for path, text in zip(paths, (source, before, after), strict=True):
            path.write_bytes(text.encode())
        try:
            git(Path(folder), "merge-file", "-q", *map(str, paths))
        except HistoryError as error:
            conflicts = error.status is not None and error.status < 128
            why = "another change is on the same lines" if conflicts else str(error)
            raise NotAlone(why) from error
        return paths[0].read_bytes().decode()
