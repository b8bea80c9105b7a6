# /// script
# requires-python = ">=3.11"
# dependencies = ["uv"]
# ///
"""Write requirements.lock and requirements-dev.lock anew from pyproject.toml (needs uv).

    uv run scripts/relock.py              keeps every version that still fits
    uv run scripts/relock.py --upgrade    takes the newest versions that pyproject.toml allows

In: pyproject.toml (what is needed, and torch's exact version under [tool.uv]), the lock files as
they are (which versions to keep), the package index's metadata. Out: every version, for Linux,
macOS and Windows and Python 3.11 on, told apart by environment markers. Two files, so that pip and
conda can read each as it is: what a start needs, and what the tests need besides. Left out: what
only torch's CUDA build needs, since it comes with that build alone. For maintainers; where nothing
has changed in pyproject.toml, nothing changes in the files.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, DEV_LOCK = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
CUDA_ONLY = re.compile(r"(nvidia-(?!ml-py\b)|cuda-|triton\b)")
HEADER = """\
# Exact versions of {what}, made from pyproject.toml by
#     uv run scripts/relock.py            (or with --upgrade; it calls `uv pip compile --universal`)
# Not to be edited by hand. {more}
"""


def resolve(folder: Path, name: str, arguments: list[str]) -> list[str]:
    """Requirement lines that uv finds; versions in `folder / name` are kept where they fit."""
    options = ["--quiet", "--universal", "--python-version", "3.11", "--no-header", "--no-annotate"]
    command = [
        os.environ.get("UV", "uv"),
        "pip",
        "compile",
        *options,
        "--output-file",
        str(folder / name),
        *arguments,
        "pyproject.toml",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not CUDA_ONLY.match(line)]


def write(path: Path, lines: list[str], what: str, more: str) -> None:
    text = HEADER.format(what=what, more=more) + "\n".join(lines) + "\n"
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(lines)} lines, {'changed' if changed else 'as before'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="take newer versions where pyproject.toml allows them",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = [
            path.read_text(encoding="utf-8")
            for path in (LOCK, DEV_LOCK)
            if path.exists() and not options.upgrade
        ]
        (folder / "all.txt").write_text("".join(known), encoding="utf-8")
        everything = resolve(folder, "all.txt", ["--all-extras"])
        runtime = resolve(folder, "runtime.txt", ["--constraint", str(folder / "all.txt")])
    write(LOCK, runtime, "what a start needs", "The tests' packages are in requirements-dev.lock.")
    tests = [line for line in everything if line not in runtime]
    write(DEV_LOCK, tests, "what the tests need besides requirements.lock", "Install both.")


if __name__ == "__main__":
    sys.exit(main())
