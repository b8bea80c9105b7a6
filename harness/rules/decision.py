"""What is written when an experiment is decided: the `decided` entry, the lines of its commit, its
row in a proposer's history.

In: the state. Out: plain data. Pure; the verdict itself is `harness.rules.keep`'s.
"""

from __future__ import annotations

from harness.rules.next_step import verdict
from harness.rules.quarantine import quarantine_reasons
from harness.run.state import (
    MOST_CUT_OFF,
    MOST_UNSURE,
    NOT_HELD_AGAINST,
    Attempt,
    Experiment,
    State,
)

# What a proposer may know of an experiment: of its proposal, its decision and its last training.
PROPOSED = (
    *("title", "hypothesis", "category", "operator", "proposer", "constants"),
    *("sha256", "structure", "bank_id", "parent", "sources", "model", "llm_failed"),
)
DECIDED = ("status", "decision", "kind", "val_bpb", "gain", "sigma", "n_runs")
MEASURED = ("memory_mb", "tok_per_sec", "num_steps", "losses")


def decision(state: State, budget_seconds: float) -> dict:
    """The `decided` entry of the newest experiment, pure in the state."""
    experiment = state.experiments[-1]
    attempt = experiment.attempt
    entry = known_at_decision(state, experiment)
    if experiment.number == 0:
        return entry | end("baseline", "ok", "baseline", f"the baseline: {state.noise.words}")
    entry["incumbent"] = state.incumbent.number
    if not attempt.checked["ok"]:
        words = "refused before training: " + "; ".join(attempt.checked["reasons"])
        return entry | end("discard", "invalid_patch", "invalid_patch", words)
    if attempt.failure:
        status, words = failure_in_words(attempt)
        return entry | end("discard", status, status, words) | {"val_bpb": None}
    found = verdict(state, experiment)
    entry |= {"gain": round(found.gain, 6), "threshold": found.threshold, "status": "ok"}
    entry |= {"loss_bound": found.loss_bound, "incumbent_runs": len(state.rivals)}
    words = found.words
    if found.decision == "keep":
        reasons = quarantine_reasons(state, experiment, found.gain, budget_seconds)
        if reasons:
            words = f"for a person to look at: {'; '.join(reasons)}. Otherwise: {words}"
            doubted = {"decision": "quarantine", "kind": "quarantine", "doubts": reasons}
            return entry | doubted | {"verdict": words}
        looks = [run.audited.get("holdout") for run in attempt.runs if run.audited]
        if any(looks):
            words = f"{words}; the private holdout {[look for look in looks if look][-1]}"
    return entry | {"decision": found.decision, "kind": found.kind, "verdict": words}


def known_at_decision(state: State, experiment: Experiment) -> dict:
    """The fields of a `decided` entry that need no verdict; null where that may fill them."""
    attempt, noise = experiment.attempt, state.noise
    proposed = {name: attempt.proposed[name] for name in ("title", "category", "proposer")}
    memory = [run.trained.get("memory_mb") or 0.0 for run in attempt.runs if run.trained]
    return {
        "experiment": experiment.number,
        "attempt": len(experiment.attempts) - 1,
        **proposed,
        "code_lines": attempt.proposed["code_lines"],
        "val_bpb": experiment.mean,
        "n_runs": len(attempt.scores),
        "sigma": noise.sigma if noise.df else None,
        "df": noise.df,
        "noise": noise.words,
        "memory_gb": round(max(memory, default=0.0) / 1024, 3),
    } | dict.fromkeys(("gain", "threshold", "loss_bound", "incumbent", "incumbent_runs"))


def end(decision: str, status: str, kind: str, verdict: str) -> dict:
    """How an experiment ended, as fields of its `decided` entry."""
    return {"decision": decision, "status": status, "kind": kind, "verdict": verdict}


def failure_in_words(attempt: Attempt) -> tuple[str, str]:
    """Status and verdict of an attempt whose failure is held against it."""
    run = attempt.failure
    if run is attempt.fatal:
        words = f"the harness itself died {MOST_CUT_OFF} times while this trained"
        return "crash", f"crash: {words}"
    if run.disturbed:
        words = f"inconclusive: {MOST_UNSURE} of its trainings were disturbed, at last: {run.cause}"
        return run.status, words
    if run.status in NOT_HELD_AGAINST:
        times = f"{len(attempt.unsure)} times it ended for a reason that it says is not its own"
        return "crash", f"crash: {times}, and nobody else saw: {run.cause}"
    return run.status, f"{run.status}: {run.cause}"


def commit_facts(entry: dict) -> list[str]:
    """The body of an experiment's commit message."""
    score = "none"
    if entry["val_bpb"] is not None:
        score = f"{entry['val_bpb']:.6f} (mean of {entry['n_runs']})"
    return [
        f"decision: {entry['decision']}",
        f"val_bpb: {score}",
        f"verdict: {entry['verdict']}",
        f"category: {entry['category']}, proposed by {entry['proposer']}",
    ]


def history_row(experiment: Experiment) -> dict:
    """What a proposer may know of an experiment: plain data."""
    attempt, decided = experiment.attempt, experiment.decided or {}
    runs = [run for run in attempt.own if run.trained and run.started["kind"] != "smoke"]
    last = runs[-1].trained if runs else {}
    failure = attempt.failure
    return {
        "experiment": experiment.number,
        "cause": failure.cause if failure else decided.get("verdict", ""),
        **{name: attempt.proposed.get(name) for name in PROPOSED},
        **{name: decided.get(name) for name in DECIDED},
        **{name: last.get(name) for name in MEASURED},
        "tried": [each.proposed["sha256"] for each in experiment.attempts],
    }
