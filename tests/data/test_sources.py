"""Sources stream every usable document once."""

import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from fake_source import make_texts
from test_prepare import read_pieces

from harness.data import stdlib
from harness.data.prepare import DataSpec, prepare
from harness.data.sources import open_source
from harness.data.splits import EVAL_SPLITS
from harness.data.stdlib import PythonStdlib
from harness.ground.errors import DataError


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
    skipped = Counter()
    texts = list(source.iter_part(source.parts()[0], skipped))
    assert texts == ["import os\r\n", "name = 'é'\n"]
    assert skipped == {"badly encoded": 1, "empty": 2}


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
    parts = source.parts()
    texts = {text for part in parts for text in source.iter_part(part, Counter())}
    assert ("among all files" in source.evaluation_note()) == (len(parts) == 1)
    library = Path(sysconfig.get_path("stdlib"))
    assert {(library / name).read_text() for name in ("os.py", "json/decoder.py")} <= texts
    assert not any("site-packages" in path.parts for path in source._paths())
    assert source.total_bytes() > 5_000_000
    assert source.folder == library


# A file's text is its name
LIBRARY = ("json/decoder.py", "test.py", "unittest/case.py")
NOT_IMPORTED = ("test/test_json.py", "unittest/test/test_case.py", "idlelib/idle_test/a.py")


@pytest.fixture
def library(tmp_path):
    for name in (*LIBRARY, *NOT_IMPORTED):
        (tmp_path / "library" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "library" / name).write_text(name)
    return PythonStdlib(tmp_path / "library")


def names_of(source, part):
    return list(source.iter_part(part, Counter()))


def test_only_library_files_that_nothing_imports_are_offered_to_evaluation(library, monkeypatch):
    monkeypatch.setattr(stdlib, "NOT_IMPORTED_BYTES", sum(map(len, NOT_IMPORTED)))
    eligible, others = library.parts()
    assert (eligible.pool, others.pool) == ("any", "train")
    assert set(names_of(library, eligible)) == set(NOT_IMPORTED)
    assert set(names_of(library, others)) == set(LIBRARY)
    assert "files that nothing else imports (idlelib, test" in library.evaluation_note()


def test_a_library_without_enough_such_files_offers_all_and_says_so(library):
    [part] = library.parts()
    assert part.pool == "any"
    assert set(names_of(library, part)) == {*LIBRARY, *NOT_IMPORTED}
    assert "among all files: only 0.0 MB" in library.evaluation_note()


@pytest.mark.slow
def test_a_training_imports_no_file_offered_to_evaluation():
    """Nor do the packages that a training may use; torch compiling a model imports the most."""
    script = (
        "import sys, torch, numpy, tiktoken, safetensors.torch\n"
        "import torch._dynamo, torch._inductor.compile_fx\n"
        "import harness.training.session\n"
        "files = [getattr(module, '__file__', None) for module in list(sys.modules.values())]\n"
        "print(*filter(None, files), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    source = PythonStdlib()
    imported = set(source._paths()) & {Path(line) for line in done.stdout.splitlines()}
    assert len(imported) > 100
    assert [path for path in imported if not source._is_imported(path)] == []


def test_what_evaluation_of_the_library_holds_is_text_that_nothing_imports(tmp_path, monkeypatch):
    texts = make_texts(400)
    for number, text in enumerate(texts):
        folder = tmp_path / "library" / ("test" if number < 200 else "json")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(stdlib, "NOT_IMPORTED_BYTES", 10_000)
    source, lines = PythonStdlib(tmp_path / "library"), []
    data = prepare(
        DataSpec(source, 320, 32, 800, tmp_path / "cache"), workers=1, progress=lines.append
    )
    own = b"\0".join(text.encode() for text in texts[:200])
    taken = [piece for split in EVAL_SPLITS for piece in read_pieces(data, data.rows_path(split))]
    assert taken and all(piece in own for piece in taken)
    trained = b"\0".join(read_pieces(data, data.rows_path("train")))
    markers = [
        set(re.findall(rb"marker [0-9a-f]{16}", text)) for text in (trained, b"\0".join(taken))
    ]
    assert all(markers) and not markers[0] & markers[1]
    assert data.manifest["source"]["evaluation_note"] == source.evaluation_note()
    assert any(source.evaluation_note() in line for line in lines)
    documents = data.manifest["documents"]
    assert documents["train"] == 400 - sum(documents[split] for split in EVAL_SPLITS)


def test_unknown_and_empty_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="python-stdlib"):
        open_source("wikipedia")
    with pytest.raises(DataError, match="no Python sources"):
        PythonStdlib(tmp_path).source_id()
