"""A run's frozen settings: results/<tag>/run.json.

In: tag, profile, device, prepared data. Out: run.json, written once, and `Settings` read back. Refuses to go on under another harness, data
or device than the run began with, since its figures would no longer be comparable: it names both and says what to do.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness
from harness.data.manifest import PreparedData, open_prepared
from harness.data.prepare import name_data
from harness.ground.cgroup import cpu_count
from harness.ground.clock import utc_now
from harness.ground.errors import ParameterError, SettingsError
from harness.ground.files import read_json, write_json_atomic
from harness.run import git_history
from harness.run.profiles import Profile, worker_threads
from harness.sandbox.child import OPENMP
from harness.sandbox.device import detect_device
from harness.sandbox.request import TrainingRequest
from harness.scoring.integrity import harness_hash, startup_modules
from harness.scoring.measure import ScoreSettings
from harness.training.clock import ClockError, idle_seconds, own_cpus

FORMAT_VERSION = 1
# In results/: `python -m harness train`.
BY_HAND = "by-hand"
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The rate of a CPU's clock: the share of wall time for which the template's main thread works on a quiet machine of two
# cores, what waking costs taken off. See `harness.training.clock`.
CORE_RATE = 0.82


@dataclass(frozen=True)
class Settings:
    """run.json. profile: the Profile's fields as data; device: of `harness.training.devices`; base_commit: the repository's, None without git.

    core_rate: of `harness.training.clock`, 0 where the budget is wall time. openmp: what every training finds set.
    """

    format_version: int
    tag: str
    created: str
    run_seed: int
    profile: dict
    seeds: list[int]
    device: dict
    dtype: str
    compile: bool
    threads: int | None
    data_id: str
    data_hash: str
    data_folder: str
    harness_hash: str
    versions: dict
    base_commit: str | None
    core_rate: float = 0.0
    openmp: dict = field(default_factory=dict)

    @property
    def budget_seconds(self) -> float:
        return self.profile["budget_seconds"]


def check_tag(tag: str) -> str:
    """Return the tag if it can name a folder and a git ref: letters, digits, dot, underscore, hyphen."""
    if tag == BY_HAND:
        raise ParameterError(f"tag {tag!r} is the folder of trainings by hand: choose another, such as nov23")
    if not TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise ParameterError(
            f"tag {tag!r} cannot name a folder and a git branch: use letters, digits, '.', '_' and '-', such as nov23"
        )
    return tag


def package_versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "tiktoken", "rustbpe", "safetensors", "optuna", "papermill"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def results_folder(given: str = "") -> Path:
    """The folder of all runs: the given one, or results/ of this checkout."""
    return Path(given).expanduser().resolve() if given else harness.REPOSITORY / "results"


def command_on(folder: Path, *options: str) -> str:
    """What to type to do something with a run, wherever it is."""
    where = [] if folder.parent == results_folder() else ["--results", str(folder.parent)]
    return shlex.join(["python3", "scripts/overnight.py", *options, "--tag", folder.name, *where])


def make_settings(tag: str, profile: Profile, data: PreparedData, device: dict) -> Settings:
    """Return the settings of a new run; compiling only where it was found to work.

    The run's seed comes from its tag: the same tag proposes the same, another night does not repeat this one. The baseline's
    seeds are run_seed, run_seed + 1, ...
    """
    run_seed = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:2], "big") + 1
    return Settings(
        format_version=FORMAT_VERSION,
        tag=check_tag(tag),
        created=utc_now(),
        run_seed=run_seed,
        profile=asdict(profile),
        seeds=[run_seed + i for i in range(profile.baseline_seeds)],
        device=device,
        dtype=device["dtype"],
        compile=profile.compile and not device.get("compile_error", ""),
        threads=worker_threads(device),
        data_id=data.data_id,
        data_hash=data.data_hash,
        data_folder=str(data.folder),
        harness_hash=harness_hash(),
        versions=package_versions(),
        base_commit=git_history.head_commit(harness.REPOSITORY),
        core_rate=choose_core_rate(profile, device),
        openmp=OPENMP,
    )


def choose_core_rate(profile: Profile, device: dict) -> float:
    """The rate of a CPU's clock; 0, for wall time, on other devices, where the kernel does not say who uses the cores, and under the step clock."""
    if device["kind"] != "cpu" or profile.clock_step_seconds or why_wall_time():
        return 0.0
    return CORE_RATE


def why_wall_time() -> str:
    """Why a CPU's budget cannot be counted in work of its cores here; "" where it can."""
    if cpu_count() < len(own_cpus()):
        return f"a quota allows {cpu_count()} of {len(own_cpus())} cores, under which waiting cannot be told from others' work"
    try:
        idle_seconds(own_cpus())
    except ClockError as error:
        return str(error)
    return ""


def hidden_folders(settings: Settings, data: PreparedData, results: Path) -> tuple[str, ...]:
    """What a wall empties for edited code: prepared data and downloads, all results, and the user's own text."""
    source = settings.profile["source"]
    own_text = [source.removeprefix("folder:").split("::")[0]] if source.startswith("folder:") else []
    return (str(data.folder.parent), str(results), *own_text)


def score_limit_seconds(settings: Settings) -> float:
    """How long scoring may take: generous, since a slow model is punished by its training already."""
    return 60.0 + max(settings.profile["startup_limit_seconds"], 2 * settings.budget_seconds)


def score_settings(settings: Settings, data: PreparedData, results: Path) -> ScoreSettings:
    """How this run's weights are scored. results: the folder of all runs."""
    return ScoreSettings(
        device=settings.device["kind"],
        dtype=settings.dtype,
        threads=settings.threads,
        limit_seconds=score_limit_seconds(settings),
        hidden=hidden_folders(settings, data, results),
    )


def training_request(
    settings: Settings, data: PreparedData, folder: Path, train_py: Path, seed: int, results: Path | None = None
) -> TrainingRequest:
    """A training of train_py under the run's settings, in a folder of its own. Callers replace what is special about theirs.

    results: the folder of all runs, hidden from the training (default: where runs are kept unless said otherwise).
    """
    return TrainingRequest(
        folder=str(folder),
        train_py=str(train_py),
        train_dir=str(data.train_dir),
        n_vocab=data.n_vocab,
        max_seq_len=data.max_seq_len,
        seed=seed,
        budget_seconds=settings.budget_seconds,
        startup_limit_seconds=settings.profile["startup_limit_seconds"],
        device=settings.device["kind"],
        dtype=settings.dtype,
        compile=settings.compile,
        threads=settings.threads,
        core_rate=settings.core_rate,
        clock_step_seconds=settings.profile.get("clock_step_seconds", 0.0),
        hidden=hidden_folders(settings, data, results or results_folder()),
    )


def write_settings(folder: Path, settings: Settings) -> None:
    """Write run.json, once."""
    write_json_atomic(folder / "run.json", asdict(settings))


def read_settings(folder: Path) -> Settings:
    """Read run.json. Raises SettingsError when the folder holds no run of this format."""
    try:
        fields = read_json(folder / "run.json")
    except FileNotFoundError:
        raise SettingsError(
            f"no run in {folder}: run notebooks/02_baseline.ipynb with tag = {folder.name!r} first "
            f"(or: python3 scripts/overnight.py --tag {folder.name})"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{error}: restore it from a backup, or start a new tag") from error
    if fields.get("format_version") != FORMAT_VERSION:
        raise SettingsError(
            f"{folder / 'run.json'} has format {fields.get('format_version')}, this code reads {FORMAT_VERSION}: start a new tag"
        )
    return Settings(**fields)


def check_same_harness(settings: Settings) -> None:
    """Raise SettingsError where the harness is another than the run began with, or something beside it would run in its place."""
    if modules := startup_modules():
        raise SettingsError(f"{' and '.join(modules)} would run in every process of the night: take it away")
    found = harness_hash()
    if found != settings.harness_hash:
        raise SettingsError(
            f"run {settings.tag} began under harness {settings.harness_hash[:12]}, this checkout has {found[:12]}: "
            f"its scores would not be comparable. Check out {(settings.base_commit or 'the old version')[:12]} again, or start a new tag"
        )


def check_unchanged(settings: Settings) -> PreparedData:
    """Return the run's data if harness, data, device and torch are still what the run began with; else raise SettingsError."""
    check_same_harness(settings)
    torch_now = package_versions()["torch"]
    if torch_now != settings.versions["torch"]:
        raise SettingsError(
            f"run {settings.tag} began with torch {settings.versions['torch']}, here is {torch_now}: start a new tag"
        )
    device = detect_device(device_to_ask_for(settings))
    if (device["kind"], device["name"]) != (settings.device["kind"], settings.device["name"]):
        raise SettingsError(
            f"run {settings.tag} began on {settings.device['kind']} ({settings.device['name']}), this is {device['kind']} ({device['name']}): start a new tag"
        )
    check_same_cores(settings, device)
    check_same_text(settings)
    data = open_prepared(settings.data_folder)
    if data.data_hash != settings.data_hash:
        raise SettingsError(
            f"run {settings.tag} began on data {settings.data_id} ({settings.data_hash[:12]}), found {data.data_id} ({data.data_hash[:12]}): start a new tag"
        )
    return data


def check_same_cores(settings: Settings, device: dict) -> None:
    """Raise SettingsError where a CPU's budget would not be the same work as before: other threads, or no way to count it."""
    threads = worker_threads(device)
    if threads != settings.threads:
        raise SettingsError(
            f"run {settings.tag} began with {settings.threads} threads, this process may use {threads} cores: its scores would not be comparable. "
            "Give it as many as before (taskset, a container's CPU quota), or start a new tag"
        )
    if settings.core_rate and (why := why_wall_time()):
        raise SettingsError(f"run {settings.tag} counts its budget in work of the cores, which cannot be read here ({why}): start a new tag")


def device_to_ask_for(settings: Settings) -> str:
    """The kind that a run which goes on asks for: a CPU where it began on one, whatever else there is, else the best."""
    return "cpu" if settings.device["kind"] == "cpu" else "auto"


def check_same_text(settings: Settings) -> None:
    """Raise SettingsError unless the run's source still gives the text and splits it began with."""
    sizes = (settings.profile[name] for name in ("vocab_size", "max_seq_len", "eval_tokens"))
    found = name_data(settings.profile["source"], *sizes, Path(settings.data_folder).parent)
    if found != settings.data_id:
        raise SettingsError(
            f"run {settings.tag} began on data {settings.data_id}, but the text of {settings.profile['source']} has changed since (now "
            f"{found}): its scores would not be comparable. Put the text back as it was, or start a new tag"
        )


def clock_words(settings: Settings) -> str:
    """What a second of the budget is, and why where a CPU has wall time."""
    if settings.profile.get("clock_step_seconds"):
        return "the step clock of tests, which compares with nothing else"
    if settings.core_rate:
        return "a second of the budget is a second of a quiet machine's work (CPU time)"
    why = why_wall_time() if settings.device["kind"] == "cpu" else ""
    return "the budget is wall time" + (f", since CPU time cannot be counted here: {why}" if why else "")


def environment_words(settings: Settings) -> str:
    """One line: what the run trains on and with, and what its clock counts."""
    device = settings.device
    tested = settings.profile["tested"]
    label = f" ({tested})" if tested.startswith("never") else ""
    return (
        f"profile {settings.profile['name']}{label}, {settings.budget_seconds:g} s a training, {device['kind']} ({device['name']}), "
        f"{settings.dtype}, {'compiled' if settings.compile else 'eager'}, torch {settings.versions['torch']}, Python {sys.version.split()[0]}, "
        f"data {settings.data_id}; {clock_words(settings)}"
    )
