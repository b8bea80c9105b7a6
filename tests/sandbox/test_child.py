"""How a child begins: with this harness's sources, whatever lies beside or among them."""

import os
import shutil
import subprocess
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import cache_from_source
from py_compile import compile as compile_file

import pytest
from checkout import ROOT

from harness.sandbox import child

SAYS = "import sys\nprint('VALUE', 'honest', sys.argv[1:])\n"
OTHER = "print('VALUE', 'forged')\n"
assert len(SAYS) > len(OTHER)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose harness is one module that says who it is, and knows its arguments."""
    folder = tmp_path / "checkout" / "harness"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "harness" / "__init__.py", folder)
    (folder / "scorer.py").write_text(SAYS)
    monkeypatch.setattr(child, "REPOSITORY", folder.parent)
    return folder


def said(checkout, **variables) -> str:
    """What a child prints that is started in the checkout."""
    environment = child.child_environment()
    command = child.child_command("harness.scorer", "x")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        environment = child.child_environment()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=checkout.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_compiled_file_that_claims_to_be_of_the_source_is_not_run(checkout):
    source, other = checkout / "scorer.py", checkout.parent / "other.py"
    other.write_text(OTHER + "#" * (len(SAYS) - len(OTHER)))
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    os.utime(other, ns=times)
    compile_file(str(other), cache_from_source(str(source)))
    script = [child.sys.executable, "-c", "import harness.scorer"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=checkout.parent)
    assert "forged" in done.stdout, "else this would show nothing"
    assert said(checkout) == "VALUE honest ['x']\n"


def test_a_compiled_module_or_package_does_not_take_the_place_of_a_source(checkout):
    (checkout / "scorer").mkdir()
    other = checkout.parent / "other.py"
    other.write_text(OTHER)
    compile_file(str(other), str(checkout / "scorer" / "__init__.pyc"))
    compile_file(str(other), str(checkout / "scorer.pyc"))
    for suffix in EXTENSION_SUFFIXES:
        (checkout / f"scorer{suffix}").write_bytes(b"no library")
    assert said(checkout) == "VALUE honest ['x']\n"


@pytest.mark.parametrize("name", ["runpy", "json", "numpy", "conftest", "usercustomize"])
def test_what_lies_beside_the_harness_is_not_run(checkout, name):
    (checkout / "scorer.py").write_text(f"import json, numpy\n{SAYS}")
    (checkout.parent / f"{name}.py").write_text(OTHER)
    (checkout.parent / "evil.pth").write_text(f"import sys; {OTHER}")
    found = said(
        checkout, PYTHONPATH=str(checkout.parent), PYTHONSTARTUP=str(checkout.parent / f"{name}.py")
    )
    assert found == "VALUE honest ['x']\n"
