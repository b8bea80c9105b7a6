"""The set-up: decisions as pure functions, and the whole of it with real environments.

A real pip installs made-up wheels.
"""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from checkout import ROOT
from environment import check, packages, setup, venvs
from wheels import lay_package, make_wheel, make_wheel_of_installed

SCRIPTS = ROOT / "scripts"
TORCH = "import types\ncuda = types.SimpleNamespace(is_available=lambda: False)\n"
HARNESS = (
    "import json, sys, torch\nprint(json.dumps([sys.executable, sys.argv[1:], torch.__file__]))\n"
)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="a shell script plays the program")


class Checkout:
    """A stub of this repository.

    Its real set-up scripts, a stub harness, locks of made-up packages, wheels for them.
    """

    def __init__(self, folder: Path):
        self.root, self.wheels = folder / "chéck out", folder / "wheels"
        shutil.copytree(
            SCRIPTS, self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.root / "harness").mkdir()
        (self.root / "harness" / "__init__.py").touch()
        (self.root / "harness" / "__main__.py").write_text(HARNESS)
        (self.root / "harness" / "ground").mkdir()
        shutil.copy(ROOT / "harness" / "ground" / "cards.py", self.root / "harness" / "ground")
        make_wheel(
            self.wheels, "alpha", "1.5", {"alpha/__init__.py": "", "alpha/part.py": "x = 1\n"}
        )
        make_wheel(
            self.wheels,
            "pytest",
            "9.9",
            {"pytest/__main__.py": "import sys; print('PYTEST', sys.argv[1:])\n"},
        )
        make_wheel(self.wheels, "torch", "2.13.0", {"torch/__init__.py": TORCH})
        self.lock("alpha==1.5", "beta==1.0 ; sys_platform == 'an island'")
        (self.root / "requirements-dev.lock").write_text("pytest==9.9\n")
        self.launcher = self.make_launcher(folder / "launcher")

    def lock(self, *lines: str) -> None:
        packaging = make_wheel_of_installed(self.wheels, "packaging")
        text = "\n".join(["# a comment", f"packaging=={packaging}", "torch==2.13.0", *lines])
        (self.root / "requirements.lock").write_text(text)

    @staticmethod
    def make_launcher(folder: Path) -> Path:
        """A python with no packages at all, whatever the one that runs these tests has."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        return venvs.venv_python(folder)

    @property
    def site_packages(self) -> Path:
        return next((self.root / ".venv").glob("lib*/**/site-packages"))

    def begin(
        self,
        *arguments: str,
        script="overnight.py",
        launcher: Path | None = None,
        **environment: str,
    ):
        keep = {
            name: os.environ[name]
            for name in ("PATH", "SYSTEMROOT", "TMPDIR")
            if name in os.environ
        }
        offline = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
        }
        command = [launcher or self.launcher, self.root / "scripts" / script, *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.root.parent,
            env=keep | offline | environment,
        )

    def start(self, *arguments: str, **options) -> tuple[int, str]:
        child = self.begin(*arguments, **options)
        output = child.communicate(timeout=120)[0]
        return child.returncode, output

    def interrupt(self) -> None:
        """Leave `.venv` as a kill in the middle of unpacking alpha would."""
        stamp = venvs.read_stamp(self.root / ".venv")
        venvs.write_stamp(self.root / ".venv", stamp | {"complete": False})
        (self.site_packages / "alpha-1.5.dist-info" / "RECORD").unlink()
        (self.site_packages / "alpha" / "part.py").unlink()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Checkout:
    """One checkout whose environment was made by a first start.

    Each test leaves it so that a start completes it.
    """
    made = Checkout(tmp_path_factory.mktemp("set-up"))
    made.first = made.start("--demo", "--tag", "x")
    return made


def test_first_start_makes_the_environment_and_hands_over(checkout):
    status, output = checkout.first
    assert status == 0, output
    assert "set-up: .venv is ready" in output
    python, arguments, torch = json.loads(output.splitlines()[-1])
    assert Path(python).parent.parent == checkout.root / ".venv"
    assert arguments == ["overnight", "--demo", "--tag", "x"]
    assert Path(torch).is_relative_to(checkout.root / ".venv")


def test_second_start_says_and_does_nothing(checkout):
    checkout.start()
    before = {path: path.stat().st_mtime_ns for path in checkout.site_packages.iterdir()}
    status, output = checkout.start("--hours", "8")
    assert status == 0
    assert "set-up:" not in output
    assert {path: path.stat().st_mtime_ns for path in checkout.site_packages.iterdir()} == before


def test_an_interrupted_setup_is_mended(checkout):
    checkout.start()
    checkout.interrupt()
    status, output = checkout.start()
    assert status == 0, output
    assert "interrupted" in output
    assert (checkout.site_packages / "alpha" / "part.py").read_text() == "x = 1\n"
    assert "torch:" not in output  # what was complete is not fetched again


@pytest.mark.slow
def test_a_missing_package_is_noticed_although_the_stamp_is_complete(checkout):
    checkout.start()
    shutil.rmtree(checkout.site_packages / "alpha-1.5.dist-info")
    assert checkout.start("--status")[1].count("set-up:") == 0  # looking at a night changes nothing
    status, output = checkout.start()
    assert (status, "completing .venv" in output) == (0, True), output
    assert (checkout.site_packages / "alpha-1.5.dist-info" / "RECORD").exists()


@pytest.mark.slow
def test_a_changed_lock_is_followed(checkout):
    make_wheel(checkout.wheels, "alpha", "1.6", {"alpha/__init__.py": ""})
    checkout.lock("alpha==1.6")
    status, output = checkout.start()
    assert status == 0, output
    assert [path.name for path in checkout.site_packages.glob("alpha-*")] == ["alpha-1.6.dist-info"]
    checkout.lock("alpha==1.5")
    assert checkout.start()[0] == 0


@pytest.mark.slow
def test_two_setups_at_once_take_turns(checkout):
    checkout.start()
    checkout.interrupt()
    children = [checkout.begin("--tag", tag) for tag in "ab"]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sorted(output.count("mending .venv") for output in outputs) == [0, 1]
    assert sum("waiting for it" in output for output in outputs) == 1


@pytest.mark.slow
def test_installed_torch_is_reused_and_never_replaced(checkout, tmp_path):
    checkout.start()
    owner = checkout.make_launcher(tmp_path / "owner")
    packages = next((tmp_path / "owner").glob("lib*/**/site-packages"))
    lay_package(packages, "torch", "2.12.1+vendor", TORCH)
    for path in checkout.site_packages.glob("torch*"):
        shutil.rmtree(path)

    status, output = checkout.start(launcher=owner)
    assert status == 0, output
    assert "torch 2.12.1+vendor" in output and "reused" in output
    assert json.loads(output.splitlines()[-1])[2] == str(packages / "torch" / "__init__.py")
    assert not list(checkout.site_packages.glob("torch*"))
    # By another python, too: the environment stays what it is.
    assert "set-up:" not in checkout.start()[1]

    shutil.rmtree(tmp_path / "owner")
    status, output = checkout.start()
    assert status == 0, output
    assert (checkout.site_packages / "torch-2.13.0.dist-info").exists()


@pytest.mark.slow
def test_another_build_of_torch_on_request_stays(checkout):
    checkout.start()
    status, output = checkout.start("--torch-index", "https://builds.invalid/cu1")
    assert (status, "torch: from https://builds.invalid/cu1" in output) == (0, True), output
    assert "set-up:" not in checkout.start()[1]
    assert "set-up:" not in checkout.start("--torch-index", "https://builds.invalid/cu1")[1]


@pytest.mark.slow
def test_a_failed_install_says_what_to_do_and_goes_on_later(checkout):
    checkout.start()
    checkout.lock("alpha==1.5", "unheard-of==3.0")
    status, output = checkout.start()
    assert status == 1
    assert "unheard-of==3.0" in output and "PIP_INDEX_URL" in output and "setup.log" in output
    assert "Traceback" not in output
    checkout.lock("alpha==1.5")
    assert checkout.start()[0] == 0


@pytest.mark.parametrize("words", [["--accept=3"], ["--refuse", "3"], ["--status", "--json"]])
def test_a_look_mends_nothing_under_a_night_however_it_is_written(monkeypatch, words):
    overnight = importlib.import_module("overnight")
    became = []
    monkeypatch.setattr(overnight, "find_environment", lambda: None)
    monkeypatch.setattr(overnight, "find_usable", lambda: Path("usable"))
    monkeypatch.setattr(overnight, "become", lambda *arguments: became.append(arguments))
    monkeypatch.setattr(overnight, "python_or_exit", lambda **options: Path("mended"))
    monkeypatch.setenv("PYTHONPATH", "")
    overnight.main(["--tag", "nov23", *words])
    assert became[0] == (Path("usable"), [*overnight.HARNESS, "--tag", "nov23", *words])


def test_help_without_environment_needs_no_setup(checkout, tmp_path):
    shutil.copytree(
        checkout.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".venv")
    )
    command = [checkout.launcher, tmp_path / "scripts" / "overnight.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--demo" in done.stdout and "--torch-index" in done.stdout


@needs_posix
def test_test_script_passes_arguments_to_pytest(checkout, tmp_path):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert (
        "PYTEST ['-k', 'journal']"
        in checkout.start("-k", "journal", script="test.py", PATH=path)[1]
    )
    status, output = checkout.start("--all", "-x", script="test.py", PATH=path)
    assert (status, output.splitlines()[-1]) == (0, "PYTEST ['-m', '', '-rs', '-x']")


def test_a_copied_environment_is_not_trusted(tmp_path):
    venv = tmp_path / ".venv"
    venv.mkdir()
    venvs.write_stamp(
        venv, {"complete": True, "made_here": True, "root": str(tmp_path / "elsewhere")}
    )
    assert not setup.is_ready(venv, False, None, tmp_path)


@pytest.mark.parametrize(
    "stamp", [None, {"complete": True, "made_here": False, "root": "elsewhere"}]
)
def test_a_strange_venv_that_cannot_be_used_is_left_alone(tmp_path, stamp):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine.txt").write_text("precious")
    if stamp is not None:
        venvs.write_stamp(tmp_path / ".venv", stamp)
    with pytest.raises(setup.SetupError, match="Rename it"):
        setup.open_venv(tmp_path, None)
    assert (tmp_path / ".venv" / "mine.txt").read_text() == "precious"


def test_emptying_keeps_the_stamp_until_the_end(tmp_path):
    venvs.write_stamp(tmp_path, {"complete": False})
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").symlink_to("lib")
    venvs.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [venvs.STAMP]


@pytest.mark.parametrize(
    ("text", "stamp"),
    [('{"complete": tr', {}), ("[1]", {}), ('{"complete": true}', {"complete": True})],
)
def test_a_damaged_stamp_counts_as_an_unfinished_setup(tmp_path, text, stamp):
    assert venvs.read_stamp(tmp_path) is None
    (tmp_path / venvs.STAMP).write_text(text)
    assert venvs.read_stamp(tmp_path) == stamp


def test_without_ensurepip_other_ways_are_tried_in_order(monkeypatch, tmp_path):
    monkeypatch.setattr(venvs.importlib.util, "find_spec", lambda name: name == "pip")
    monkeypatch.setattr(venvs.shutil, "which", lambda name: f"/usr/bin/{name}")
    tried = []
    monkeypatch.setattr(
        venvs, "run_logged", lambda command, log, lock: (tried.append(command), (1, "no luck"))[1]
    )
    with pytest.raises(
        setup.SetupError, match=rf"no luck.*apt install python3\.{sys.version_info[1]}-venv"
    ):
        venvs.create(tmp_path / ".venv", tmp_path / "log", None)
    assert ["--without-pip" in tried[0], tried[1][0], tried[2][0]] == [True, "uv", "virtualenv"]


@pytest.mark.parametrize("script", ["overnight.py", "test.py", "lab.py"])
def test_old_python_gets_one_clear_sentence(script):
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); sys.path.insert(0,"
        " sys.argv[1]); runpy.run_path(sys.argv[1] + '/' + sys.argv[2], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, SCRIPTS, script], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr and "is Python 3.9." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["overnight.py", "test.py", "lab.py", "environment/setup.py"])
def test_an_old_python_reaches_that_sentence(script):
    """The files parse as Python 3.6, and setup.py looks at the version before newer imports."""
    tree = ast.parse((SCRIPTS / script).read_text(encoding="utf-8"), feature_version=(3, 6))
    ours = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and (SCRIPTS / f"{node.module.replace('.', '/')}.py").exists()
    ]
    if script == "environment/setup.py":
        checks = [
            node
            for node in tree.body
            if isinstance(node, ast.If) and "version_info" in ast.unparse(node.test)
        ]
        assert checks[0].lineno < ours[0].lineno
    else:
        assert [node.module for node in ours] == ["environment.setup"]


def test_old_python_is_told_of_a_newer_one_on_the_machine():
    named = setup.explain_old_python(
        (3, 8), "/usr/bin/python3", which=lambda name: name == "python3.12"
    )
    assert "python3.12" in named and "/usr/bin/python3 is Python 3.8" in named
    assert "uv run" in setup.explain_old_python((3, 8), "python3", which=lambda name: None)


def test_find_missing_reads_markers_and_versions():
    here = check.find_version("packaging")
    wanted = [
        f"packaging=={here}",
        "packaging==0.1",
        "packaging==0.2 ; python_version < '3'",
        "no-such-thing==1.0",
        "%%",
    ]
    missing = check.find_missing(wanted)
    assert missing[:2] == [f"packaging==0.1 (found {here})", "no-such-thing==1.0 (found none)"]
    assert len(missing) == 3 and "'%%'" in missing[2]


@pytest.mark.parametrize(
    ("version", "recent"),
    [
        ("2.11.0", True),
        ("2.13.0+cu130", True),
        ("3.0.0", True),
        ("2.12.0a0+git1234", True),
        ("2.10.1", False),
        ("1.13", False),
        (None, False),
        ("unknown", False),
    ],
)
def test_which_torch_is_recent_enough(version, recent):
    assert check.is_recent_torch(version) is recent


@pytest.mark.parametrize(
    ("index", "card", "platform", "arguments"),
    [
        (
            None,
            None,
            "linux",
            [
                ("torch==2.13.0", "--index-url", packages.PYTORCH_CPU_INDEX, *packages.BRIEFLY),
                ("torch==2.13.0",),
            ],
        ),
        (
            None,
            {"name": "NVIDIA H200", "driver": "580.1", "index": "", "ask": None},
            "linux",
            [("torch==2.13.0",)],
        ),
        (
            None,
            {"name": "NVIDIA L4", "driver": "550.1", "index": "https://x/cu126", "ask": None},
            "linux",
            [("torch==2.13.0", "--index-url", "https://x/cu126")],
        ),
        (
            None,
            {"name": "AMD card", "driver": "", "index": None, "ask": "https://x/rocm"},
            "linux",
            [
                ("torch==2.13.0", "--index-url", packages.PYTORCH_CPU_INDEX, *packages.BRIEFLY),
                ("torch==2.13.0",),
            ],
        ),
        (None, None, "darwin", [("torch==2.13.0",)]),
        (
            "https://x/rocm",
            "NVIDIA H200",
            "linux",
            [
                ("torch==2.13.0", "--index-url", "https://x/rocm"),
                ("torch>=2.11", "--index-url", "https://x/rocm"),
            ],
        ),
    ],
)
def test_where_torch_is_taken_from(index, card, platform, arguments):
    assert [
        source.arguments
        for source in packages.torch_sources("torch==2.13.0", index, card, platform)
    ] == arguments


@pytest.mark.parametrize(
    ("output", "calls"),
    [
        ("connection failed", ["brief", "default"]),
        ("Downloading torch.whl\nRead timed out", ["brief", "patient"]),
    ],
)
def test_pytorch_org_is_tried_briefly_and_again_only_when_it_answered(output, calls, tmp_path):
    made = []

    def install(arguments):
        kind = (
            "default" if len(arguments) == 1 else "brief" if "--retries" in arguments else "patient"
        )
        made.append(kind)
        return (1, output) if kind == "brief" else (0, "")

    sources = packages.torch_sources("torch==2.13.0", None, None, "linux")
    packages.install_torch(types.SimpleNamespace(install=install, log=tmp_path), sources)
    assert made == calls


@needs_posix
@pytest.mark.parametrize(
    ("rows", "name", "index"),
    [
        (["NVIDIA H200, 580.65.06, 9.0, Disabled"] * 2, "NVIDIA H200", ""),
        (
            ["NVIDIA L4, 550.54.15, 8.9, [N/A]"],
            "NVIDIA L4",
            "https://download.pytorch.org/whl/cu126",
        ),
        (
            ["Tesla K80, 470.223.02, 3.7, [N/A]", "NVIDIA L4, 550.54.15, 8.9, [N/A]"],
            "NVIDIA L4",
            "https://download.pytorch.org/whl/cu126",
        ),
        (["NVIDIA GeForce RTX 5090, 570.86.10, 12.0, [N/A]"], "NVIDIA GeForce RTX 5090", None),
        ([], None, None),
    ],
)
def test_the_card_to_install_torch_for(rows, name, index, tmp_path, monkeypatch):
    """Asked of the real list in a process of its own; only nvidia-smi is played."""
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\n" + "\n".join(f"echo '{row}'" for row in rows) + "\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    card = packages.find_card(ROOT)
    assert (card and card["name"], card and card["index"]) == (name, index)


@pytest.mark.parametrize(
    ("answer", "card", "reused", "said"),
    [
        ("True", {"name": "L4"}, True, "is reused"),
        ("False", None, True, "is reused"),
        ("False", {"name": "L4"}, False, "does not see the L4"),
        (None, None, False, "does not work"),
    ],
)
def test_a_torch_is_reused_where_it_sees_the_card(
    answer, card, reused, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(setup, "try_torch", lambda pip: answer)
    assert (
        setup.reuse_torch(None, tmp_path, {"torch": "2.13.0+cpu", "folders": ["/there"]}, card)
        is reused
    )
    assert said in capsys.readouterr().out and (tmp_path / setup.TORCH_PTH).exists() is reused


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
        ("ProxyError('Cannot connect to proxy.', NewConnectionError", "HTTPS_PROXY"),
        (
            "NewConnectionError: Name or service not known\nNo matching distribution found",
            "network",
        ),
        ("ERROR: No matching distribution found for x==1", "another Python"),
        ("something else", "lines above"),
    ],
)
def test_advice_names_the_cause(output, word):
    assert word in packages.advise(output)


def test_progress_counts_what_applies_here(capsys):
    progress = packages.Progress(3)
    for line in (
        "Ignoring colorama: markers 'x' don't match\n",
        "Collecting numpy==2.4.6\n",
        "Processing /m/pandas-3.1.1-cp311-linux.whl (from -r x)\n",
        "Installing collected packages: numpy, pandas\n",
    ):
        progress.read(line)
    assert progress.seen == progress.total == 2
    assert "unpacking 2 packages" in capsys.readouterr().out


def test_the_panel_is_opened_on_this_machine_alone(monkeypatch, capsys):
    lab, started = importlib.import_module("lab"), []
    monkeypatch.setattr(lab, "python_or_exit", lambda: "python")
    monkeypatch.setattr(lab, "become", lambda python, command: started.append(command))
    lab.main([])
    lab.main(["--remote", "me@box", "--port", "9000"])
    panel = str(SCRIPTS.parent / "work" / "00_lab.ipynb")
    # Else links to results/ would lead out of its root.
    root = f"--ServerApp.root_dir={SCRIPTS.parent}"
    assert started[0] == ["-m", "jupyterlab", panel, root, "--ip=127.0.0.1", "--port=8888"]
    assert started[1] == [*started[0][:-1], "--port=9000", "--no-browser", "--port-retries=0"]
    with pytest.raises(SystemExit):
        lab.main(["--remote"])
    assert "ssh -L 9000:localhost:9000 me@box" in capsys.readouterr().out
