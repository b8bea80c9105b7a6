"""What the journal adds up to at a decision: the `decided` entry, its commit message, and what a proposer is told.

In: the state. Out: plain data. Pure; the verdict itself is `harness.rules.keep`'s.
"""

from __future__ import annotations

from harness.rules.next_step import verdict
from harness.rules.quarantine import quarantine_reasons
from harness.run.state import MOST_CUT_OFF, NOT_HELD_AGAINST, Experiment, State


def decision(state: State, budget_seconds: float) -> dict:
    """The `decided` entry of the newest experiment, pure in the state: decision, status, numbers and the verdict in words."""
    experiment = state.experiments[-1]
    attempt = experiment.attempt
    proposed = attempt.proposed
    noise = state.noise
    memory = max((run.trained.get("memory_mb") or 0.0 for run in attempt.runs if run.trained), default=0.0)
    entry = {
        "experiment": experiment.number, "attempt": len(experiment.attempts) - 1, "title": proposed["title"], "category": proposed["category"],
        "proposer": proposed["proposer"], "code_lines": proposed["code_lines"], "val_bpb": experiment.mean, "n_runs": len(attempt.scores),
        "sigma": noise.sigma if noise.df else None, "df": noise.df, "noise": noise.words, "memory_gb": round(memory / 1024, 3),
        "gain": None, "threshold": None, "loss_bound": None, "incumbent": None, "incumbent_runs": None,
    }  # fmt: skip
    if experiment.number == 0:
        return entry | {
            "decision": "baseline",
            "status": "ok",
            "kind": "baseline",
            "verdict": f"the baseline: {noise.words}",
        }
    entry["incumbent"] = state.incumbent.number
    if not attempt.checked["ok"]:
        words = "refused before training: " + "; ".join(attempt.checked["reasons"])
        return entry | {"decision": "discard", "status": "invalid_patch", "kind": "invalid_patch", "verdict": words}
    if run := attempt.failure:
        status, words = run.status, f"{run.status}: {run.cause}"
        if run == attempt.fatal:
            words = f"crash: the harness itself died {MOST_CUT_OFF} times while this trained"
            status = "crash"
        elif status in NOT_HELD_AGAINST:
            words = f"crash: {len(attempt.unsure)} times it ended for a reason that it says is not its own, and nobody else saw: {run.cause}"
            status = "crash"
        return entry | {"decision": "discard", "status": status, "kind": status, "verdict": words, "val_bpb": None}
    found = verdict(state, experiment)
    entry |= {"gain": round(found.gain, 6), "threshold": found.threshold, "status": "ok", "loss_bound": found.loss_bound}
    entry["incumbent_runs"] = len(state.rivals)
    reasons = quarantine_reasons(state, experiment, found.gain, budget_seconds) if found.decision == "keep" else []
    if reasons:
        words = f"for a person to look at: {'; '.join(reasons)}. Otherwise: {found.words}"
        return entry | {"decision": "quarantine", "kind": "quarantine", "doubts": reasons, "verdict": words}
    holdout = [run.audited["holdout"] for run in attempt.runs if run.audited and run.audited.get("holdout")]
    words = f"{found.words}; the private holdout {holdout[-1]}" if found.decision == "keep" and holdout else found.words
    return entry | {"decision": found.decision, "kind": found.kind, "verdict": words}


def commit_facts(entry: dict) -> list[str]:
    """The body of an experiment's commit message."""
    score = "none" if entry["val_bpb"] is None else f"{entry['val_bpb']:.6f} (mean of {entry['n_runs']})"
    proposer = f"category: {entry['category']}, proposed by {entry['proposer']}"
    return [f"decision: {entry['decision']}", f"val_bpb: {score}", f"verdict: {entry['verdict']}", proposer]


def history_row(experiment: Experiment) -> dict:
    """What a proposer may know of an experiment: plain data."""
    attempt, decided = experiment.attempt, experiment.decided or {}
    told = (
        "title", "hypothesis", "category", "operator", "proposer", "expected_delta", "constants", "sha256", "structure", "bank_id", "parent",
        "sources", "llm_failed",
    )  # fmt: skip
    found = ("status", "decision", "kind", "val_bpb", "gain", "sigma", "n_runs")
    measured = ("memory_mb", "tok_per_sec", "num_steps", "losses")
    row = {key: attempt.proposed.get(key) for key in told} | {key: decided.get(key) for key in found}
    trained = next(
        (run.trained for run in reversed(attempt.own) if run.trained and run.started["kind"] != "smoke"), {}
    )
    row |= {key: trained.get(key) for key in measured}
    failure = attempt.failure
    cause = failure.cause if failure else decided.get("verdict", "")
    row["tried"] = [each.proposed["sha256"] for each in experiment.attempts]
    return {"experiment": experiment.number, "attempts": len(experiment.attempts), "cause": cause} | row
