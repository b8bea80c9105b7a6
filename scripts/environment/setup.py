"""The environment that this checkout runs in: found, made or mended at each start of a script.

In: the interpreter that started the script, `requirements.lock`, `requirements-dev.lock`. Out: the
path of a python that has everything at the locked versions and imports `harness` from this
checkout. The choice, in this order:

1. the running interpreter, when it already has everything (a conda environment made from
   environment.yml, say);
2. `.venv` in the checkout, when its last set-up finished and nothing has changed since;
3. `.venv` made or mended with pip. A torch >= 2.11 of the running interpreter is reused and never
   replaced: the packages of that interpreter are put behind those of `.venv` by a .pth file, which
   does what system site-packages do, but reaches the torch of another venv as well. The checkout
   becomes importable by a .pth file too, so that no build backend has to be downloaded.

The stamp in `.venv` says that a set-up finished, where, and with which torch; which versions are
there is read from the packages' metadata at every start. So an interrupted set-up is seen and
mended. Standard library only, and the syntax is that of Python 3.6, so that an old Python can still
read the sentence that says it is too old.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

MINIMUM_PYTHON = (3, 11)


def explain_old_python(version, executable, which=shutil.which):
    """What to tell the user of a Python that is too old, naming a newer one of the machine."""
    newer = [
        name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if which(name)
    ]
    if newer:
        advice = f"This machine has {newer[0]}: start the script with that."
    else:
        advice = (
            "Install a newer one (python.org, conda, your package manager), or let uv fetch one: "
            "uv run scripts/overnight.py --demo"
        )
    return (
        f"Python 3.11 or newer is needed, and {executable}"
        f" is Python {version[0]}.{version[1]}. {advice}"
    )


# Not in a function: what follows cannot even be defined by an old Python.
if sys.version_info < MINIMUM_PYTHON:
    sys.exit(explain_old_python(sys.version_info, sys.executable))

from environment.check import (
    find_problems,
    find_version,
    imports_harness,
    is_recent_torch,
    read_locks,
)
from environment.packages import (
    Pip,
    SetupError,
    find_card,
    install_locked,
    install_torch,
    run_logged,
    say,
    torch_sources,
)
from environment.venvs import (
    clear,
    create,
    drop_half_installed,
    hold_lock,
    read_stamp,
    venv_python,
    write_pth,
    write_stamp,
)

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT_PTH = "autoresearch_lab.pth"
TORCH_PTH = "autoresearch_lab_torch.pth"  # sorts after the other: the checkout comes first


def examine(python: Path, dev: bool, root: Path) -> dict | None:
    """Facts of another interpreter (see `check.describe`); None: it does not run or is too old."""
    command = [
        str(python),
        str(Path(__file__).with_name("check.py")),
        str(root),
        *(["--dev"] if dev else []),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def is_ready(venv: Path, dev: bool, torch_index: str | None, root: Path) -> bool:
    """True when `venv` may be used as it is, with the torch that was asked for."""
    stamp = read_stamp(venv)
    if stamp is not None and not (stamp.get("complete") and stamp.get("root") == str(root)):
        return False
    if torch_index is not None and (stamp or {}).get("torch_index") != torch_index:
        return False
    facts = examine(venv_python(venv), dev, root)
    return facts is not None and not facts["problems"]


def find_environment(
    dev: bool = False, torch_index: str | None = None, root: Path = ROOT
) -> Path | None:
    """A python that has everything already, or None. Changes nothing."""
    if torch_index is None and not find_problems(root, dev):
        return Path(sys.executable)
    venv = root / ".venv"
    return venv_python(venv) if is_ready(venv, dev, torch_index, root) else None


def find_usable(root: Path = ROOT) -> Path | None:
    """A python that imports the harness, complete or not.

    It is for looking at a night, whose environment must stay.
    """
    python = venv_python(root / ".venv")
    if (examine(python, False, root) or {}).get("harness"):
        return python
    return Path(sys.executable) if imports_harness(root) else None


def ensure_environment(
    dev: bool = False, torch_index: str | None = None, root: Path = ROOT
) -> Path:
    """Path of a python that has everything, made now if need be.

    dev: with what only the tests need.

    torch_index: take torch from there rather than from the usual places. Raises SetupError with
    what to do about it.
    """
    python = find_environment(dev, torch_index, root)
    if python is not None:
        return python
    try:
        with hold_lock(root / ".setup.lock") as lock:
            # Another set-up may just have finished.
            if not is_ready(root / ".venv", dev, torch_index, root):
                mend(root, dev, torch_index, lock)
    except OSError as error:
        raise SetupError(
            f"{error.strerror or error}: {error.filename or root}. The checkout must be "
            "writable and its disk have 3 GB free, 9 GB with a CUDA torch"
        ) from error
    return venv_python(root / ".venv")


def python_or_exit(dev: bool = False, torch_index: str | None = None) -> Path:
    """`ensure_environment` for a script: what went wrong becomes a sentence and an exit status."""
    try:
        return ensure_environment(dev, torch_index)
    except SetupError as error:
        sys.exit(f"set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("set-up interrupted: the same command takes it up again")


def become(python: Path, arguments: list[str]) -> None:
    """Go on as another python process.

    In place where the system can: signals and exit status are then its own.
    """
    # -P: a module in the user's working folder shadows nothing.
    command = [str(python), "-P", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    child = subprocess.Popen(command)
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:
            # Windows gives Ctrl-C to the child as well, which knows what to finish.
            continue


def find_donor(root: Path) -> dict | None:
    """The folders of the running interpreter's packages, its torch's first; None without a torch.

    What is in the checkout's own `.venv` is no donor.
    """
    version = find_version("torch")
    if not is_recent_torch(version):
        return None
    home = str(importlib.metadata.distribution("torch").locate_file(""))
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    folders = [
        path
        for path in dict.fromkeys([home, *others])
        if not Path(path).is_relative_to(root / ".venv")
    ]
    return (
        {"torch": version, "folders": folders, "python": "{}.{}".format(*sys.version_info[:2])}
        if folders
        else None
    )


def open_venv(root: Path, lock: int | None) -> tuple[dict, dict]:
    """A `.venv` whose python and pip run, new if need be; return (facts, stamp before).

    One that was not made here is completed but never emptied. Raises SetupError when it cannot be
    used.
    """
    venv, python = root / ".venv", venv_python(root / ".venv")
    stamp = read_stamp(venv)
    before = stamp or {}
    # The scripts in it name the old folder.
    moved = before.get("made_here", False) and before.get("root") != str(root)
    facts = examine(python, False, root)
    half = drop_half_installed(Path(facts["site_packages"])) if facts and stamp is not None else []
    if facts and not moved and facts["pip"] and "pip" not in half:
        interrupted = stamp is not None and not before.get("complete")
        say(
            "an earlier set-up was interrupted: mending .venv"
            if interrupted
            else "completing .venv"
        )
        return facts, before
    if venv.exists() and any(venv.iterdir()):
        if not before.get("made_here"):
            raise SetupError(
                f"{venv} was not made by this script and cannot be used (its Python is older than"
                " 3.11, or it has no pip). Rename it or take it away, then start again"
            )
        say(
            "emptying .venv: "
            + ("the checkout was moved or copied" if moved else "it does not run")
        )
        clear(venv)
    return make_venv(venv, root, lock)


def make_venv(venv: Path, root: Path, lock: int | None) -> tuple[dict, dict]:
    """A new environment, stamped as ours before anything is in it; return (facts, stamp)."""
    venv.mkdir(exist_ok=True)
    stamp = {"complete": False, "made_here": True, "root": str(root)}
    write_stamp(venv, stamp)
    say("making .venv with Python {}.{}.{}".format(*sys.version_info[:3]))
    create(venv, venv / "setup.log", lock)
    facts = examine(venv_python(venv), False, root)
    if facts is None:
        raise SetupError(
            f"the python of the new environment does not run: see {venv / 'setup.log'}"
        )
    return facts, stamp


def try_torch(pip: Pip) -> str | None:
    """Load torch, since metadata cannot tell whether it works.

    Returns None, or what it says of CUDA ("True", "False").
    """
    command = [str(pip.python), "-c", "import torch; print(torch.cuda.is_available())"]
    status, output = run_logged(command, pip.log)
    return output.split()[-1] if status == 0 else None


def reuse_torch(pip: Pip, site_packages: Path, donor: dict, card: dict | None) -> bool:
    """Put the donor's packages behind those of `.venv`.

    False, and nothing changed, when torch does not work so. card: one that the torch installed
    instead would use, None for none; then the donor's must see it, too.
    """
    statements = [f"import site; site.addsitedir({ascii(folder)})" for folder in donor["folders"]]
    write_pth(site_packages, TORCH_PTH, statements)
    sees_card = try_torch(pip)
    where = f"torch {donor['torch']} of {donor['folders'][0]}"
    if sees_card == "True" or sees_card and card is None:
        say(f"{where} is reused: none is downloaded")
        return True
    lacks = f"does not see the {card['name']}" if sees_card else "does not work in .venv"
    say(f"{where} {lacks}, so one is installed there; the other stays as it is")
    (site_packages / TORCH_PTH).unlink()
    return False


def add_torch(pip: Pip, locked: str, index: str | None, card: dict | None) -> None:
    """Install torch and see that it works; whether it sees the card, a night says. Raises
    SetupError.
    """
    install_torch(pip, torch_sources(locked, index, card, sys.platform))
    if try_torch(pip) is None:
        raise SetupError(
            f"torch is installed but cannot be imported: the last lines of {pip.log} say why"
        )


def mend(root: Path, dev: bool, torch_index: str | None, lock: int | None) -> None:
    """Bring `.venv` to the locked state; the stamp is completed last. Raises SetupError."""
    began = time.monotonic()
    facts, before = open_venv(root, lock)
    venv, site_packages = root / ".venv", Path(facts["site_packages"])
    index = torch_index or before.get("torch_index")  # once asked for, it stays
    donor = None if index else find_donor(root) or before.get("donor")
    write_stamp(venv, before | {"complete": False, "root": str(root), "donor": donor})
    (site_packages / TORCH_PTH).unlink(missing_ok=True)  # pip must see only what is in .venv itself
    write_pth(site_packages, CHECKOUT_PTH, [f"import sys; sys.path.append({ascii(str(root))})"])

    pip = Pip(venv_python(venv), venv / "setup.log", lock)
    locked = read_locks(root, dev)
    torch_line = next(line for line in locked if line.startswith("torch=="))
    install_locked(pip, [line for line in locked if line != torch_line], venv / "setup.txt")
    if index != before.get("torch_index"):
        pip.uninstall("torch")
    card = find_card(root)
    serves = card if card and card["index"] is not None else None
    if is_recent_torch((examine(pip.python, False, root) or facts)["torch"]):
        donor = None  # .venv has its own
    elif not (
        donor
        and facts["python"].startswith(donor["python"] + ".")
        and reuse_torch(pip, site_packages, donor, serves)
    ):
        donor = None
        add_torch(pip, torch_line, index, card)

    facts = examine(pip.python, dev, root)
    if facts is None or facts["problems"]:
        lacks = ", ".join(facts["problems"][:5]) if facts else "a python that runs"
        raise SetupError(
            f"after all this .venv still lacks {lacks}: see {pip.log}. "
            "Taking .venv away and starting again makes it anew"
        )
    write_stamp(
        venv,
        {
            "complete": True,
            "made_here": before.get("made_here", False),
            "root": str(root),
            "donor": donor,
            "torch_index": index,
            "python": facts["python"],
            "torch": facts["torch"],
        },
    )
    say(
        f".venv is ready: Python {facts['python']}, torch {facts['torch']}"
        f" ({time.monotonic() - began:.0f} s in all)"
    )
