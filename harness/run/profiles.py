"""Profiles: what a night trains on and with, by hardware; profiles.toml, beside this file.

In: a device, as plain data from `harness.training.devices` (asked in a subprocess: this package
never imports torch). Out: a Profile with corpus, sizes, budget and the template's constants. A
profile only names literals of the template's constants block.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.sources import open_source
from harness.ground.cgroup import cpu_count
from harness.ground.errors import DataError, ProfileError
from harness.run.noise import Prior

UNKNOWN_NOISE_SEEDS = 4  # of a baseline whose noise nobody has measured before
# What `tested` says until somebody has run the profile. It is said wherever the profile is named.
NEVER_RUN = "never run on such hardware"
# Whatever else changes, the shipped noise was measured without these.
NOT_IN_PRIOR = ("baseline_seeds", "startup_limit_seconds", "hopeless_nats")


@dataclass(frozen=True)
class Profile:
    """Sizes in tokens, times in seconds. tested: where the profile was really run.

    needs: the least of a card's facts for which `auto` takes it. needs_compiler: whether a card
    that cannot compile is refused. constants rewrite the template's. clock_step_seconds, for tests:
    what each optimizer step counts for, so that a training is the same however busy the machine is;
    0 is the real clock. hopeless_nats: how far above the best file's at equal progress an idea's
    training loss is hopeless, and the training ended early; 0 for never.
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
    hopeless_nats: float = 0.0
    needs: dict[str, float] = field(default_factory=dict)
    needs_compiler: bool = False


OVERRIDABLE = [
    each.name
    for each in dataclasses.fields(Profile)
    if each.name not in ("name", "tested", "prior", "constants", "needs", "needs_compiler")
]


def read_profiles(path: Path) -> dict[str, Profile]:
    """The profiles of a TOML file, a table each."""
    profiles = {}
    for name, fields in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if "prior" in fields:
            fields["prior"] = Prior(**fields["prior"])
        profiles[name] = Profile(name, **fields)
    return profiles


PROFILES = read_profiles(Path(__file__).with_name("profiles.toml"))


def choose_profile(name: str, device: dict) -> Profile:
    """Return the named profile, or for `auto` the one that fits the device."""
    if name == "auto":
        name = "cpu" if device["kind"] == "cpu" else fitting_profile(device)
    if name not in PROFILES:
        raise ProfileError(f"no profile {name!r}: there are auto, {', '.join(PROFILES)}")
    return PROFILES[name]


def fitting_profile(card: dict) -> str:
    """The largest profile that a card serves by its memory and by what it was measured to do."""
    for name, profile in PROFILES.items():
        needs = profile.needs.items()
        if needs and all((card.get(fact) or 0.0) >= least for fact, least in needs):
            return name
    return "small"


def parse_overrides(text: str) -> dict[str, object]:
    """Read "vocab_size=1024 DEPTH=4": sizes of the profile, the template's constants in capitals.

    Values are Python literals, or words. Raises ProfileError.
    """
    changes: dict[str, object] = {}
    for part in text.replace(",", " ").split():
        name, _, value = part.partition("=")
        if not value:
            raise ProfileError(f"{part!r} is not NAME=VALUE: write vocab_size=1024 or DEPTH=4")
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value
    return changes


def override(profile: Profile, changes: Mapping[str, object]) -> Profile:
    """The profile with changes of its fields and of the template's constants: see parse_overrides.

    The shipped prior goes with anything that it was not measured on. Raises ProfileError for a name
    or type that does not fit.
    """
    constants = {name: value for name, value in changes.items() if name.isupper()}
    fields = {
        name: checked_field(profile, name, value)
        for name, value in changes.items()
        if not name.isupper()
    }
    measured = not constants and all(
        value == getattr(profile, name)
        for name, value in fields.items()
        if name not in NOT_IN_PRIOR
    )
    changed = profile if measured else without_prior(profile)
    return dataclasses.replace(changed, **fields, constants=profile.constants | constants)


def checked_field(profile: Profile, name: str, value: object) -> object:
    """The value as the profile's field takes it. Raises ProfileError where it does not."""
    if name not in OVERRIDABLE:
        close = difflib.get_close_matches(name, OVERRIDABLE, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        known = ", ".join(OVERRIDABLE)
        raise ProfileError(
            f"a profile has no {name!r}.{hint} There are {known}, and the template's constants"
        )
    kind = type(getattr(profile, name))
    if kind is float and type(value) is int:
        value = float(value)
    is_number = kind in (int, float)
    if type(value) is not kind or (is_number and value <= 0):
        positive = "a positive " if is_number else ""
        raise ProfileError(f"{name} must be {positive}{kind.__name__}, not {value!r}")
    return full_spec(value) if name == "source" else value


def without_prior(profile: Profile) -> Profile:
    """The profile where its shipped noise does not hold.

    Then the baseline's own seeds must measure it, and two of them cannot.
    """
    if profile.prior is None:
        return profile
    seeds = max(UNKNOWN_NOISE_SEEDS, profile.baseline_seeds)
    return dataclasses.replace(profile, prior=None, baseline_seeds=seeds)


def full_spec(source: str) -> str:
    """A source's spec as a run records it: with its defaults, good from any working directory."""
    try:
        return open_source(source).spec
    except DataError as error:
        raise ProfileError(str(error)) from error


def worker_threads(device: dict) -> int | None:
    """Threads for torch on a CPU: the cores this process may use; None for a GPU's host side."""
    return cpu_count() if device["kind"] == "cpu" else None
