"""A copy of this checkout as a git repository of its own.

A test's night leaves no refs and no results in ours.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from warm import warm_kernels

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "train_template.py").read_text(encoding="utf-8")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def make_repository(folder: Path) -> Path:
    """Turn a folder into a repository with one commit."""
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "a user")
    git(folder, "config", "user.email", "user@example.org")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def copy_checkout(folder: Path) -> Path:
    """Copy what a night needs, as it is in the working tree.

    That is harness, notebooks, template and program.
    """
    folder.mkdir()
    # What is compiled already is valid in a copy too.
    ignore = shutil.ignore_patterns(".ipynb_checkpoints")
    for name in ("harness", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("train_template.py", "program.md", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "results").mkdir()
    return make_repository(folder)


def environment(checkout: Path, cache: Path) -> dict[str, str]:
    """Variables for a harness process that works in a copied checkout."""
    return os.environ | {
        "PYTHONPATH": str(checkout),
        "AUTORESEARCH_CACHE": str(cache),
        "OMP_NUM_THREADS": "2",
    }


def warm_environment(checkout: Path, cache: Path) -> dict[str, str]:
    """The same for a night whose trainings start warm.

    Not where one of its processes is looked for by its command.
    """
    return environment(checkout, cache) | warm_kernels(checkout.parent / "ipython")


def command_of(*arguments: str) -> list[str]:
    """`python -m harness overnight ...`"""
    return [sys.executable, "-m", "harness", "overnight", *arguments]


def overnight(checkout: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `python -m harness overnight ...` to its end."""
    return subprocess.run(
        command_of(*arguments),
        cwd=checkout,
        env=warm_environment(checkout, cache),
        capture_output=True,
        text=True,
        timeout=280,
    )
