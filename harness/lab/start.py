"""Beginning a run: which profile, which data, which device; and the folder that freezes the answer.

In: what a notebook or the command line was given, mostly nothing. Out: prepared data, a `Lab`.
Refuses a tag that was used before for something else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from datetime import date
from pathlib import Path

import harness
from harness.data.manifest import PreparedData
from harness.data.prepare import DataSpec, find_prepared, prepare
from harness.ground.errors import ProfileError, SettingsError
from harness.lab.card_fit import Fit, find_fit
from harness.lab.clock_fit import find_worth
from harness.lab.loop import Lab
from harness.lab.proposing import baseline_source
from harness.run import git_history
from harness.run.profiles import (
    Profile,
    choose_profile,
    full_spec,
    override,
    parse_overrides,
    without_prior,
)
from harness.run.settings import (
    SLOWER,
    Settings,
    check_tag,
    make_settings,
    read_settings,
    results_folder,
    write_settings,
)
from harness.sandbox.compile_cache import forget_earlier_runs
from harness.sandbox.device import detect_device, try_device
from harness.search.constants import rewrite_constants

MAX_LOOKS = 3  # runs a candidate may get in all
# Of training since the incumbent's last run: on a card, which others seldom share, no keep beside
# an older one.
CARD_REFRESH_SECONDS = 2 * 3600.0


def find_profile(
    name: str = "auto", device: str = "auto", source: str = "", overrides: str = ""
) -> tuple[Profile, dict]:
    """Return (profile, device facts). A card is tried behind the wall, and compiling where the
    profile asks for it.

    overrides: such as "vocab_size=1024 DEPTH=4". Raises ProfileError, and ConstantsError for
    constants the template does not have.
    """
    facts = detect_device(device)
    profile = with_wishes(choose_profile(name or "auto", facts), source, overrides)
    if profile.compile or facts["kind"] != "cpu":
        facts = facts | try_device(facts["kind"], profile.compile)
    if profile.needs_compiler and facts.get("compile_error") and facts["kind"] == "cuda":
        raise ProfileError(
            f"nothing can be compiled here{SLOWER}: {facts['compile_error']}. Profile "
            f"{profile.name} goes on without only when asked to: --set compile=False"
        )
    return profile, facts


def with_wishes(profile: Profile, source: str, overrides: str) -> Profile:
    """The profile as asked for. Raises ProfileError, ConstantsError."""
    changes = parse_overrides(overrides) | ({"source": source} if source else {})
    profile = override(profile, changes)
    template = (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")
    rewrite_constants(template, profile.constants, clamp=False)
    return profile


def check_wishes(name: str, source: str, overrides: str) -> None:
    """Refuse what no device is needed to refuse. Raises ProfileError, ConstantsError."""
    with_wishes(choose_profile("cpu" if name == "auto" else name, {}), source, overrides)


def prepare_profile(
    profile: Profile, cache: str = "", progress: Callable[[str], None] = print
) -> PreparedData:
    """Prepare the profile's data, or find it prepared."""
    return prepare(data_of(profile, cache), progress=progress)


def data_of(profile: Profile, cache: str = "") -> DataSpec:
    """The data of a profile. cache: the folder of all prepared data, "" for the usual one."""
    sizes = (profile.vocab_size, profile.max_seq_len, profile.eval_tokens)
    return DataSpec(profile.source, *sizes, cache or None)


def run_folder(tag: str = "", results: str = "") -> Path:
    """The folder of a run, there or not. tag: "" for today, such as nov23; results: as
    results_folder. Raises ParameterError."""
    return results_folder(results) / check_tag(tag or date.today().strftime("%b%d").lower())


def start_run(
    folder: Path,
    profile: str = "auto",
    device: str = "auto",
    cache: str = "",
    source: str = "",
    overrides: str = "",
) -> Lab:
    """Begin a run in this folder, which is called as its tag, or open the one that it has.

    overrides: as in find_profile. Raises SettingsError, ProfileError, DataError or LoopError, each
    with what to do.
    """
    tag = folder.name
    if not (folder / "run.json").exists():
        check_tag_unused(tag, folder)
        chosen, facts = find_profile(profile, device, source, overrides)
        data = find_prepared(data_of(chosen, cache))
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, make_settings(tag, for_this_device(chosen, facts), data, facts))
    settings = read_settings(folder)
    check_same_wishes(settings, profile, source, overrides)
    lab = Lab(folder)
    if lab.step.kind == "open":
        with lab:
            open_journal(lab)
    return lab


def wishes_by_name(source: str, overrides: str) -> dict[str, object]:
    """What was asked for, by the names of a profile's fields and of the template's constants."""
    wishes = parse_overrides(overrides) | ({"source": source} if source else {})
    return wishes | ({"source": full_spec(wishes["source"])} if "source" in wishes else {})


def check_same_wishes(
    settings: Settings, profile: str, source: str, overrides: str, free: Container[str] = ()
) -> None:
    """Refuse to continue a run under another profile, source or override than it began with.

    free: names of what may differ.
    """
    began = settings.profile
    wishes = wishes_by_name(source, overrides)
    wishes |= {"name": profile} if profile not in ("", "auto") else {}
    for name, wish in wishes.items():
        if name in free:
            continue
        found = began["constants"].get(name) if name.isupper() else began.get(name)
        if found != wish:
            what = "profile" if name == "name" else name
            has = f"run {settings.tag} has {what} {found}"
            raise SettingsError(f"{has}, asked for {wish}: choose another tag")


def check_tag_unused(tag: str, folder: Path) -> None:
    """Refuse a tag with git refs of a run whose folder is gone, or a journal without settings."""
    if (folder / "journal.jsonl").exists():
        raise SettingsError(
            f"{folder} has a journal but no run.json: restore it from a backup, or choose another "
            "tag"
        )
    if not git_history.head_commit(harness.REPOSITORY):
        return
    if git_history.read_ref(harness.REPOSITORY, "refs/heads/autoresearch"):
        raise SettingsError(
            "git has a branch named just 'autoresearch', beside which autoresearch/<tag> cannot "
            "exist: rename it (git branch -m)"
        )
    if refs := git_history.refs_of(harness.REPOSITORY, tag):
        raise SettingsError(
            f"git has {refs[-1]} from an earlier run: choose another tag, or delete its refs as "
            "docs/results-and-git.md says under 'Deleting a run'"
        )


def for_this_device(profile: Profile, device: dict) -> Profile:
    """The profile without its shipped noise on another class of device than that was measured on.

    Another version of the same corpus counts as the same: seeds move a score much alike there, and
    seeds that say otherwise overrule it.
    """
    return profile if device["kind"] == "cpu" else without_prior(profile)


def open_journal(lab: Lab) -> None:
    """Write the journal's first line, unless it is there; on a card it says how many rows at a time
    fit. How trainings go on this machine is found out and frozen before."""
    if lab.journal.entries:
        return
    forget_earlier_runs(lab.folder)
    source = baseline_source(lab.template(), lab.settings)
    fit = find_fit(lab.executor, source)
    freeze(lab, fit, find_worth(lab.executor, source))
    settings, profile = lab.settings, lab.settings.profile
    kind = settings.device["kind"]
    lab.journal.append(
        "opened",
        tag=settings.tag,
        seeds=settings.seeds,
        prior=profile["prior"],
        profile=profile["name"],
        device_kind=kind,
        source=profile["source"],
        refresh_seconds=0.0 if kind == "cpu" else CARD_REFRESH_SECONDS,
        max_looks=MAX_LOOKS,
        device_batch_limit=fit.device_batch_limit,
    )


def freeze(lab: Lab, fit: Fit, worth_beside: float) -> None:
    """Write into run.json how trainings go on this machine, before anything is scored."""
    device = lab.settings.device | ({"fell": fit.fell} if fit.fell else {})
    changes = {"compile": fit.compile, "attention": fit.attention, "device": device}
    changes |= {"worth_beside": worth_beside}
    settings = dataclasses.replace(lab.settings, **changes)
    if settings != lab.settings:
        write_settings(lab.folder, settings)
        lab.settings = lab.executor.settings = settings
