"""Another text or vocabulary than the run's, on which a close-out compares best and baseline too.

In: a run's settings, and a source and sizes that were asked for beside them. Out: the facts that a
comparison keeps of that text, and from these again the settings and data to train and score with.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.data.manifest import PreparedData, open_prepared
from harness.data.prepare import find_prepared
from harness.lab.start import data_of, wishes_by_name
from harness.run.profiles import Profile, override
from harness.run.settings import Settings

# Of a profile: what names its text, as tokens.
SIZES = ("vocab_size", "max_seq_len", "eval_tokens")
FIELDS = ("source", *SIZES)
PREPARED = ("data_id", "data_hash", "data_folder")


def changes_of_text(settings: Settings, source: str, overrides: str) -> dict[str, object]:
    """What was asked for that names another text than the run's, by the profile's fields."""
    asked = wishes_by_name(source, overrides)
    return {
        name: wish
        for name, wish in asked.items()
        if name in FIELDS and wish != settings.profile[name]
    }


def find_text(settings: Settings, source: str, overrides: str) -> dict:
    """The facts of the text that was asked for, which is prepared; {} where that is the run's own.

    Raises DataError, and ProfileError for sizes that do not fit.
    """
    changes = changes_of_text(settings, source, overrides)
    if not changes:
        return {}
    profile = override(Profile(**settings.profile), changes)
    data = find_prepared(data_of(profile, str(Path(settings.data_folder).parent)))
    if data.data_id == settings.data_id:
        return {}
    prepared = {"data_id": data.data_id, "data_hash": data.data_hash}
    prepared["data_folder"] = str(data.folder)
    return {name: getattr(profile, name) for name in FIELDS} | prepared


def on_text(settings: Settings, text: dict) -> tuple[Settings, PreparedData]:
    """The run's settings on the text of these facts, and that text. Raises DataError where it is
    not there any more."""
    data = open_prepared(text["data_folder"])
    profile = settings.profile | {name: text[name] for name in FIELDS}
    prepared = {name: text[name] for name in PREPARED}
    return dataclasses.replace(settings, profile=profile, **prepared), data


def text_words(text: dict) -> str:
    """It, for a sentence."""
    return f"{text['source']} with a vocabulary of {text['vocab_size']:,}"
