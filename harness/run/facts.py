"""The facts in a run's settings that decide whether its scores compare with another run's. Stdlib
only.

They may come from a run.json that somebody handed over, so their text is made plain.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass

from harness.ground.text import plain_words

# name: in words. worth_beside is none: it is of the device, and measured anew it differs by chance.
FACTS = {
    "data_id": "data",
    "data_hash": "prepared data",
    "budget_seconds": "training budget in seconds",
    "profile": "profile",
    "device": "hardware",
    "dtype": "number format",
    "compile": "compilation",
    "threads": "threads",
    "core_rate": "clock of the budget (0: wall time)",
    "torch": "torch",
    "eval_tokens": "evaluation tokens",
    "harness_hash": "harness",
}


def plain_settings(settings: object) -> dict[str, object]:
    """FACTS of a run as strings, numbers or None. settings: Settings, or run.json as it is read."""
    fields = asdict(settings) if is_dataclass(settings) else settings
    profile, versions = fields.get("profile") or {}, fields.get("versions") or {}
    facts = {name: fields.get(name, profile.get(name)) for name in FACTS}
    facts |= {"profile": profile.get("name"), "torch": versions.get("torch")}
    facts |= {"device": device_words(fields.get("device") or {})}
    return {k: v if isinstance(v, int | float | None) else plain_words(v) for k, v in facts.items()}


def device_words(device: Mapping[str, object]) -> str | None:
    """A device in words: its name, and its kind where that is not plain from the name."""
    name, kind = device.get("name"), device.get("kind")
    return f"{name} ({kind})" if name and kind and kind != "cuda" else name or kind
