"""The register of sources: what a spec such as `python-stdlib` or `climbmix:12` opens."""

from pathlib import Path

from harness.data.folder import Folder
from harness.data.hub import ClimbMix, TinyStories
from harness.data.source import USAGE, Source
from harness.data.stdlib import PythonStdlib
from harness.ground.errors import DataError


def open_source(spec: str | Source, cache: Path | None = None) -> Source:
    """The source that `spec` names; a Source is returned as it is. DataError names what there is.

    cache: where downloads lie and what was hashed is remembered.
    """
    if isinstance(spec, Source):
        return spec
    name, _, argument = spec.partition(":")
    for kind in (PythonStdlib, ClimbMix, TinyStories, Folder):
        if name == kind.name:
            source = kind.open(argument)
            source.cache = cache
            return source
    raise DataError(f"unknown source {spec!r}: choose {USAGE}")
