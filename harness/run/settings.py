"""A run's frozen settings: results/<tag>/run.json.

In: tag, profile, device, prepared data. Out: run.json, written once, and `Settings` read back.
Refuses to go on under another harness, data or device than the run began with, since its figures
would no longer be comparable: it names both and says what to do.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import harness
from harness.data.folder import Folder
from harness.data.manifest import PreparedData, open_prepared, without_format
from harness.data.prepare import DataSpec, name_data
from harness.ground.cgroup import cpu_quota
from harness.ground.clock import utc_now
from harness.ground.errors import DataError, ParameterError, SettingsError
from harness.ground.files import read_json, write_json_atomic
from harness.ground.text import plain_words
from harness.run import git_history
from harness.run.profiles import NEVER_RUN, Profile, worker_threads
from harness.sandbox.child import OPENMP
from harness.sandbox.device import detect_device
from harness.sandbox.request import TrainingRequest
from harness.sandbox.wall import Wall, find_wall
from harness.scoring.integrity import harness_hash, startup_modules
from harness.scoring.measure import ScoreSettings
from harness.training.clock import ClockError, idle_seconds, own_cpus

FORMAT_VERSION = 1
BY_HAND = "by-hand"  # in results/: `python -m harness train`
# A small real run of this project, committed so that the analysis reads well on a fresh clone.
SAMPLE_TAG = "sample"
RESERVED = {
    BY_HAND: "the folder of trainings by hand",
    SAMPLE_TAG: "the run that comes with the project, to look at",
    "benchmarks": "the folder of the project's own measurements",
}
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The rate of a CPU's clock: less than the share of wall time for which the template's main thread
# works on a quiet machine of two cores, 0.89 to 0.96. See `harness.training.clock`.
CORE_RATE = 0.82
SLOWER = ", so that trainings take two to three times as long"  # on a card, uncompiled
# What a score depends on.
PACKAGES = ("torch", "numpy", "tiktoken", "rustbpe", "safetensors", "optuna", "papermill")


@dataclass(frozen=True)
class Settings:
    """run.json. profile: the Profile's fields as data. device: of `harness.training.devices`.

    base_commit: the repository's, None without git. core_rate and worth_beside: of
    `harness.training.clock`, the rate 0 where the budget is wall time. openmp: what every training
    finds set. attention: kernels of full and of windowed layers, {} where each process chooses.
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
    worth_beside: float = 1.0
    openmp: dict = field(default_factory=dict)
    attention: dict = field(default_factory=dict)

    @property
    def budget_seconds(self) -> float:
        return self.profile["budget_seconds"]


def check_tag(tag: str) -> str:
    """Return the tag if it can name a folder and a git ref. Raises ParameterError."""
    if what := RESERVED.get(tag.casefold()):
        raise ParameterError(f"tag {tag!r} is {what}: choose another, such as nov23")
    if not TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise ParameterError(
            f"tag {tag!r} cannot name a folder and a git branch: use letters, digits, "
            "'.', '_' and '-', such as nov23"
        )
    return tag


def package_versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def results_folder(given: str = "") -> Path:
    """The folder of all runs: the given one, or results/ of this checkout."""
    if given:
        return Path(given).expanduser().resolve()
    return harness.REPOSITORY / "results"


def command_on(folder: Path, *options: str) -> str:
    """What to type to do something with a run, wherever it is."""
    where = [] if folder.parent == results_folder() else ["--results", str(folder.parent)]
    return shlex.join(["python3", "scripts/overnight.py", *options, "--tag", folder.name, *where])


def make_settings(tag: str, profile: Profile, data: PreparedData, device: dict) -> Settings:
    """Return the settings of a new run; compiling only where it was found to work.

    The run's seed comes from its tag: the same tag proposes the same, another night does not repeat
    this one. The baseline's seeds are run_seed, run_seed + 1, ...
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
    """The rate of a CPU's clock; 0 for wall time.

    That is on other devices, where cores' work cannot be counted, and under the step clock.
    """
    counted = device["kind"] == "cpu" and not profile.clock_step_seconds and not why_wall_time()
    return CORE_RATE if counted else 0.0


def why_wall_time() -> str:
    """Why a CPU's budget cannot be counted in work of its cores here; "" where it can."""
    cpus = own_cpus()
    if cpu_quota() < len(cpus):
        return (
            f"a quota allows {cpu_quota():g} of {len(cpus)} cores, "
            "under which waiting cannot be told from others' work"
        )
    try:
        idle_seconds(cpus)
    except ClockError as error:
        return str(error)
    return ""


def hidden_folders(settings: Settings, data: PreparedData, results: Path) -> tuple[str, ...]:
    """What a wall empties for edited code: prepared data, all results, and the user's own text."""
    hidden = (str(data.folder.parent), str(results))
    kind, _, place = settings.profile["source"].partition(":")
    return (*hidden, *text_places(place)) if kind == "folder" else hidden


@functools.cache
def text_places(place: str) -> tuple[str, ...]:
    """Where the text of a `folder:` source is; the folder alone where its files are gone."""
    folder = Folder.open(place)
    try:
        return tuple(folder.places())
    except DataError:
        return (str(folder.path),)


def wall_of(settings: Settings) -> Wall:
    """The wall that this run's edited code is behind."""
    return find_wall(unfit=settings.device.get("wall_error", ""))


def score_limit_seconds(settings: Settings) -> float:
    """How long scoring may take: generous, since training punishes a slow model already."""
    return 60.0 + max(settings.profile["startup_limit_seconds"], 2 * settings.budget_seconds)


def score_settings(settings: Settings, data: PreparedData, results: Path) -> ScoreSettings:
    """How this run's weights are scored. results: the folder of all runs."""
    return ScoreSettings(
        device=settings.device["kind"],
        dtype=settings.dtype,
        threads=settings.threads,
        limit_seconds=score_limit_seconds(settings),
        hidden=hidden_folders(settings, data, results),
        attention=settings.attention,
    )


def training_request(
    settings: Settings,
    data: PreparedData,
    folder: Path,
    train_py: Path,
    seed: int,
    results: Path | None = None,
) -> TrainingRequest:
    """A training of train_py under the run's settings, in a folder of its own.

    Callers replace what is special about theirs. results: the folder of all runs, hidden from the
    training; by default where runs are kept unless said otherwise.
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
        worth_beside=settings.worth_beside,
        clock_step_seconds=settings.profile["clock_step_seconds"],
        hidden=hidden_folders(settings, data, results or results_folder()),
        wall_error=settings.device.get("wall_error", ""),
        attention=settings.attention,
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
            f"{folder / 'run.json'} has format {fields.get('format_version')}, "
            f"this code reads {FORMAT_VERSION}: start a new tag"
        )
    try:
        return Settings(**fields)
    except TypeError as error:
        version = "was written by another version of this code"
        raise SettingsError(f"{folder / 'run.json'} {version}: start a new tag") from error


def changed(
    settings: Settings, what: str, began: object, now: object, advice: str = ""
) -> SettingsError:
    """The error for a run that would go on with another `what` than it began with."""
    doubt = f"its scores would not be comparable. {advice}, or " if advice else ""
    return SettingsError(
        f"run {settings.tag} began with {what} {began}, here is {now}: {doubt}start a new tag"
    )


def check_same_harness(settings: Settings) -> None:
    """Raise SettingsError where the harness is another, or something would run in its place."""
    if modules := startup_modules():
        raise SettingsError(
            f"{' and '.join(modules)} would run in every process of the night: take it away"
        )
    began, now = settings.harness_hash, harness_hash()
    if now != began:
        advice = f"Check out {old_version(settings)} again"
        raise changed(settings, "harness", began[:12], now[:12], advice)


def old_version(settings: Settings) -> str:
    return (settings.base_commit or "the old version")[:12]


def check_unchanged(settings: Settings) -> PreparedData:
    """Return the run's data if all is as the run began; else raise SettingsError."""
    check_same_harness(settings)
    began, now = settings.versions["torch"], package_versions()["torch"]
    if now != began:
        raise changed(settings, "torch", began, now)
    device = detect_device(device_to_ask_for(settings))
    began, now = (f"{each['kind']} ({each['name']})" for each in (settings.device, device))
    if now != began:
        raise changed(settings, "device", began, now)
    check_same_cores(settings, device)
    check_same_text(settings)
    data = open_prepared(settings.data_folder)
    if data.data_hash != settings.data_hash:
        began, now = (f"{each.data_id} ({each.data_hash[:12]})" for each in (settings, data))
        raise changed(settings, "data", began, now)
    return data


def check_same_cores(settings: Settings, device: dict) -> None:
    """Raise SettingsError where a CPU's budget would not be the same work as before."""
    began, now = settings.threads, worker_threads(device)
    if now != began:
        advice = "Give it as many cores as before (taskset, a container's CPU quota)"
        raise changed(settings, "threads", began, now, advice)
    if settings.core_rate and (why := why_wall_time()):
        raise changed(settings, "clock", "CPU time", f"wall time, since {why}")


def device_to_ask_for(settings: Settings) -> str:
    """The kind that a run which goes on asks for: a CPU where it began on one, else the best."""
    return "cpu" if settings.device["kind"] == "cpu" else "auto"


def check_same_text(settings: Settings) -> None:
    """Raise SettingsError unless the run's source gives the text and splits it began with."""
    profile, began = settings.profile, settings.data_id
    sizes = (profile[name] for name in ("vocab_size", "max_seq_len", "eval_tokens"))
    now = name_data(DataSpec(profile["source"], *sizes, Path(settings.data_folder).parent))
    if now == began:
        return
    advice = f"The text of {profile['source']} has changed: put it back as it was"
    if without_format(now) == without_format(began):
        version = old_version(settings)
        advice = f"This checkout splits the same text otherwise: check out {version} again"
    raise changed(settings, "data", began, now, advice)


def clock_words(settings: Settings) -> str:
    """What a second of the budget is, and why where a CPU has wall time."""
    if settings.profile["clock_step_seconds"]:
        return "the step clock of tests, which compares with nothing else"
    if settings.core_rate:
        words = "a second of the budget is a second of a quiet machine's work (CPU time)"
        if (worth := settings.worth_beside) == 1:
            return f"{words}; what work beside other programs is worth was not measured"
        return f"{words}; work beside other programs counts {worth:g} times, as measured here"
    why = why_wall_time() if settings.device["kind"] == "cpu" else ""
    because = f", since CPU time cannot be counted here: {why}" if why else ""
    return f"the budget is wall time{because}"


def eager_words(settings: Settings) -> str:
    """That nothing is compiled, and why, where the profile would have it; "" where it is."""
    if settings.compile:
        return ""
    if not settings.profile["compile"]:
        return "eager"
    slower = SLOWER * (settings.device["kind"] == "cuda")
    why = settings.device.get("compile_error") or settings.device.get("fell")
    return f"eager{slower}" + f" ({why})" * bool(why)


def environment_words(settings: Settings) -> str:
    """One line of plain words: what the run trains on and with, and what its clock counts."""
    profile, device = settings.profile, settings.device
    label = f" ({NEVER_RUN})" if profile["tested"] == NEVER_RUN else ""
    mode = eager_words(settings) or "compiled"
    return plain_words(
        f"profile {profile['name']}{label}, {settings.budget_seconds:g} s a training, "
        f"{device['kind']} ({device['name']}), {settings.dtype}, {mode}, "
        f"torch {settings.versions['torch']}, Python {sys.version.split()[0]}, "
        f"data {settings.data_id}; {clock_words(settings)}"
    )
