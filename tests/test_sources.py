"""Sources stream every usable document once."""

import sysconfig
from pathlib import Path

import pytest

from harness.data import DataError
from harness.data.sources import open_source
from harness.data.stdlib import PythonStdlib


def make_library(folder: Path) -> Path:
    files = {
        "a.py": b"import os\r\n",
        "pkg/b.py": "name = 'é'\n".encode(),
        "pkg/__init__.py": b"",
        "pkg/blank.py": b" \n\t\n",
        "pkg/latin.py": b"# caf\xe9\n",
        "pkg/notes.txt": b"no Python",
        "pkg/__pycache__/b.py": b"cached",
        "site-packages/other.py": b"installed",
        "dist-packages/other.py": b"installed",
        "_sysconfigdata__linux_x86_64.py": b"build = 1\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "gone.py").symlink_to(folder / "nowhere.py")
    return folder


def test_the_library_is_read_byte_for_byte_and_skips_are_counted(tmp_path):
    source = PythonStdlib(make_library(tmp_path))
    documents = {document.name: document.text for document in source.iter_part(source.parts()[0])}
    assert documents == {"a.py": "import os\r\n", "pkg/b.py": "name = 'é'\n"}
    assert dict(source.skipped) == {"badly encoded": 1, "empty": 2}
    list(source.iter_part(source.parts()[0]))
    assert source.skipped["empty"] == 2  # counted afresh


def test_the_id_follows_the_content_and_nothing_else(tmp_path):
    folder = make_library(tmp_path)
    before = PythonStdlib(folder).source_id()
    (folder / "site-packages" / "new.py").write_bytes(b"x = 1\n")
    (folder / "_sysconfigdata__linux_x86_64.py").write_bytes(b"build = 2\n")
    assert PythonStdlib(folder).source_id() == before
    (folder / "a.py").write_bytes(b"import re\r\n")
    assert PythonStdlib(folder).source_id() != before


def test_this_interpreters_own_library():
    source = open_source("python-stdlib")
    names = {document.name for document in source.iter_part(source.parts()[0])}
    assert {"os.py", "json/decoder.py"} <= names
    assert not any("site-packages" in name for name in names)
    assert source.total_bytes() > 5_000_000
    assert source.folder == Path(sysconfig.get_path("stdlib"))


def test_unknown_and_empty_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="python-stdlib"):
        open_source("wikipedia")
    with pytest.raises(DataError, match="no Python sources"):
        PythonStdlib(tmp_path).source_id()
