"""How the baseline trains on this machine's card: compiled or not, with which attention, and how
many rows at once. Found once, by training a few real steps, and kept for the machine, unless
something failed: then the next run tries again.

In: the run's executor, the baseline's source. Out: a `Fit`. First it is tried as the settings say.
If that fails, it is tried with plain attention, then uncompiled, then with both. Not done on a CPU:
nothing is compiled there unless asked for, and memory is paged, so that an allocation seldom fails.
A training that does run out of memory there is repeated with fewer rows, as on a card.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from harness.ground.cards import newer_attention
from harness.lab.device_batch import search_rows, try_rows
from harness.lab.executor import Executor
from harness.lab.machine_facts import PROBE, MachineFact
from harness.run.state import NOT_HELD_AGAINST

# Attention that runs wherever PyTorch does.
PLAIN = {"full": "causal", "windowed": "chunked"}
NAMES = {True: "compiled", False: "eager"}


@dataclass(frozen=True)
class Fit:
    """attention: kernels, {} where each process chooses. device_batch_limit: rows at once, None for
    no limit. fell: what failed before this was found, "" for nothing."""

    compile: bool
    attention: dict[str, str] = field(default_factory=dict)
    device_batch_limit: int | None = None
    fell: str = ""


def find_fit(executor: Executor, source: str, say: Callable[[str], None] = print) -> Fit:
    """How trainings of this run are to go; as the settings say where nothing works, since the
    baseline, which comes next, will say what is wrong."""
    settings = executor.settings
    wanted = Fit(settings.compile)
    if settings.device["kind"] == "cpu":
        return wanted
    fact = MachineFact(settings, "fit", facts_of(executor, source))
    with contextlib.suppress(TypeError):  # not tried yet, or another's
        return Fit(**fact.read())
    say(
        f"trying how the baseline trains on the {settings.device['name']}, and how many rows at a "
        "time fit into its memory: once, then it is known"
    )
    train_py = executor.folder / PROBE / "train.py"
    train_py.parent.mkdir(parents=True, exist_ok=True)
    train_py.write_text(source, encoding="utf-8")
    fit, trials = descend(executor, train_py, say)
    if fit is None or fit.fell:
        return fit or wanted
    fact.keep(asdict(fit), trials=trials)
    return fit


def facts_of(executor: Executor, source: str) -> dict:
    """All that the answer depends on."""
    settings, data = executor.settings, executor.data
    return {
        "format_version": 3,
        "device": settings.device["name"],
        "memory_mb": settings.device["memory_mb"],
        "torch": settings.versions["torch"],
        "train_py_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "max_seq_len": data.max_seq_len,
        "n_vocab": data.n_vocab,
        "dtype": settings.dtype,
        "compile": settings.compile,
        "newer_attention": newer_attention(),
    }


def ladder(compiles: bool) -> list[tuple[bool, dict[str, str]]]:
    """Whether to compile, and the attention ({} is the self-test's choice), the best first."""
    return [(each, how) for each in (True, False)[not compiles :] for how in ({}, PLAIN)]


def descend(
    executor: Executor, train_py: Path, say: Callable[[str], None]
) -> tuple[Fit | None, list[dict]]:
    """The highest rung on which the file trains, and what was tried; None where it does on none, or
    the machine was to blame."""
    failures, trials = [], []
    for compiles, attention in ladder(executor.settings.compile):
        name = f"{NAMES[compiles]} with {'plain' if attention else 'the fastest'} attention"
        how = {"compile": compiles, "attention": attention}
        train = partial(try_rows, executor, train_py, how)
        found = search_rows(train, executor.settings.device["memory_mb"], say)
        trials += found["trials"]
        if found["status"] in NOT_HELD_AGAINST:
            return None, trials
        if found["failed"]:
            say(f"the baseline does not train {name}: {found['failed']}")
            failures.append(f"{name} ({found['failed']})")
            continue
        fell = f"the baseline trains {name}, since it failed {', '.join(failures)}"
        chosen = {kind: found["attention"][kind] for kind in PLAIN} if found["attention"] else {}
        limit = found["device_batch_limit"]
        return Fit(compiles, chosen, limit, fell if failures else ""), trials
    return None, trials
