"""One source of what is needed: pyproject.toml, locks, environment.yml and imports agree."""

import ast
import functools
import json
import os
import re
import sys
import tomllib
from importlib import metadata
from itertools import product

import pytest
import yaml
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["dev"]]
STARTED_NOT_IMPORTED = {
    *("jupyterlab", "ipykernel", "ruff"),
    *("nbstripout", "pytest-timeout", "pytest-xdist"),
}
SYSTEMS = [
    {
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    },
    {
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "platform_machine": "aarch64",
    },
    {
        "sys_platform": "darwin",
        "os_name": "posix",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
    },
    {
        "sys_platform": "win32",
        "os_name": "nt",
        "platform_system": "Windows",
        "platform_machine": "AMD64",
    },
]
PYTHONS = ["3.11.2", "3.11.9", "3.12.3", "3.13.1", "3.14.0"]
ENVIRONMENTS = [
    {**system, "python_full_version": python, "python_version": python.rpartition(".")[0]}
    for system, python in product(SYSTEMS, PYTHONS)
]


def read_lock(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


LOCK, DEV_LOCK = read_lock("requirements.lock"), read_lock("requirements-dev.lock")


def versions_in(environment: dict, lines: list[Requirement]) -> dict[str, list[str]]:
    """Package -> the versions that these lock lines ask for on one system."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.marker is None or line.marker.evaluate(environment):
            found.setdefault(canonicalize_name(line.name), []).append(
                next(iter(line.specifier)).version
            )
    return found


@functools.cache
def third_party_imports(*folders: str) -> dict[str, str]:
    """Top-level module -> a file that imports it.

    Those of the standard library and ours are left out.
    """
    sources: dict[str, str] = {}
    for path in [
        ROOT / "train_template.py",
        *(path for folder in folders for path in (ROOT / folder).rglob("*")),
    ]:
        if path.suffix == ".py":
            sources[str(path)] = path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = "".join(
                "".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"
            )
            sources[str(path)] = re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE)
    ours = {
        "harness",
        "train_template",
        *(
            path.stem
            for folder in ("scripts", "tests/support")
            for path in (ROOT / folder).iterdir()
        ),
        *(path.stem for path in (ROOT / "tests").rglob("test_*.py")),
    }
    found = {}
    for name, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in (module.partition(".")[0] for module in modules):
                if module not in sys.stdlib_module_names and module not in ours:
                    found[module] = name
    return found


def packages_of(modules: dict[str, str]) -> dict[str, str]:
    """Distribution -> a file that imports something of it. Run where the packages are installed."""
    providers = metadata.packages_distributions()
    return {
        canonicalize_name(providers.get(module, [module])[0]): file
        for module, file in modules.items()
    }


@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda e: f"{e['sys_platform']}-{e['python_full_version']}"
)
def test_the_lock_holds_every_need_at_one_version_within_its_bounds(environment):
    for wanted, lines in ((RUNTIME, LOCK), (DEV, LOCK + DEV_LOCK)):
        locked = versions_in(environment, lines)
        assert {name: found for name, found in locked.items() if len(set(found)) > 1} == {}
        for need in wanted:
            [version] = set(locked[canonicalize_name(need.name)])
            assert Version(version) in need.specifier, f"{need} but {version} is locked"


def test_the_lock_is_closed():
    """What a locked and installed package needs here is locked too.

    The version is one that it accepts.
    """
    locked = versions_in({}, LOCK + DEV_LOCK)
    checked = 0
    for name in locked.keys() - {"torch"}:  # its CUDA build's needs come with it
        try:
            needs = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                checked += 1
                assert canonicalize_name(need.name) in locked, f"{name} needs {need}"
                assert Version(locked[canonicalize_name(need.name)][0]) in need.specifier, (
                    f"{name} needs {need}"
                )
    assert checked > 100


def test_lock_lines_are_exact_versions_and_nothing_else():
    for line in LOCK + DEV_LOCK:
        assert (
            [spec.operator for spec in line.specifier] == ["=="]
            and line.url is None
            and not line.extras
        )
    names = {line.name for line in LOCK + DEV_LOCK}
    assert "torch==2.13.0" in map(str, LOCK)
    assert not [name for name in names if re.match(r"nvidia-(?!ml-py)|triton|cuda-", name)]
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text and not re.search(r"^-", text, re.MULTILINE)


def test_environment_yml_has_no_versions_of_its_own():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = conda["dependencies"]
    assert conda["channels"] == ["conda-forge", "nodefaults"]
    assert (
        python.startswith("python=")
        and Version(python[7:])
        in Requirement(f"x{PROJECT['project']['requires-python']}").specifier
    )
    assert pip == "pip" and from_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_every_import_is_declared():
    runtime = {canonicalize_name(need.name) for need in RUNTIME}
    dev = runtime | {canonicalize_name(need.name) for need in DEV}
    used = packages_of(third_party_imports("harness", "notebooks", "scripts"))
    used_by_tests = packages_of(third_party_imports("tests"))
    # It comes with torch's builds for cards, and scripts/card_rehearsal.py says how else.
    assert str(used.pop("triton")).endswith("rehearsal/machine_code.py")
    assert {name: file for name, file in used.items() if name not in runtime} == {}
    assert {name: file for name, file in used_by_tests.items() if name not in dev} == {}


def test_every_declared_package_is_used():
    used = packages_of(third_party_imports("harness", "notebooks", "scripts"))
    used_by_tests = packages_of(third_party_imports("tests"))
    assert {need.name for need in RUNTIME} - used.keys() - STARTED_NOT_IMPORTED == set()
    assert {need.name for need in DEV} - used_by_tests.keys() - STARTED_NOT_IMPORTED == set()


def test_what_the_harness_reads_beside_its_code_is_packaged():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    told = {
        f"{package.replace('.', '/')}/{name}" for package, names in data.items() for name in names
    }
    files = [path for path in (ROOT / "harness").rglob("*.*") if path.suffix not in (".py", ".pyc")]
    read = {path.relative_to(ROOT).as_posix() for path in files if "/." not in path.as_posix()}
    assert read == {path.relative_to(ROOT).as_posix() for each in told for path in ROOT.glob(each)}


@pytest.mark.parametrize("script", ["overnight.py", "test.py"])
def test_uv_run_finds_a_header_without_dependencies(script):
    text = (ROOT / "scripts" / script).read_text(encoding="utf-8")
    block = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", text)
    header = tomllib.loads(block[1].replace("# ", ""))
    assert header == {"requires-python": PROJECT["project"]["requires-python"], "dependencies": []}


def test_continuous_integration_runs_everything():
    run = ROOT / ".ci" / "run"
    assert "python3 scripts/test.py --all" in run.read_text(encoding="utf-8")
    assert os.access(run, os.X_OK)
