"""Addresses of files from where a notebook is read, which for those that a night executes is the
folder of the run's pages: relative, so that JupyterLab opens them as tabs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from harness.lab.propose_ahead import NIGHT_VARIABLE


def address(path: Path, run: Path | None = None) -> str:
    """A file's address. run: the folder of the run that a night may be at work on."""
    page = run / "notebooks" if run and os.environ.get(NIGHT_VARIABLE) else Path.cwd()
    return Path(os.path.relpath(path, page)).as_posix()


def markdown_links(files: Iterable[tuple[str, Path]], run: Path | None = None) -> str:
    """(name, file), those that exist, as links beside one another."""
    there = [(name, path) for name, path in files if path.exists()]
    return " · ".join(f"[{name}](<{address(path, run)}>)" for name, path in there)


def files_of_run(folder: Path) -> list[tuple[str, Path]]:
    """What a run has for people."""
    return [
        ("the report", folder / "report" / "report.html"),
        ("the report as text", folder / "report" / "report.md"),
        ("every experiment as a page", folder / "notebooks" / "index.md"),
        ("results.tsv", folder / "results.tsv"),
        ("the best train.py", folder / "best" / "train.py"),
    ]
