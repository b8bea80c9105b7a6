"""Imports go one way, and what must start fast or hold no GPU memory imports no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

ROOMS = (
    *("ground", "data", "training", "sandbox", "scoring", "search"),
    *("run", "rules", "lab", "show", "check", "night"),
)
MODULES = sorted((ROOT / "harness").rglob("*.py"))
TRAINING_SIDE = {"torch", "numpy", "tiktoken", "safetensors"}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_from_the_rooms_before_it(path):
    room = path.relative_to(ROOT / "harness").parts[0]
    if room not in ROOMS:
        return
    later = {f"harness.{name}" for name in ROOMS[ROOMS.index(room) + 1 :]}
    assert not [name for name in imports_of(path) if ".".join(name.split(".")[:2]) in later]
    assert not [
        name for name in imports_of(path) if name.split(".")[0] in ("notebooks", "scripts", "tests")
    ]


def test_no_circle_of_files_not_even_for_type_checkers():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    graphlib.TopologicalSorter(
        {name: imports_of(path) & set(names) for name, path in names.items()}
    ).prepare()


@pytest.mark.parametrize(
    "module",
    [
        "harness.lab.loop",
        "harness.show.experiment_page",
        "harness.night.driver",
        "harness.search.propose",
        "harness.scoring.scorer",
    ],
)
def test_the_lab_the_search_and_the_scorer_load_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_the_training_side_runs_with_four_packages():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import harness.training.session, harness.training.launch, harness.scoring.server\n"
        "import importlib.metadata as m\n"
        "names = m.packages_distributions()\n"
        "direct = {n.split('.')[0] for n in set(sys.modules) - before}\n"
        "print(sorted(direct & set(names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in (
        *("papermill", "pandas", "matplotlib", "optuna", "openai"),
        *("jupyterlab", "IPython", "psutil", "filelock", "rustbpe"),
    ):
        assert f"'{name}'" not in done.stdout
    for path in [
        *(ROOT / "harness" / "training").glob("*.py"),
        ROOT / "harness/data/loader.py",
        ROOT / "harness/scoring/server.py",
        ROOT / "train_template.py",
    ]:
        outside = (
            {name.split(".")[0] for name in imports_of(path)}
            - set(sys.stdlib_module_names)
            - {"harness", "kernels"}
        )
        assert outside <= TRAINING_SIDE, (path, outside)


@pytest.mark.slow
def test_importing_has_no_side_effect(tmp_path):
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if path.name not in ("__main__.py", "__init__.py")
    ]
    code = (
        "import importlib, os, sys, logging\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(len(logging.getLogger().handlers), os.listdir('.'))"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[0] == "0"
    # Matplotlib's own caches.
    assert [
        path.name for path in tmp_path.iterdir() if path.name not in (".config", ".cache")
    ] == []
