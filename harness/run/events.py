"""What each entry of a journal holds: the one place that names its fields.

Every entry has seq (its line, from 0), time (UTC) and event besides. A field is null where nothing
is known.
"""

_RUN = {
    "experiment": "number, 0 for the baseline",
    "attempt": "which train.py of the experiment: 0, more where it was mended",
    "run": "number of the training among those of the attempt",
}
_FILE = {"experiment": _RUN["experiment"], "attempt": _RUN["attempt"]}
_END = {
    "status": "ok, crash, oom, nan, timeout, infrastructure, interrupted or cheating",
    "cause": "why it is not ok, in words",
    "sure": "whether an end that is not held against the idea was beyond its reach",
}

# docs/commands.md is made from this.
EVENTS: dict[str, dict[str, str]] = {
    "opened": {
        "tag": "of the run",
        "seeds": "of the baseline's trainings",
        "prior": "sigma and degrees of freedom that the profile ships",
        "profile": "its name",
        "device_kind": "cpu, cuda or mps",
        "source": "of the data",
        "refresh_seconds": "how old the incumbent's last run may be at a keep",
        "max_looks": "trainings an idea may get",
        "device_batch_limit": "rows that fit at once, null for no limit",
    },
    "proposed": _FILE
    | {
        "title": "the idea in a line",
        "hypothesis": "why it should help",
        "category": "what it is about, as program.md allows",
        "proposer": "harness, tpe, bank, llm or external",
        "operator": "how it came about",
        "parent": "experiment that it is a change of",
        "sources": "experiments that it combines",
        "expected_delta": "bits per byte, as its proposer expects",
        "bank_id": "of the bank's idea",
        "constants_changed": "from and to",
        "not_applicable": "ideas of the bank that were passed over",
        "llm_failed": "why a language model was not asked, or gave nothing",
        "model": "the language model that was asked",
        "answered_by": "the one that its replies name",
        "usage": "its tokens and dollars for this",
        "exchange": "where its questions and answers are",
        "note": "what was done to its answer",
        "sha256": "of train.py",
        "constants": "all values",
        "code_lines": "statements",
        "structure": "hash of the file without its numbers",
        "smoke": "whether a few steps come first",
        "program_sha256": "of program.md then",
    },
    "checked": _FILE | {"ok": "whether the gate lets it pass", "reasons": "why not"},
    "unrepaired": _FILE
    | {"why": "no further attempt came", "usage": "tokens and dollars", "exchange": "where it is"},
    "run_started": _RUN
    | {
        "kind": "score, confirm, smoke or refresh",
        "seed": "of the training",
        "device_batch_limit": "rows it may hold at once",
        "fewer_rows": "whether that is for want of memory",
        "beside": "refresh: the experiment that the incumbent is trained again beside",
        "role": "close-out: best, baseline, template, or file without N",
    },
    "trained": _RUN
    | _END
    | {
        "cut_off": "whether its harness died",
        "startup_seconds": "before its clock started",
        "compiled": "whether it compiled anything anew in that time",
        "training_seconds": "charged to the budget",
        "overshoot_seconds": "charged beyond the budget",
        "weights_seconds": "charged between the stop and the weights",
        "spent_seconds": "charged in all",
        "wall_seconds": "that the training took",
        "core_seconds": "its CPU time",
        "others_core_seconds": "CPU time of others on the same cores",
        "other_processes_seconds": "CPU time of processes it started",
        "total_seconds": "from its launch to its end",
        "steps_per_second": "optimizer steps per charged second",
        "tok_per_sec": "tokens per charged second",
        "memory_kind": "vram or rss",
        "memory_mb": "at most",
        "attention": "kernels that were chosen",
        "device_batch_size": "rows at a time",
        "losses": "training loss, nats, by percent of the budget",
        "num_steps": "optimizer steps",
        "total_tokens": "trained on",
        "epochs": "passes over the text",
        "num_params": "parameters",
        "depth": "layers",
        "mfu_percent": "share of the card's peak",
        "wall": "bubblewrap or limits",
        "shared_with": "other runs on the device",
        "log_bytes": "of run.log when the training ended",
    },
    "scored": _RUN
    | _END
    | {
        "val_bpb": "bits per byte of the validation text",
        "nats": "their sum",
        "scored_bytes": "of the text",
        "scored_tokens": "of the text",
        "audit": "verdict and figures of the audit",
        "doubts": "for a person",
        "wall": "bubblewrap or limits",
        "score_seconds": "audit included",
        "holdout_bpb": "close-out: of the private holdout",
        "holdout_seconds": "close-out",
    },
    "audited": _RUN
    | _END
    | {
        "audit": "verdict and figures of the close audit",
        "doubts": "for a person",
        "val_bpb": "null where the score is believed no longer",
        "holdout": "agrees or disagrees with the gain",
        "unseen": "the same of text that no scoring process was shown",
        "unseen_floor_bpb": "the gain that could be looked up and be missed one time in ten",
        "wall": "bubblewrap or limits",
        "audit_seconds": "in all",
    },
    "decided": _FILE
    | {
        "title": "as proposed",
        "category": "as proposed",
        "proposer": "as proposed",
        "code_lines": "statements",
        "decision": "baseline, keep, discard or quarantine",
        "kind": "gain, simplification, within noise, worse, noise unknown, or a status",
        "status": "ok, invalid_patch, or of the run that failed",
        "verdict": "in words",
        "doubts": "quarantine: why a person is asked",
        "val_bpb": "mean of its runs",
        "n_runs": "how many",
        "sigma": "of one run, bits per byte",
        "df": "degrees of freedom of sigma",
        "noise": "where sigma comes from, in words",
        "gain": "on the incumbent, bits per byte",
        "threshold": "that a gain had to pass",
        "loss_bound": "what a simplification may have lost",
        "memory_gb": "at most",
        "incumbent": "experiment it was compared with",
        "incumbent_runs": "runs of that",
        "git": "what its commit is made of",
    },
    "committed": {"experiment": _RUN["experiment"], "commit": "null without git"},
    "ruled": {
        "experiment": _RUN["experiment"],
        "accept": "a person's word",
        "becomes_incumbent": "whether it is the best now",
        "commit": "on the branch, if so",
        "asked": "when the word was given",
    },
    "controlled": {
        "status": "how the trial of the best file ended",
        "cause": "why, in words",
        "suspects": "experiments that failed alike",
        "suspected": "their words",
    },
    "note": {
        "text": "what was mended",
        "about": "program.md, where that does not hold as it stands",
    },
    "claim_begun": {
        "best": "experiment to be claimed",
        "kind": "claim, ablation, simplified, elsewhere or longer: what is asked",
        "against": "other files; of each what it lacks, and why it cannot be made",
        "budgets": "of the night, that each training gets",
        "text": "another text: its source, sizes, data id, hash and folder",
        "seeds": "trainings of each file",
        "first_seed": "of them",
        "template": "whether the template is trained, too",
    },
    "claimed": {
        "best": "experiment",
        "against": "the file that it was compared with",
        "status": "ok, how it failed, or not alone",
        "cause": "why, in words",
        "val": "by how much the best is better, low and high, bits per byte",
        "holdout": "the same on the private holdout",
        "template_bpb": "of the template",
    },
}
