"""Copies of the notebooks to work with, so that running and saving them leaves the checkout as it
is.

In: notebooks/. Out: work/, which git ignores. A copy follows its notebook when a pull brings a
newer one; a copy that was worked with is kept then, under another name. A clean filter for git was
tried instead: git lists a file whose size has changed without asking the filter, and refuses to
pull over it.
"""

import hashlib
import json
import time
from pathlib import Path

FOLDER = "work"
RECORD = ".copied.json"  # in it: name of each copy, and the hash of what it was when made


def work_copies(root: Path) -> tuple[Path, list[str]]:
    """Make or renew the copies; return their folder, and what to tell. Raises OSError where none
    can be made.
    """
    folder, told = root / FOLDER, []
    folder.mkdir(exist_ok=True)
    made = read_record(folder / RECORD)
    for notebook in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        copy, now = folder / notebook.name, hash_of(notebook)
        if copy.exists() and made.get(copy.name) == now:
            continue
        if copy.exists() and hash_of(copy) != made.get(copy.name):
            saved = time.strftime("%y%m%d-%H%M%S", time.localtime(copy.stat().st_mtime))
            kept = copy.with_name(f"{copy.stem}.{saved}.ipynb")
            copy.replace(kept)
            told.append(f"there is a newer {copy.name}; yours is kept as {FOLDER}/{kept.name}")
        copy.write_bytes(notebook.read_bytes())
        made[copy.name] = now
    (folder / RECORD).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return folder, told


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_record(path: Path) -> dict:
    """What is recorded; nothing where that cannot be read, and then every copy is kept."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
