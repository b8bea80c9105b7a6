"""run.json in, the few facts out that decide whether two scores may be compared, and that a chart or report must state.

Accepts the settings as a dict (run.json read back) or as the dataclass; what is not stated is None. Stdlib only.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass

FACTS = {  # name: in words
    "data_id": "data",
    "data_hash": "prepared data",
    "budget_seconds": "training budget in seconds",
    "profile": "profile",
    "device": "hardware",
    "dtype": "number format",
    "compile": "compilation",
    "torch": "torch",
    "eval_tokens": "evaluation tokens",
    "harness_hash": "harness",
}


def plain_settings(settings: object) -> dict[str, object]:
    """FACTS of a run as strings, numbers or None, whichever of the two forms (nested or flat) the settings have."""
    fields = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else dict(settings or {})
    profile, device = fields.get("profile"), fields.get("device")
    nested = profile if isinstance(profile, Mapping) else {}
    found = {name: fields.get(name, nested.get(name)) for name in FACTS}
    found["profile"] = nested.get("name") if nested else profile
    found["device"] = device_words(device)
    found["torch"] = (fields.get("versions") or {}).get("torch")
    return found


def device_words(device: object) -> str | None:
    """A device in words: its name, or kind and name."""
    if isinstance(device, Mapping):
        name, kind = device.get("name"), device.get("kind")
        return f"{name} ({kind})" if name and kind and kind != "cuda" else name or kind
    return str(device) if device else None
