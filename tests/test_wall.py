"""What stands between edited code and the machine: each promise of each wall, tried from inside by real processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from test_foreign import clear
from test_runner import HONEST, OPEN, train

from harness.lab import disk_share, wall
from harness.lab.measuring import Measurement
from harness.lab.runner import child_environment
from harness.lab.wall import REPOSITORY, VARIABLE, Wall, WallError, find_wall


@pytest.fixture
def bubblewrap() -> Wall:
    found = find_wall("auto")
    if not found.walled:
        pytest.skip(f"bubblewrap: {found.why}")
    return found


@pytest.fixture(params=["bubblewrap", "limits"])
def each_wall(request, monkeypatch) -> str:
    """Runs are behind this wall."""
    if request.param == "bubblewrap" and not find_wall("auto").walled:
        pytest.skip(f"bubblewrap: {find_wall('auto').why}")
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """What a run has around it: its own folder, data with a private part, another run's results. Temporary folders do not hide them."""
    monkeypatch.setattr(wall, "SCRATCH", ("/dev/shm",))
    for name in ("data/id/train", "data/id/private", "results/own/work", "results/other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/id/train/rows.bin", "data/id/private/val.bin", "results/other/train.py", "results/own/train.py"):
        (tmp_path / name).write_text(name)
    return {"data": tmp_path / "data", "results": tmp_path / "results", "own": tmp_path / "results/own/work"}


def inside(place: Wall, code: str, places: dict[str, Path], **changes) -> subprocess.CompletedProcess:
    """Run Python code as a training of `places` would be run."""
    seen = {
        "own": [places["own"]],
        "readable": [places["data"] / "id" / "train", places["results"] / "own" / "train.py"],
        "hidden": [places["data"], places["results"]],
        "device": "cpu",
    }
    command = place.enclose([sys.executable, "-c", "import os, sys\n" + code], **seen | changes)
    return subprocess.run(command, cwd=places["own"], env=child_environment(), capture_output=True, text=True)


def said(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_sees_what_it_needs_and_nothing_private(bubblewrap, places):
    wanted = {
        "training rows": places["data"] / "id/train/rows.bin", "its train.py": places["results"] / "own/train.py", "the harness": wall.PACKAGE,
        "validation rows": places["data"] / "id/private/val.bin", "another run": places["results"] / "other", "history": REPOSITORY / ".git",
        "tests": REPOSITORY / "tests", "results": REPOSITORY / "results", "home": Path.home() / ".bashrc",
    }  # fmt: skip
    code = f"wanted = {[(name, str(path)) for name, path in wanted.items()]!r}\nimport numpy, harness.search.keep\n"
    found = said(inside(bubblewrap, code + "print([name for name, path in wanted if os.path.exists(path)])", places))
    assert found == "['training rows', 'its train.py', 'the harness']"


def test_a_child_writes_where_it_works_and_nowhere_else(bubblewrap, places):
    closed = [
        places["results"] / "own/train.py", places["results"] / "own/result.json", places["data"] / "id/train/rows.bin", wall.PACKAGE / "x.py",
        Path(sys.prefix) / "x.py", Path.home() / "x", "/etc/x", "/usr/x", "/run/x", "/var/tmp/x", "/dev/x",
    ]  # fmt: skip
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
        assert said(inside(find_wall("limits"), code, places)).split("\n") == ["connected AF_INET", "connected AF_UNIX"]
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
    code = "value = open('/proc/sys/vm/swappiness').read()\nopen('/proc/sys/vm/swappiness', 'w').write(value)"
    assert "Read-only file system" in inside(bubblewrap, code, places).stderr


KEYRING = """
import ctypes, platform
libc = ctypes.CDLL(None)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
user, search = ctypes.c_long(-4), 10
look = lambda: libc.syscall(keyctl, search, user, b"user", b"autoresearch-TOKEN", ctypes.c_long(0)) > 0
print(look(), libc.syscall(add_key, b"user", b"autoresearch-TOKEN", b"weights", ctypes.c_size_t(7), user) > 0 and look())
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
    [("os.kill(os.getpid(), 9)", -9), ("os.kill(os.getpid(), 11)", -11), ("sys.exit(3)", 3), ("sys.exit(255)", 255)],
)
def test_a_signal_behind_a_wall_reads_as_a_signal(bubblewrap, places, code, status):
    for place in (bubblewrap, find_wall("limits")):
        assert place.returncode(inside(place, code, places).returncode) == status


def test_a_path_keeps_its_name_though_the_links_on_its_way_lie_in_a_hidden_folder(bubblewrap, places, tmp_path):
    home, disk = tmp_path / "home", tmp_path / "disk"
    (disk / "cache").mkdir(parents=True)
    home.mkdir()
    shutil.move(places["data"], disk / "cache" / "data")
    (home / "link").symlink_to("../disk")
    (home / "cache").symlink_to(home / "link" / "cache")
    rows = home / "cache" / "data" / "id" / "train"
    code = f"print(open({str(rows / 'rows.bin')!r}).read(), os.path.exists({str(rows.parent / 'private')!r}))"
    done = inside(bubblewrap, code, places, readable=[rows], hidden=[home, disk / "cache"])
    assert said(done) == "data/id/train/rows.bin False"


def test_of_folders_in_one_another_the_deepest_rule_decides(bubblewrap, places, tmp_path):
    shown, hidden = tmp_path / "outer/shown", tmp_path / "outer/shown/hidden"
    for folder in (hidden / "shown again", shown / "beside"):
        folder.mkdir(parents=True)
    code = f"print([len(os.listdir(path)) for path in ({str(shown.parent)!r}, {str(shown)!r}, {str(hidden)!r})])"
    seen = {"readable": [shown, hidden / "shown again"], "hidden": [tmp_path / "outer", hidden]}
    assert said(inside(bubblewrap, code, places, **seen)) == "[1, 2, 1]"


def test_a_hidden_file_cannot_be_read(bubblewrap, places, tmp_path):
    key = tmp_path / "key"
    key.write_text("sk-secret")
    assert said(inside(bubblewrap, f"print(open({str(key)!r}).read())", places)) == "sk-secret"
    assert "Permission denied" in inside(bubblewrap, f"open({str(key)!r})", places, hidden=[key]).stderr


def test_nodes_of_a_card_are_there_for_a_card_only(bubblewrap, places, monkeypatch):
    code = "print(*os.listdir('/dev'))"
    closed = sorted(set(os.listdir("/dev")) - set(said(inside(bubblewrap, code, places)).split()))
    node = next((name for name in closed if Path("/dev", name).is_char_device()), None)
    if node is None:
        pytest.skip("this machine has no device beyond the usual ones")
    monkeypatch.setattr(wall, "NODES", (node,))
    assert node not in said(inside(bubblewrap, code, places)).split()
    assert node in said(inside(bubblewrap, code, places, device="cuda")).split()


def test_a_folder_that_holds_the_system_is_not_said_to_be_hidden(bubblewrap, places):
    with pytest.raises(WallError, match="cannot hide /"):
        inside(bubblewrap, "", places, hidden=[Path("/")])


def test_a_user_without_a_name_or_a_home_has_a_wall(bubblewrap, places, monkeypatch):
    monkeypatch.delenv("HOME")

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(wall.pwd, "getpwuid", nobody)
    assert said(inside(bubblewrap, "print('here')", places)) == "here"


# --- which wall ----------------------------------------------------------------------------------------------------


def forget():
    wall.try_bubblewrap.cache_clear()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all of PATH; what was found out about bubblewrap is forgotten before and after."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    forget()
    yield folder
    forget()


def test_without_bubblewrap_there_are_limits_which_claim_no_more(programs):
    found = find_wall()
    assert found.kind == "limits" and "not installed" in found.why
    assert "could read and write whatever you can" in found.words and "network" in found.words
    assert found.enclose(["x"], own=[], readable=[], hidden=[Path("/")], device="cpu") == ["x"]


def test_a_bubblewrap_that_is_forbidden_is_not_used_and_its_reason_kept(programs):
    (programs / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (programs / "bwrap").chmod(0o755)
    assert find_wall().kind == "limits" and "No permissions to create" in find_wall().why
    with pytest.raises(WallError, match="No permissions to create"):
        find_wall("bubblewrap")


def test_a_bubblewrap_that_hides_nothing_is_not_believed(programs):
    script = '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; [ $# -gt 0 ] || exit 0; done\nshift\nexec "$@"\n'
    (programs / "bwrap").write_text(script)
    (programs / "bwrap").chmod(0o755)
    assert find_wall().kind == "limits" and "not hidden" in find_wall().why


def test_root_without_user_namespaces_has_a_wall_that_says_what_it_lacks(bubblewrap, programs):
    refuse = "#!/bin/sh\ncase \" $* \" in *' --unshare-user '*) echo 'bwrap: no user namespaces' >&2; exit 1;; esac\n"
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


# --- trainings behind each wall ------------------------------------------------------------------------------------


def test_an_honest_training_passes_each_wall_and_its_result_names_it(tmp_path, each_wall):
    result, log = train(tmp_path, HONEST)
    assert result["status"] == "ok" and result["wall"] == each_wall, (result, log)
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_a_training_killed_by_the_system_ran_out_of_memory_behind_each_wall(tmp_path, each_wall):
    result, _ = train(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert result["status"] == "oom"


@pytest.mark.slow
def test_a_training_is_limited_behind_each_wall(tmp_path, each_wall):
    code = (
        "import json, resource as r\n"
        "print(json.dumps([r.getrlimit(n)[1] for n in (r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_CORE)]))\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')])\n"
        "print(open('/proc/self/oom_score_adj').read())\n"
    )
    _, log = train(tmp_path, code)
    limits, privileges, goes_first = log.splitlines()[:3]
    size, descriptors, core = json.loads(limits)
    assert 0 < size <= 20e9 and 0 < descriptors <= 4096 and core == 0
    assert (privileges, goes_first) == ("['1']", "1000") or not sys.platform.startswith("linux")


STAY = """
import os, subprocess, sys
def stay(token, **how):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", token], start_new_session=True, **how)
"""


def named(token: str) -> list[psutil.Process]:
    """Living processes with the token in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            if token in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_no_process_outlives_a_training_by_leaving_its_group(tmp_path, each_wall):
    tokens = [uuid.uuid4().hex for _ in range(3)]
    leave = STAY + f"stay({tokens[0]!r})\nstay({tokens[1]!r}, cwd='/')\nstay({tokens[2]!r}, env={{}})\n"
    result, _ = train(tmp_path, leave + HONEST)
    assert result["status"] == "ok"
    assert [token for token in tokens if named(token)] == []


@pytest.mark.slow
def test_only_without_bubblewrap_can_a_process_stay_that_hides_both_its_mark_and_its_folder(tmp_path, each_wall):
    token = uuid.uuid4().hex
    train(tmp_path, STAY + f"stay({token!r}, env={{}}, cwd='/')\n" + HONEST)
    stayed = named(token)
    for process in stayed:
        process.kill()
    assert len(stayed) == (1 if each_wall == "limits" else 0)


@pytest.mark.slow
def test_a_training_that_is_ended_late_leaves_nothing_alive_behind_each_wall(tmp_path, each_wall):
    token = uuid.uuid4().hex
    result, _ = train(tmp_path, STAY + OPEN + f"stay({token!r})\nsession.start()\nimport time\ntime.sleep(600)")
    assert result["status"] == "timeout" and named(token) == []


@pytest.mark.slow
def test_what_one_run_leaves_the_next_does_not_see(tmp_path, each_wall):
    spots = "import os, tempfile\nspots = [os.path.join(f, 'carried') for f in ('.', '..', tempfile.gettempdir(), os.environ['TORCHINDUCTOR_CACHE_DIR'])]\n"
    first = spots + "for spot in spots:\n    try: open(spot, 'w').close()\n    except OSError: pass\n"
    train(tmp_path / "first", first + HONEST)
    beyond = "spots += ['/tmp/carried', os.path.expanduser('~/carried')]\n" if each_wall == "bubblewrap" else ""
    if beyond:
        train(tmp_path / "first again", spots + beyond + first.removeprefix(spots) + HONEST)
    _, log = train(tmp_path / "second", spots + beyond + "print('seen:', [s for s in spots if os.path.exists(s)])\n")
    assert "seen: []" in log


def test_a_child_cannot_change_its_request_behind_bubblewrap(tmp_path, bubblewrap, monkeypatch):
    monkeypatch.setenv(VARIABLE, "bubblewrap")
    _, log = train(tmp_path, "import os\nopen(os.environ['AUTORESEARCH_RUN'], 'w')")
    assert "Read-only file system" in log
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 1


NASTY = """
import os
def leave(folder):
    os.mkfifo(folder + "/pipe")
    os.symlink("/etc/passwd", folder + "/link")
    os.symlink("/nowhere", folder + "/dead link")
    open(folder + "/closed", "w").close()
    os.mkdir(folder + "/closed folder")
    os.mkdir(folder + "/closed folder/inner")
    os.chmod(folder + "/closed", 0)
    os.chmod(folder + "/closed folder", 0)
    back = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    for _ in range(2000):
        os.mkdir("d")
        os.chdir("d")
    os.fchdir(back)
"""


@pytest.mark.slow
def test_nothing_that_a_child_leaves_trips_the_runner(tmp_path, each_wall, request):
    request.addfinalizer(lambda: clear(tmp_path))
    leave = (
        NASTY
        + "cache = os.environ['TORCHINDUCTOR_CACHE_DIR']\nopen(cache + '/kernel', 'w').write('good')\nleave('.')\nleave(cache)\n"
    )
    result, log = train(tmp_path, leave + HONEST)
    assert result["status"] == "ok", (result, log)
    run = tmp_path / "run"
    assert not (run / "work").exists()
    copy = shutil.copytree(run / "compile_cache", tmp_path / "promoted")
    assert (copy / "kernel").read_text() == "good"
    assert not [name for name in ("pipe", "link", "dead link") if os.path.lexists(copy / name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        "shutil.rmtree('..', ignore_errors=True)",
        "os.remove('../run.log'); os.mkdir('../run.log'); os.symlink('/etc/passwd', '../run')",
    ],
)
def test_a_training_that_clears_away_the_runs_folder_harms_itself_alone(tmp_path, each_wall, harm):
    tidy = f"import os, shutil\nprint('tidying', flush=True)\ntry: {harm}\nexcept OSError: pass\nprint('tidied', flush=True)\n"
    result, log = train(tmp_path, tidy + "raise ValueError('done')")
    assert result["status"] == "crash" and {"tidying", "tidied"} <= set(log.splitlines())
    assert (tmp_path / "run" / "run.log").is_file() and (tmp_path / "run" / "events.jsonl").is_file()


@pytest.mark.parametrize(
    "left",
    [
        "os.symlink('/etc/passwd', name)",
        *(pytest.param(f"os.{make}(name)", marks=pytest.mark.slow) for make in ("mkfifo", "mkdir")),
    ],
)
def test_weights_that_are_no_file_are_a_crash(tmp_path, left):
    result, _ = train(tmp_path, HONEST + f"import os\nname = 'weights.safetensors'\nos.remove(name)\n{left}\n")
    assert result["status"] == "crash" and "weights.safetensors is not a file of its own" in result["cause"]
    assert not os.path.lexists(tmp_path / "run" / "weights.safetensors")


@pytest.mark.parametrize("hold", ["", pytest.param("os.unlink('much')", marks=pytest.mark.slow)])
def test_a_training_that_fills_the_disk_is_ended(tmp_path, monkeypatch, hold):
    monkeypatch.setattr(disk_share, "MOST_BYTES", 8_000_000)
    fill = f"import os, time\nfile = open('much', 'wb')\n{hold}\nfile.write(os.urandom(16_000_000)); file.flush()\n"
    result, _ = train(tmp_path, fill + "time.sleep(600)", startup_limit_seconds=120)
    assert result["status"] == "crash" and "GB in" in result["cause"]
    assert not (tmp_path / "run" / "work").exists()


def test_a_wall_that_does_not_go_up_is_no_fault_of_the_idea(tmp_path, bubblewrap, monkeypatch):
    broken = Wall("bubblewrap", "", "", str(tmp_path / "bwrap"))
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: no space for a mount' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("harness.lab.runner.find_wall", lambda: broken)
    result, _ = train(tmp_path, HONEST)
    assert result["status"] == "infrastructure" and "bwrap: no space for a mount" in result["cause"]


@pytest.mark.slow
def test_a_model_server_that_leaves_a_folder_without_end_is_a_crash_that_leaves_nothing(tmp_path, each_wall):
    own, private = tmp_path / "results/run", tmp_path / "data/id/private"
    own.mkdir(parents=True)
    private.mkdir(parents=True)
    (private / "val.bin").write_bytes(bytes(2 * 4 * 65))
    np.save(private / "token_bytes.npy", np.ones(256, dtype=np.int32))
    (own / "weights.safetensors").write_bytes(b"")
    (own / "train.py").write_text(
        "import os\nfor _ in range(2000):\n    os.mkdir('d'); os.chdir('d')\nraise ValueError('deep')\n"
    )
    some = SimpleNamespace
    settings = some(device={"kind": "cpu"}, dtype="float32", threads=1, profile={"source": "", "startup_limit_seconds": 60}, budget_seconds=1)  # fmt: skip
    data = some(folder=private.parent, private_dir=private, train_dir=private, manifest={"eval_batch_rows": 4}, n_vocab=256, max_seq_len=64)  # fmt: skip
    unchanged = some(changed=lambda: [])
    measurement = Measurement(settings, data, unchanged, find_wall(), tmp_path / "results", own / "train.py", own)
    fields = measurement.score(lambda share: None)
    assert (fields["status"], fields["cause"]) == ("crash", "ValueError: deep"), fields
    assert sorted(os.listdir(own)) == ["train.py", "weights.safetensors"]
