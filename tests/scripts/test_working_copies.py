"""Notebooks that are worked with by hand, as a real git sees them: `scripts/lab.py` opens
copies.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, git, make_repository

# lab.py as it is, but for the set-up before it and the JupyterLab after it.
LAB = (
    "import sys; sys.path.insert(0, 'scripts'); import lab; lab.python_or_exit = lambda:"
    " sys.executable; "
)
LAB += "lab.become = lambda python, command: print('opens', command[2]); lab.main(sys.argv[1:])"


@pytest.fixture
def clone(tmp_path) -> Path:
    """The notebooks and the scripts of this checkout in a repository of their own, cloned from
    another.
    """
    origin = tmp_path / "origin"
    for name in ("notebooks", "scripts"):
        shutil.copytree(
            ROOT / name,
            origin / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    shutil.copy(ROOT / ".gitignore", origin)
    make_repository(origin)
    git(tmp_path, "clone", "-q", str(origin), "a clone")
    return tmp_path / "a clone"


def open_lab(clone: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", LAB], cwd=clone, check=True, capture_output=True, text=True
    ).stdout


def work(folder: Path, edit: str = "") -> None:
    """Set parameters, run and save every notebook of a folder, as JupyterLab does; edit: appended
    to its last code cell.
    """
    for path in folder.glob("*.ipynb"):
        notebook = json.loads(path.read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for count, cell in enumerate(code, 1):
            output = {"output_type": "stream", "name": "stdout", "text": ["mine\n"]}
            cell |= {"execution_count": count, "outputs": [output]}
        code[0]["source"] = "".join(code[0]["source"]).replace('""', '"nov23"')
        code[-1]["source"] = "".join(code[-1]["source"]) + edit
        path.write_text(json.dumps(notebook, indent=1) + "\n")


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}


def test_notebooks_that_are_worked_with_leave_the_checkout_as_it_is(clone):
    assert "opens " + str(clone / "work" / "00_lab.ipynb") in open_lab(clone)
    committed = texts(clone / "notebooks")
    assert texts(clone / "work") == committed and len(committed) == 6
    work(clone / "work", edit="\nprint(1)")
    mine = texts(clone / "work")
    open_lab(clone)
    assert texts(clone / "work") == mine, "what was worked with stays when lab is started again"
    assert git(clone, "status", "--porcelain") == "" and texts(clone / "notebooks") == committed


def test_a_newer_version_comes_by_pull_and_what_was_worked_with_is_kept(clone):
    open_lab(clone)
    untouched = {"00_lab.ipynb", "01_prepare.ipynb"}
    keep = {name: data for name, data in texts(clone / "work").items() if name in untouched}
    work(clone / "work", edit="\nprint('mine')")
    for name, data in keep.items():
        (clone / "work" / name).write_bytes(data)
    origin = clone.parent / "origin"
    work(origin / "notebooks", edit="\nprint('new')")
    git(origin, "commit", "-qam", "a newer version")
    git(clone, "pull", "-q")
    said = open_lab(clone)
    newer = {name: data for name, data in texts(clone / "work").items() if name.count(".") == 1}
    assert newer == texts(clone / "notebooks") and all(
        b"print('new')" in data for data in newer.values()
    )
    kept = [name for name, data in texts(clone / "work").items() if b"print('mine')" in data]
    assert (
        len(kept) == 4
        and all(f"work/{name}" in said for name in kept)
        and said.count("is kept as") == 4
    )
    assert "is kept as" not in open_lab(clone) and git(clone, "status", "--porcelain") == ""


def test_without_its_record_nothing_is_lost(clone):
    open_lab(clone)
    work(clone / "work", edit="\nprint('mine')")
    (clone / "work" / ".copied.json").write_text("{")
    assert open_lab(clone).count("is kept as") == 6
    assert sum(b"print('mine')" in data for data in texts(clone / "work").values()) == 6


def test_where_no_copy_can_be_made_the_notebooks_themselves_are_opened(clone):
    (clone / "work").write_text("a file is in the way")
    said = open_lab(clone)
    assert (
        "no copies of the notebooks can be made" in said
        and f"opens {clone / 'notebooks' / '00_lab.ipynb'}" in said
    )
