"""A training by hand: one train.py, once, outside of any run (`python -m harness train FILE`).

In: the file, a profile, and what a person sets besides. Out: the summary block with the score; in
results/by-hand/DATE/ the file as given (original.py) and as trained (train.py), log and weights.
What cannot be trained at all is refused before the device is asked. What only the gate's policy
refuses is said, and trained: the policy is for files that nobody has read.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.data.manifest import PreparedData
from harness.data.prepare import DOWNLOAD_WORKERS, default_cache, find_prepared
from harness.data.sources import open_source
from harness.ground.errors import ByHandError, ConstantsError, DataError
from harness.lab.clock_fit import known_worth
from harness.lab.executor import Executor
from harness.lab.kept_files import append_summary
from harness.lab.start import data_of, find_profile, prepare_profile
from harness.run.profiles import Profile, parse_overrides
from harness.run.settings import BY_HAND, Settings, make_settings, results_folder
from harness.sandbox.runner import summary_block
from harness.search.constants import parse_constants, rewrite_constants
from harness.search.gate import check_candidate, check_contract

SEED_TAG = "hand"  # all trainings by hand have one seed, so that two files compare
STEP_SECONDS = 5.0  # between two lines on a training

say = partial(print, flush=True)


def train_by_hand(
    train_py: Path, profile_name: str = "auto", device: str = "auto", overrides: str = ""
) -> str:
    """Train and score one file; return its summary block, and where log and weights are.

    overrides: as in find_profile, and constants of the file as well. Raises ByHandError,
    ConstantsError, ProfileError, DataError.
    """
    original = read_train_py(train_py)
    wishes = parse_overrides(overrides)
    asked = {name: value for name, value in wishes.items() if name.isupper()}
    source = rewrite_constants(original, asked, clamp=False) if asked else original
    for reason in check_candidate(original):
        say(f"note: in a run the gate would refuse this file: {reason}")
    sizes = " ".join(f"{name}={value}" for name, value in wishes.items() if name not in asked)
    profile, facts = find_profile(profile_name, device, overrides=sizes)
    source = under_profile(source, profile, asked)
    data = find_or_prepare(profile)
    settings = make_settings(SEED_TAG, profile, data, facts)
    settings = replace(settings, worth_beside=known_worth(settings, data) or 1.0)
    folder = results_folder() / BY_HAND / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    (folder / "original.py").write_bytes(train_py.read_bytes())
    (folder / "train.py").write_text(source, encoding="utf-8")
    say(
        f"profile {profile.name}: training {train_py.name} for {profile.budget_seconds:g} s "
        f"on {facts['kind']}, in {folder}"
    )
    result = train_and_score(settings, data, folder)
    log = folder / "run" / "run.log"
    append_summary(log, log.stat().st_size, result)
    return (
        summary_block(result) + f"log:     {log}\nweights: {log.parent / 'weights.safetensors'}\n"
    )


def read_train_py(path: Path) -> str:
    """The file's text. Raises ByHandError where there is none, or it could not be trained."""
    try:
        if path.exists() and not path.is_file():
            raise ByHandError(f"{path} is no file: give a train.py, such as train_template.py")
        source = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ByHandError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ByHandError(f"{path} is not UTF-8 text") from error
    if reasons := check_contract(source):
        raise ByHandError(
            f"{path} cannot be trained: {'; '.join(reasons)}. train_template.py is a file that can"
        )
    return source


def under_profile(source: str, profile: Profile, asked: Mapping[str, object]) -> str:
    """The file under the profile's constants, like a run's baseline, except for those asked for.

    Constants that the file does not have are left out, and said.
    """
    try:
        known = parse_constants(source)
    except ConstantsError:  # it has no such block
        known = {}
    wanted = {name: value for name, value in profile.constants.items() if name not in asked}
    if absent := [name for name in wanted if name not in known]:
        say(f"left out, since the file has no such constants: {', '.join(absent)} of the profile")
    values = {name: value for name, value in wanted.items() if name in known}
    return rewrite_constants(source, values, clamp=False) if values else source


def find_or_prepare(profile: Profile) -> PreparedData:
    """The profile's data, prepared now where that needs no download, else a DataError."""
    sizes = (profile.vocab_size, profile.max_seq_len, profile.eval_tokens)
    try:
        return find_prepared(data_of(profile))
    except DataError:
        pass
    if plan := open_source(profile.source, default_cache()).plan_download(DOWNLOAD_WORKERS):
        options = zip(
            ("--vocab-size", "--max-seq-len", "--eval-tokens"), map(str, sizes), strict=True
        )
        command = [sys.executable, "-m", "harness.data.prepare", "--source", profile.source]
        megabytes = sum(file.bytes - file.have for file in plan) / 1e6
        raise DataError(
            f"{profile.source} is not prepared, and {megabytes:,.0f} MB of it are to be downloaded "
            f"first: {shlex.join([*command, *(word for pair in options for word in pair)])}"
        )
    return prepare_profile(profile, progress=say)


def train_and_score(settings: Settings, data: PreparedData, folder: Path) -> dict:
    """Train and score the folder's train.py as a night would; what the audit doubts is said."""
    run, train_py = folder / "run", folder / "train.py"
    executor = Executor(settings, data, folder, results=folder.parents[1])
    # No later training begins with what this one compiled.
    request = executor.request(train_py, run, settings.run_seed, compile_cache=None)
    result = executor.train(request, print_step())
    if result["status"] != "ok":
        raise ByHandError(
            f"the training ended with {result['status']}: {result['cause']}; see {run / 'run.log'}"
        )
    fields = executor.score(executor.measurement(train_py, run))
    if fields["status"] != "ok":
        raise ByHandError(f"scoring ended with {fields['status']}: {fields['cause']}")
    for doubt in fields["doubts"]:
        say(f"the audit doubts this score: {doubt}")
    return result | fields


def print_step() -> Callable[[dict], None]:
    """A listener that prints a line at most every STEP_SECONDS."""
    last = [0.0]

    def listen(event: dict) -> None:
        if event["event"] == "step" and time.monotonic() - last[0] >= STEP_SECONDS:
            last[0] = time.monotonic()
            say(
                f"  {100 * event['progress']:3.0f}%  step {event['step']}  "
                f"loss {event['train_loss']:.4f}  {event['tok_per_sec']:,.0f} tokens/s"
            )

    return listen
