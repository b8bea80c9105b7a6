"""What was prepared, with the hash of every file, and whether it still is so.

In: a prepared folder, `<cache>/<data_id>/`, with its `manifest.json`. Out: a `PreparedData` that
later stages take their paths, sizes and hashes from. Refuses a folder without a manifest, of
another format version, or with a file missing or changed, naming the files. Data of format 2 still
opens, and says which split it lacks. Needs neither torch nor the tokenizer.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.splits import EVAL_SPLITS
from harness.ground.errors import DataError
from harness.ground.files import read_json, sha256_file, write_json_atomic

# Part of the data id: raise it when the same text is split, tokenised or packed otherwise
FORMAT_VERSION = 3
READABLE = (2, FORMAT_VERSION)
MANIFEST = "manifest.json"
FILES = (
    "train/meta.json",
    "train/tokenizer.json",
    "train/token_bytes.npy",
    "train/rows.bin",
    "private/val.bin",
    "private/holdout.bin",
    "private/unseen.bin",  # format 2 has none
)
REMEDY = "run notebooks/01_prepare.ipynb again: it makes the same data anew"


@dataclass(frozen=True)
class PreparedData:
    """One corpus, made ready for one vocabulary, row length and evaluation size."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @property
    def data_id(self) -> str:
        return self.manifest["data_id"]

    @property
    def train_dir(self) -> Path:
        """All that a training may see."""
        return self.folder / "train"

    @property
    def private_dir(self) -> Path:
        """Rows of the evaluation splits: for prepare and the scorer alone."""
        return self.folder / "private"

    @property
    def lacks(self) -> tuple[str, ...]:
        """The evaluation splits that this data has none of: format 2 had no `unseen`."""
        return tuple(split for split in EVAL_SPLITS if split not in self.manifest["scored"])

    def rows_path(self, split: str) -> Path:
        """The file of a split's rows, `train` or one of EVAL_SPLITS. DataError if this lacks it."""
        if split in self.lacks:
            raise DataError(
                f"the data in {self.folder} is of an older version, without the split {split!r}: "
                "run notebooks/01_prepare.ipynb and start a new tag"
            )
        if split == "train":
            return self.train_dir / "rows.bin"
        return self.private_dir / f"{split}.bin"

    @property
    def vocab_size(self) -> int:
        """Ordinary tokens."""
        return self.manifest["vocab_size"]

    @property
    def n_vocab(self) -> int:
        """All ids, BOS included."""
        return self.manifest["n_vocab"]

    @property
    def max_seq_len(self) -> int:
        return self.manifest["max_seq_len"]

    @property
    def bos_id(self) -> int:
        return self.vocab_size

    @property
    def data_hash(self) -> str:
        """Hex SHA-256 over the hashes of all files: equal when the data is."""
        files = sorted(self.manifest["files"].items())
        lines = (f"{name} {entry['sha256']}\n" for name, entry in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def verify(self) -> None:
        """DataError that names every file missing or changed.

        A file of recorded size and time is taken as unchanged; of another time, its hash decides,
        and when that agrees the new time is recorded, so that the next check is cheap again.
        """
        faults, touched = [], False
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            try:
                status = path.stat()
                if status.st_size != entry["bytes"]:
                    faults.append(f"{name} (size {status.st_size}, was {entry['bytes']})")
                elif status.st_mtime_ns != entry["mtime_ns"]:
                    if sha256_file(path) != entry["sha256"]:
                        faults.append(f"{name} (content changed)")
                    entry["mtime_ns"], touched = status.st_mtime_ns, True
            except FileNotFoundError:
                faults.append(f"{name} (missing)")
            except OSError as error:
                faults.append(f"{name} ({error.strerror})")
        if faults:
            raise DataError(
                f"prepared data in {self.folder} is not as it was made: {', '.join(faults)}; "
                f"{REMEDY}"
            )
        if touched:
            with contextlib.suppress(OSError):  # a read-only cache only stays slower to check
                write_json_atomic(self.folder / MANIFEST, self.manifest)


def without_format(data_id: str) -> str:
    """A data id less the format at its end, which format 2 left out: the text and the sizes."""
    return re.sub(r"-f\d+\Z", "", data_id)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entry of each of FILES: bytes, sha256, mtime_ns."""
    entries = {}
    for name in FILES:
        status, sha256 = (folder / name).stat(), sha256_file(folder / name)
        size, mtime_ns = status.st_size, status.st_mtime_ns
        entries[name] = {"bytes": size, "sha256": sha256, "mtime_ns": mtime_ns}
    return entries


def open_prepared(folder: str | os.PathLike[str]) -> PreparedData:
    """The prepared data in `folder`. DataError says what is missing or changed."""
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        version = manifest["format_version"]
    except FileNotFoundError as error:
        raise DataError(f"no prepared data in {folder}: run notebooks/01_prepare.ipynb") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"manifest of {folder} cannot be read ({error}); {REMEDY}") from error
    if version not in READABLE:
        raise DataError(
            f"data in {folder} has format version {version!r}, this code reads "
            f"{' and '.join(map(str, READABLE))}; {REMEDY}"
        )
    data = PreparedData(folder, manifest)
    data.verify()
    return data
