"""What stands between edited code and the machine.

Each promise of each wall is tried from inside by real processes.
"""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from harness import REPOSITORY
from harness.ground.errors import WallError
from harness.sandbox import wall
from harness.sandbox.child import child_environment
from harness.sandbox.wall import VARIABLE, Wall, find_wall


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """What a run has around it: its own folder, data with a private part, another run's results.

    Temporary folders do not hide them.
    """
    monkeypatch.setattr(wall, "SCRATCH", ("/dev/shm",))
    for name in ("data/id/train", "data/id/private", "results/own/work", "results/other"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "data/id/train/rows.bin",
        "data/id/private/val.bin",
        "results/other/train.py",
        "results/own/train.py",
    ):
        (tmp_path / name).write_text(name)
    return {
        "data": tmp_path / "data",
        "results": tmp_path / "results",
        "own": tmp_path / "results/own/work",
    }


def inside(
    place: Wall, code: str, places: dict[str, Path], **changes
) -> subprocess.CompletedProcess:
    """Run Python code as a training of `places` would be run."""
    seen = {
        "own": [places["own"]],
        "readable": [places["data"] / "id" / "train", places["results"] / "own" / "train.py"],
        "hidden": [places["data"], places["results"]],
        "device": "cpu",
    }
    command = place.enclose([sys.executable, "-c", "import os, sys\n" + code], **seen | changes)
    return subprocess.run(
        command, cwd=places["own"], env=child_environment(), capture_output=True, text=True
    )


def said(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_sees_what_it_needs_and_nothing_private(bubblewrap, places):
    wanted = {
        "training rows": places["data"] / "id/train/rows.bin",
        "its train.py": places["results"] / "own/train.py",
        "the harness": wall.PACKAGE,
        "validation rows": places["data"] / "id/private/val.bin",
        "another run": places["results"] / "other",
        "history": REPOSITORY / ".git",
        "tests": REPOSITORY / "tests",
        "results": REPOSITORY / "results",
        "home": Path.home() / ".bashrc",
    }
    code = (
        f"wanted = {[(name, str(path)) for name, path in wanted.items()]!r}\n"
        "import numpy, harness.rules.keep\n"
    )
    found = said(
        inside(
            bubblewrap,
            code + "print([name for name, path in wanted if os.path.exists(path)])",
            places,
        )
    )
    assert found == "['training rows', 'its train.py', 'the harness']"


def test_a_child_writes_where_it_works_and_nowhere_else(bubblewrap, places):
    closed = [
        places["results"] / "own/train.py",
        places["results"] / "own/result.json",
        places["data"] / "id/train/rows.bin",
        wall.PACKAGE / "x.py",
        Path(sys.prefix) / "x.py",
        Path.home() / "x",
        "/etc/x",
        "/usr/x",
        "/run/x",
        "/var/tmp/x",
        "/dev/x",
    ]
    code = f"""
for path in {[str(path) for path in closed]!r}:
    try:
        open(path, "a").close()
        print("wrote", path)
    except OSError:
        pass
open("mine", "w").write("1"); open("/dev/shm/passing", "w").write("2")
"""
    assert said(inside(bubblewrap, code, places)) == ""
    assert (places["own"] / "mine").read_text() == "1" and not os.path.exists("/dev/shm/passing")


@pytest.mark.parametrize("folder", wall.SCRATCH)
def test_what_is_written_in_memory_is_bounded_and_passes(bubblewrap, places, monkeypatch, folder):
    monkeypatch.setattr(wall, "SCRATCH", (folder,))
    if not bubblewrap.sized:
        pytest.skip(f"bubblewrap: {bubblewrap.words.split(':')[0]} cannot bound a folder in memory")
    code = f"""
try:
    with open("{folder}/autoresearch-much", "wb") as file:
        for _ in range({wall.SCRATCH_BYTES >> 20} + 1): file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
"""
    assert said(inside(bubblewrap, code, places)) == "No space left on device"
    assert not os.path.exists(f"{folder}/autoresearch-much")


def test_a_child_has_no_network_and_no_socket_of_ours(bubblewrap, places):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"\0autoresearch-{uuid.uuid4().hex}"
        local.bind(name)
        local.listen()
        targets = [("AF_INET", server.getsockname()), ("AF_UNIX", name)]
        code = f"""
import socket
for family, address in {targets!r}:
    try:
        socket.socket(getattr(socket, family)).connect(address)
        print("connected", family)
    except OSError:
        print("no", family)
"""
        assert said(inside(find_wall("limits"), code, places)).split("\n") == [
            "connected AF_INET",
            "connected AF_UNIX",
        ]
        assert said(inside(bubblewrap, code, places)).split("\n") == ["no AF_INET", "no AF_UNIX"]


def test_a_child_sees_and_reaches_no_process_but_its_own(bubblewrap, places):
    code = f"""
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[-1] < 100)
try:
    os.kill({os.getpid()}, 0)
except ProcessLookupError:
    print("nobody")
"""
    assert said(inside(bubblewrap, code, places)).split() == ["True", "nobody"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root passes the kernel's check of these files")
def test_root_behind_the_wall_cannot_set_the_kernels_variables(bubblewrap, places):
    code = (
        "value = open('/proc/sys/vm/swappiness').read()\n"
        "open('/proc/sys/vm/swappiness', 'w').write(value)"
    )
    assert "Read-only file system" in inside(bubblewrap, code, places).stderr


KEYRING = """
import ctypes, platform
libc = ctypes.CDLL(None)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
user, search = ctypes.c_long(-4), 10
key = b"user", b"autoresearch-TOKEN"
def found():
    return libc.syscall(keyctl, search, user, *key, ctypes.c_long(0)) > 0
before = found()
added = libc.syscall(add_key, *key, b"weights", ctypes.c_size_t(7), user) > 0
print(before, added and found())
"""


def test_what_a_child_gives_the_kernel_to_keep_the_next_does_not_find(bubblewrap, places):
    if not bubblewrap.users:
        pytest.skip(f"bubblewrap: {bubblewrap.words}")
    code = KEYRING.replace("TOKEN", uuid.uuid4().hex)
    first, second = (said(inside(bubblewrap, code, places)) for _ in range(2))
    if first == "False False":
        pytest.skip("this system has no keyrings")
    assert first == second == "False True"


def test_what_does_not_last_is_bounded_and_passes_with_the_child(bubblewrap, places):
    (places["own"] / "before").write_text("an earlier child's")
    code = f"""
print(os.getcwd() == {str(places["own"])!r}, os.listdir())
os.makedirs("a/b")
try:
    with open("a/b/much", "wb") as file:
        for _ in range({wall.SCRATCH_BYTES >> 20} + 1): file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
"""
    found = said(inside(bubblewrap, code, places, lasting=False)).split("\n")
    assert found == ["True []", "No space left on device"][: 1 + bubblewrap.sized]
    assert os.listdir(places["own"]) == ["before"]


@pytest.mark.parametrize(
    "code, status",
    [
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 11)", -11),
        ("sys.exit(3)", 3),
        ("sys.exit(255)", 255),
    ],
)
def test_a_signal_behind_a_wall_reads_as_a_signal(bubblewrap, places, code, status):
    for place in (bubblewrap, find_wall("limits")):
        assert place.returncode(inside(place, code, places).returncode) == status


def test_a_path_keeps_its_name_though_the_links_on_its_way_lie_in_a_hidden_folder(
    bubblewrap, places, tmp_path
):
    home, disk = tmp_path / "home", tmp_path / "disk"
    (disk / "cache").mkdir(parents=True)
    home.mkdir()
    shutil.move(places["data"], disk / "cache" / "data")
    (home / "link").symlink_to("../disk")
    (home / "cache").symlink_to(home / "link" / "cache")
    rows = home / "cache" / "data" / "id" / "train"
    code = (
        f"print(open({str(rows / 'rows.bin')!r}).read(),"
        f" os.path.exists({str(rows.parent / 'private')!r}))"
    )
    done = inside(bubblewrap, code, places, readable=[rows], hidden=[home, disk / "cache"])
    assert said(done) == "data/id/train/rows.bin False"


def test_of_folders_in_one_another_the_deepest_rule_decides(bubblewrap, places, tmp_path):
    shown, hidden = tmp_path / "outer/shown", tmp_path / "outer/shown/hidden"
    for folder in (hidden / "shown again", shown / "beside"):
        folder.mkdir(parents=True)
    code = (
        f"print([len(os.listdir(path)) for path in ({str(shown.parent)!r},"
        f" {str(shown)!r}, {str(hidden)!r})])"
    )
    seen = {"readable": [shown, hidden / "shown again"], "hidden": [tmp_path / "outer", hidden]}
    assert said(inside(bubblewrap, code, places, **seen)) == "[1, 2, 1]"


def test_a_hidden_file_cannot_be_read(bubblewrap, places, tmp_path):
    key = tmp_path / "key"
    key.write_text("sk-secret")
    assert said(inside(bubblewrap, f"print(open({str(key)!r}).read())", places)) == "sk-secret"
    assert (
        "Permission denied"
        in inside(bubblewrap, f"open({str(key)!r})", places, hidden=[key]).stderr
    )


def test_nodes_of_a_card_are_there_for_a_card_only(bubblewrap, places, monkeypatch):
    code = "print(*os.listdir('/dev'))"
    closed = sorted(set(os.listdir("/dev")) - set(said(inside(bubblewrap, code, places)).split()))
    node = next((name for name in closed if Path("/dev", name).is_char_device()), None)
    if node is None:
        pytest.skip("this machine has no device beyond the usual ones")
    monkeypatch.setattr(wall, "NODES", (node,))
    assert node not in said(inside(bubblewrap, code, places)).split()
    assert node in said(inside(bubblewrap, code, places, device="cuda")).split()


CARD_NODES = [
    *("nvidia-caps/nvidia-cap1", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidiactl"),
    *("kfd", "dri/card0", "dri/renderD128", "dxg"),
]
OTHER_NODES = ["sda", "mem", "fuse", "input/event0"]


def test_of_stand_in_nodes_those_of_cards_can_be_written_and_no_others(
    bubblewrap, places, monkeypatch, tmp_path
):
    for name in CARD_NODES + OTHER_NODES:
        node = tmp_path / "dev" / name
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
    monkeypatch.setattr(wall, "DEV", tmp_path / "dev")
    code = (
        f"dev = {str(tmp_path / 'dev')!r}\n"
        f"for name in {CARD_NODES + OTHER_NODES!r}:\n"
        "    print(name * os.access(os.path.join(dev, name), os.W_OK), end=' ')\n"
    )
    for device, expected in (("cuda", CARD_NODES), ("cpu", [])):
        assert said(inside(bubblewrap, code, places, device=device)).split() == expected


def test_a_folder_that_holds_the_system_is_not_said_to_be_hidden(bubblewrap, places):
    with pytest.raises(WallError, match="cannot hide /"):
        inside(bubblewrap, "", places, hidden=[Path("/")])


def test_a_user_without_a_name_or_a_home_has_a_wall(bubblewrap, places, monkeypatch):
    monkeypatch.delenv("HOME")

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(wall.pwd, "getpwuid", nobody)
    assert said(inside(bubblewrap, "print('here')", places)) == "here"


# --- which wall -----------------------------------------------------------------------------------


def forget():
    wall.try_bubblewrap.cache_clear()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all of PATH.

    What was found out about bubblewrap is forgotten before and after.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    forget()
    yield folder
    forget()


def test_it_is_tried_with_the_libraries_that_a_child_gets(programs, monkeypatch):
    shutil.copy("/bin/false", programs / "bwrap")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/a/clusters/python/lib")
    environments = []

    def run(command, env, **options):
        environments.append(env)
        return subprocess.CompletedProcess(command, 1, "", "none")

    monkeypatch.setattr(wall.subprocess, "run", run)
    assert not find_wall().walled
    assert {each.get("LD_LIBRARY_PATH") for each in environments} == {"/opt/a/clusters/python/lib"}


def test_without_bubblewrap_there_are_limits_which_claim_no_more(programs):
    found = find_wall()
    assert found.kind == "limits" and "not installed" in found.why
    assert "could read and write whatever you can" in found.words and "network" in found.words
    assert found.enclose(["x"], own=[], readable=[], hidden=[Path("/")], device="cpu") == ["x"]


def test_a_bubblewrap_that_is_forbidden_is_not_used_and_its_reason_kept(programs):
    (programs / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    (programs / "bwrap").chmod(0o755)
    assert find_wall().kind == "limits" and "No permissions to create" in find_wall().why
    with pytest.raises(WallError, match="No permissions to create"):
        find_wall("bubblewrap")


@pytest.mark.parametrize(
    "places, said",
    [([], "kernel.apparmor_restrict_unprivileged_userns=0"), (["/"], "seccomp=unconfined")],
)
def test_what_lets_bubblewrap_make_namespaces_is_said(programs, monkeypatch, places, said):
    monkeypatch.setattr(wall, "CONTAINERS", places)
    (programs / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: Creating new namespace failed: Permission denied' >&2\nexit 1\n"
    )
    (programs / "bwrap").chmod(0o755)
    assert said in find_wall().why and wall.how_to_allow("Segmentation fault") == ""


@pytest.mark.parametrize(
    "why, said",
    [
        ("Creating new namespace failed", "seccompProfile.type: Unconfined"),
        ("Can't mount proc", "procMount: Unmasked"),
    ],
)
def test_a_pod_is_told_in_the_words_of_kubernetes(monkeypatch, why, said):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert said in wall.how_to_allow(why)


def test_a_bubblewrap_that_hides_nothing_is_not_believed(programs):
    script = (
        "#!/bin/sh\n"
        'while [ "$1" != -- ]; do shift; [ $# -gt 0 ] || exit 0; done\n'
        "shift\n"
        'exec "$@"\n'
    )
    (programs / "bwrap").write_text(script)
    (programs / "bwrap").chmod(0o755)
    assert find_wall().kind == "limits" and "not hidden" in find_wall().why


def test_root_without_user_namespaces_has_a_wall_that_says_what_it_lacks(bubblewrap, programs):
    refuse = (
        "#!/bin/sh\n"
        'case " $* " in\n'
        "*' --unshare-user '*) echo 'bwrap: no user namespaces' >&2; exit 1;;\n"
        "esac\n"
    )
    (programs / "bwrap").write_text(refuse + f'exec {bubblewrap.program} "$@"\n')
    (programs / "bwrap").chmod(0o755)
    found = find_wall()
    assert found.walled and not found.users and "keyring" in found.words


def test_what_is_asked_for_by_the_environment_decides(programs, monkeypatch):
    monkeypatch.setenv(VARIABLE, "limits")
    assert find_wall().kind == "limits" and VARIABLE in find_wall().why
    monkeypatch.setenv(VARIABLE, "bricks")
    with pytest.raises(WallError, match="must be one of auto, bubblewrap, limits"):
        find_wall()
