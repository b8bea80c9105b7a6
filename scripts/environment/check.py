"""What the running interpreter still lacks to run this checkout.

In: the two lock files and the interpreter this runs in. Out: a list of words, one per thing that is
missing (as JSON when run as a script, so that another interpreter can be asked). Judged by package
metadata alone: nothing heavy is imported, and it takes about a fifth of a second. It changes
nothing and never looks at the network.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re
import sys
import sysconfig
from pathlib import Path

LOCK = "requirements.lock"
DEV_LOCK = "requirements-dev.lock"
OLDEST_TORCH = (2, 11)


def read_lock(path: Path) -> list[str]:
    """Requirement lines `name==version[ ; marker]` of one lock file, comments left out."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_locks(root: Path, dev: bool) -> list[str]:
    """The requirements of a start (dev False) or of the tests (dev True), from the lock files."""
    return read_lock(root / LOCK) + (read_lock(root / DEV_LOCK) if dev else [])


def find_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_recent_torch(version: str | None) -> bool:
    """True from torch 2.11 on.

    Only the release counts: a vendor's 2.12.0a0+git is as good as 2.12.
    """
    release = re.match(r"(\d+)\.(\d+)", version or "")
    return release is not None and (int(release[1]), int(release[2])) >= OLDEST_TORCH


def find_missing(requirements: list[str]) -> list[str]:
    """Names and versions that the lock wants here and that are absent or at another version.

    Environment markers are considered.

    torch is the exception: any recent one will do, since it is often built for the machine.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        # Itself in the lock: an interpreter without it is not complete, whatever else it has.
        return ["packaging"]
    missing = []
    for line in requirements:
        try:
            wanted = Requirement(line)
        except InvalidRequirement as error:
            missing.append(f"a readable lock line instead of {line!r} ({error})")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        found = find_version(wanted.name)
        fits = (
            is_recent_torch(found)
            if wanted.name == "torch"
            else found is not None and found in wanted.specifier
        )
        if not fits:
            missing.append(f"{wanted.name}{wanted.specifier} (found {found or 'none'})")
    return missing


def imports_harness(root: Path) -> bool:
    """True when `import harness` takes this very checkout's package, from any working folder."""
    spec = importlib.util.find_spec("harness")
    return (
        spec is not None
        and spec.origin is not None
        and Path(spec.origin).resolve().parent == root / "harness"
    )


def find_problems(root: Path, dev: bool) -> list[str]:
    """Everything that keeps this interpreter from running the checkout at `root`."""
    missing = find_missing(read_locks(root, dev))
    return missing if imports_harness(root) else [*missing, f"harness, importable from {root}"]


def describe(root: Path, dev: bool) -> dict:
    """The facts that set-up asks of another interpreter."""
    return {
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
        "site_packages": sysconfig.get_path("purelib"),
        "torch": find_version("torch"),
        "pip": find_version("pip"),
        "harness": imports_harness(root),
        "problems": find_problems(root, dev),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--dev", action="store_true")
    options = parser.parse_args()
    print(json.dumps(describe(options.root, options.dev)))


if __name__ == "__main__":
    main()
