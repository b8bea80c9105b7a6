"""Profiles: what a night trains on and with, by hardware.

In: a device, as plain data from `harness.training.devices` (asked in a subprocess: this package never imports torch). Out: a Profile with
corpus, sizes, budget and the template's constants. A profile only names literals of the template's constants block.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.data.sources import open_source
from harness.ground.cgroup import cpu_count
from harness.ground.errors import DataError, ProfileError
from harness.run.noise import Prior

LARGE_CARD_MB = 70_000
UNKNOWN_NOISE_SEEDS = 4  # of a baseline whose noise nobody has measured before
NEVER_RUN = "never run on such hardware"  # said wherever the profile is named, until somebody has


@dataclass(frozen=True)
class Profile:
    """Sizes in tokens, times in seconds. constants rewrite the template's; tested says where the profile was really run.

    clock_step_seconds: what each optimizer step counts for, so that a training is the same however busy the machine is; 0 is the real clock. For tests.
    """

    name: str
    source: str
    vocab_size: int
    max_seq_len: int
    eval_tokens: int
    budget_seconds: float
    baseline_seeds: int
    startup_limit_seconds: float
    compile: bool
    tested: str
    prior: Prior | None = None
    constants: dict[str, object] = field(default_factory=dict)
    clock_step_seconds: float = 0.0


# The template's defaults suit a CPU, where tables are cheap and products dear. On cards a night begins from what was measured there
# (docs/data-and-hardware.md): the softcap stays, and the tables of the last tokens and the short convolution are ideas to be tried.
CARD = {"LOGIT_SOFTCAP": 15.0, "SHIFT_TAPS": 0, "NGRAM_TABLES": 0}

# The demo begins with a plain GPT under the original's rates, so that a short night has something to find: the short convolution
# and the tables, which gain most on a CPU, are ideas there and not in its baseline. One layer, as in the template: with two a step
# takes 1.6 times as long.
PLAIN = {
    "SHIFT_TAPS": 0,
    "NGRAM_TABLES": 0,
    "QK_SCALE": 1.0,
    "LOGIT_SOFTCAP": 15.0,
    "INIT_SCALE": 1.0,
    "X0_LAMBDA_INIT": 0.1,
    "MATRIX_LR": 0.04,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "SCALAR_LR": 0.5,
    "WEIGHT_DECAY": 0.2,
    "ADAM_BETA1": 0.8,
    "ADAM_BETA2": 0.95,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="large",
            source="climbmix:12",  # 770M tokens, where an H100 gets through 500M in one training of the original
            vocab_size=8192,
            max_seq_len=2048,
            eval_tokens=2**18,
            budget_seconds=300.0,
            baseline_seeds=4,
            startup_limit_seconds=900.0,
            compile=True,
            tested=NEVER_RUN,
            constants={
                "DEPTH": 9,
                "N_HEAD": 5,
                "HEAD_DIM": 128,
                "WINDOW_PATTERN": "SSSSL",
                "ROPE_BASE": 200000.0,
                **CARD,
                "TOTAL_BATCH_SIZE": 2**18,
                "DEVICE_BATCH_SIZE": 32,
            },
        ),
        Profile(
            name="small",
            source="climbmix:4",  # 1 GB of text; the baseline measures how much of it a training sees, and says so
            vocab_size=4096,
            max_seq_len=512,
            eval_tokens=2**18,
            budget_seconds=300.0,
            baseline_seeds=4,
            startup_limit_seconds=900.0,
            compile=True,
            tested=NEVER_RUN,
            constants={
                "DEPTH": 4,
                "N_HEAD": 4,
                "WINDOW_PATTERN": "SSSL",
                **CARD,
                "TOTAL_BATCH_SIZE": 2**14,
                "DEVICE_BATCH_SIZE": 32,
            },
        ),
        Profile(
            name="cpu",
            source="python-stdlib",
            vocab_size=2048,
            max_seq_len=256,
            eval_tokens=2**18,
            budget_seconds=300.0,
            baseline_seeds=4,
            startup_limit_seconds=300.0,
            compile=False,
            tested="2 CPU cores",
        ),
        Profile(
            name="demo",
            source="python-stdlib",
            vocab_size=2048,
            max_seq_len=256,
            eval_tokens=2**16,
            budget_seconds=20.0,
            baseline_seeds=2,
            startup_limit_seconds=120.0,
            compile=False,
            tested="2 CPU cores",
            constants=PLAIN,
            # 10 seeds on two idle cores gave 0.032, and 0.011 about the line of val_bpb against ln(steps): how fast a rented
            # core is adds more than seeds do. Rather a little too large, since too small a prior keeps noise.
            prior=Prior(
                sigma=0.025,
                df=4,
                note="10 seeds on two CPU cores, python-stdlib-3.11.7-f895907c, 112 to 159 steps (results/benchmarks/under_load.md)",
            ),
        ),
        Profile(
            name="tiny",
            source="python-stdlib",
            vocab_size=256,
            max_seq_len=64,
            eval_tokens=2**13,
            budget_seconds=1.0,
            baseline_seeds=2,
            startup_limit_seconds=60.0,
            compile=False,
            tested="2 CPU cores; for tests of the machinery, not for research",
            constants={
                "DEPTH": 2,
                "N_HEAD": 1,
                "HEAD_DIM": 32,
                "MLP_RATIO": 2,
                "NGRAM_ROWS": 1024,
                "TOTAL_BATCH_SIZE": 512,
            },
        ),
    )
}


def choose_profile(name: str, device: dict) -> Profile:
    """Return the named profile, or for `auto` the one that fits the device."""
    if name == "auto":
        of_its_own = device["backend"] == "cuda" and not device.get("integrated")
        if of_its_own and device["memory_mb"] >= LARGE_CARD_MB and device["dtype"] == "bfloat16":
            name = "large"
        else:
            name = "cpu" if device["kind"] == "cpu" else "small"
    if name not in PROFILES:
        raise ProfileError(f"no profile {name!r}: there are auto, {', '.join(PROFILES)}")
    return PROFILES[name]


OVERRIDABLE = (
    "source", "vocab_size", "max_seq_len", "eval_tokens", "budget_seconds", "baseline_seeds", "startup_limit_seconds", "compile",
    "clock_step_seconds",
)  # fmt: skip
NOT_IN_PRIOR = (
    "baseline_seeds",
    "startup_limit_seconds",
)  # whatever else changes, the shipped noise was measured without it


def parse_overrides(text: str) -> dict[str, object]:
    """Read "vocab_size=1024 DEPTH=4": sizes of the profile in lower case, constants of the template in capitals.

    Values are Python literals, or words. Raises ProfileError.
    """
    changes: dict[str, object] = {}
    for part in text.replace(",", " ").split():
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ProfileError(f"{part!r} is not NAME=VALUE: write for example vocab_size=1024 or DEPTH=4")
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value
    return changes


def override(profile: Profile, changes: Mapping[str, object]) -> Profile:
    """The profile with changes of its fields and, for names in capitals, of the template's constants; see parse_overrides.

    The shipped prior goes with anything that it was not measured on. Raises ProfileError for a name or type that does not fit.
    """
    constants = {name: value for name, value in changes.items() if name.isupper()}
    fields = {name: value for name, value in changes.items() if not name.isupper()}
    for name, value in fields.items():
        if name not in OVERRIDABLE:
            close = difflib.get_close_matches(name, OVERRIDABLE, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ProfileError(
                f"a profile has no {name!r}.{hint} There are {', '.join(OVERRIDABLE)}, and the template's constants"
            )
        kind = type(getattr(profile, name))
        if isinstance(value, int) and not isinstance(value, bool) and kind is float:
            fields[name] = value = float(value)
        if type(value) is not kind or (kind in (int, float) and value <= 0):
            raise ProfileError(
                f"{name} must be a positive {kind.__name__}, not {value!r}"
                if kind in (int, float)
                else f"{name} must be {kind.__name__}, not {value!r}"
            )
    if "source" in fields:
        fields["source"] = full_spec(fields["source"])
    measured = not constants and all(
        value == getattr(profile, name) for name, value in fields.items() if name not in NOT_IN_PRIOR
    )
    changed = profile if measured else without_prior(profile)
    return dataclasses.replace(changed, **fields, constants=profile.constants | constants)


def without_prior(profile: Profile) -> Profile:
    """The profile where its shipped noise does not hold: then the baseline's own seeds must measure it, and two of them cannot."""
    if profile.prior is None:
        return profile
    return dataclasses.replace(profile, prior=None, baseline_seeds=max(UNKNOWN_NOISE_SEEDS, profile.baseline_seeds))


def full_spec(source: str) -> str:
    """A source's spec as a run records it: with what it leaves to defaults, and good from any working directory."""
    try:
        return open_source(source).spec
    except DataError as error:
        raise ProfileError(str(error)) from error


def worker_threads(device: dict) -> int | None:
    """Threads for torch on a CPU: the cores this process may use; None leaves a GPU's host side alone."""
    return cpu_count() if device["kind"] == "cpu" else None
