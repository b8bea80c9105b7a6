"""The register of sources: what a spec such as `python-stdlib`, `climbmix:12` or `folder:/home/me/books` opens."""

from pathlib import Path

from harness.data.folder import Folder
from harness.data.hub import ClimbMix, TinyStories
from harness.data.source import USAGE, Source
from harness.data.stdlib import PythonStdlib
from harness.ground.errors import DataError


def open_source(spec: str | Source, cache: Path | None = None) -> Source:
    """The source that `spec` names; a Source object is returned as it is. DataError names what there is."""
    if isinstance(spec, Source):
        return spec
    name, _, argument = spec.partition(":")
    for kind in (PythonStdlib, ClimbMix, TinyStories, Folder):
        if name == kind.name:
            return kind.open(argument, cache)
    raise DataError(f"unknown source {spec!r}: choose {USAGE}")
