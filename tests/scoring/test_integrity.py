"""Harness and data are what they were, or are named."""

import os
import shutil
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from harness.data.manifest import FILES, open_prepared
from harness.scoring.integrity import Integrity, harness_hash


@pytest.fixture
def watched(tiny_data, tmp_path):
    """A copy of prepared data, and of a package that stands for the harness, under watch."""
    package = tmp_path / "harness"
    (package / "scoring").mkdir(parents=True)
    (package / "scoring" / "scorer.py").write_text("VALUE = 1\n")
    shutil.copytree(tiny_data.folder, tmp_path / "data")
    return Integrity(open_prepared(tmp_path / "data"), harness_hash(package), package)


def test_nothing_has_changed(watched):
    assert watched.changed() == []


def test_a_changed_harness_is_named(watched):
    (watched.package / "scoring" / "scorer.py").write_text("VALUE = 2\n")
    assert watched.changed() == ["harness/"]


@pytest.mark.parametrize(
    "name",
    [
        *("sitecustomize.py", "scoring/profiles.toml", "scoring/scorer.pyc"),
        *(f"scoring/scorer{suffix}" for suffix in EXTENSION_SUFFIXES),
    ],
)
def test_a_file_added_to_the_harness_is_noticed(watched, name):
    (watched.package / name).write_text("")
    assert watched.changed() == ["harness/"]


@pytest.mark.parametrize("name", [name for name in FILES if name != "train/meta.json"])
def test_a_changed_file_of_the_data_is_named_even_with_its_old_size_and_time(watched, name):
    path = watched.data.folder / name
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.changed() == [name]


def test_a_missing_file_is_named(watched):
    (watched.data.folder / "private" / "val.bin").unlink()
    assert watched.changed() == ["private/val.bin"]


def test_rows_that_were_only_touched_are_the_same(watched):
    os.utime(watched.data.folder / "train" / "rows.bin")
    assert watched.changed() == []


@pytest.mark.parametrize(
    "name", ["sitecustomize.py", "usercustomize", "sitecustomize.pyc", "usercustomize.abi3.so"]
)
def test_what_python_would_run_before_all_else_is_named(watched, name):
    place = watched.package.parent / name
    place.write_text("") if "." in name else place.mkdir()
    assert watched.changed() == [f"{name} beside harness/"]


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "sitecustomize.py", "usercustomize.pyc"])
def test_what_python_would_run_from_among_the_packages_is_named(tiny_data, tmp_path, name):
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "old.pth").write_text("/somewhere\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("site.getsitepackages", lambda: [str(packages)])
        watched = Integrity(open_prepared(tiny_data.folder), harness_hash())
        assert watched.changed() == []
        (packages / name).write_text("import os\n")
        assert watched.changed() == [str(packages / name)]
