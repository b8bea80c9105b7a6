"""What edited code left on disk: taken, kept, removed and counted, whatever it is."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.sandbox import disk_share, left_files
from harness.sandbox.disk_share import DiskShare, disk_use, removed_bytes
from harness.sandbox.left_files import copy_plain_files, remove_tree, take_file


def make_socket(path):
    os.chdir(path.parent)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


NO_FILES = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dead link": lambda path: path.symlink_to("/nowhere"),
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "socket": make_socket,
    "second name of another file": lambda path: os.link(path.parent.parent / "precious", path),
}


def clear(folder):
    """Remove what pytest's own clearing up would fall over."""
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], capture_output=True)
    subprocess.run(["rm", "-rf", str(folder)])


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    clear(tmp_path)


def test_a_plain_file_is_taken_and_can_be_read_whatever_its_mode(work, tmp_path):
    (work / "weights").write_text("1")
    (work / "weights").chmod(0)
    (tmp_path / "taken").mkdir()  # what lies in its place goes
    assert take_file(work, "weights", tmp_path / "taken", 10) == ""
    assert (tmp_path / "taken").read_text() == "1" and (
        tmp_path / "taken"
    ).stat().st_mode & 0o777 == 0o600
    assert not (work / "weights").exists()


def test_what_is_taken_is_synced_with_its_folder_before_anybody_speaks_of_it(
    work, tmp_path, monkeypatch
):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle))
    )
    (work / "weights").write_text("1")
    assert take_file(work, "weights", tmp_path / "taken", 10) == ""
    assert synced == [(tmp_path / "taken").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_of_its_own_is_not_taken(work, tmp_path, kind):
    NO_FILES[kind](work / "weights")
    assert "not a file of its own" in take_file(work, "weights", tmp_path / "taken", 10)
    assert (
        not os.path.lexists(tmp_path / "taken")
        and (tmp_path / "precious").read_text() == "precious"
    )


def test_what_is_missing_too_large_or_in_a_linked_folder_is_not_taken(work, tmp_path):
    assert take_file(work, "weights", tmp_path / "taken", 10) == "there is no weights"
    (work / "weights").write_text("12345678901")
    assert "are allowed" in take_file(work, "weights", tmp_path / "taken", 10)
    (tmp_path / "linked").symlink_to(work)
    assert "is gone" in take_file(tmp_path / "linked", "weights", tmp_path / "taken", 100)
    assert not os.path.lexists(tmp_path / "taken")


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_plain_files_and_folders_are_copied(work, tmp_path, kind):
    (work / "inner").mkdir()
    (work / "inner" / "kernel").write_text("good")
    if kind != "folder":
        NO_FILES[kind](work / "odd")
    copy = tmp_path / "copy"
    assert copy_plain_files(work, copy, 4, 1)
    found = [path.relative_to(copy).as_posix() for path in sorted(copy.rglob("*"))]
    assert found == ["inner", "inner/kernel"]
    assert (copy / "inner" / "kernel").read_text() == "good"
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("most", [(3, 9), (9, 0)])
def test_no_more_is_copied_than_is_allowed(work, tmp_path, most):
    (work / "kernel").write_text("good")
    assert not copy_plain_files(work, tmp_path / "copy", *most)


def test_a_file_that_grows_while_it_is_copied_ends_the_copy(work, tmp_path, monkeypatch):
    monkeypatch.setattr(left_files, "COPIED_BYTES", 4)
    (work / "kernel").write_text("good")
    real = left_files.open_plain

    def open_growing(name, folder):
        file = real(name, folder)
        read = file.read

        class Growing:
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *error: file.close()  # noqa: E731

            def read(self, size):
                with (work / "kernel").open("a") as more:
                    more.write("good")
                return read(size)

        return Growing()

    monkeypatch.setattr(left_files, "open_plain", open_growing)
    assert not copy_plain_files(work, tmp_path / "copy", 1000, 9)
    assert (work / "kernel").stat().st_size < 2000


def make_deep(folder, depth, name="d" * 255):
    """Folders below one another, deeper than any path may be long."""
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    open("last", "w").close()
    os.chdir(here)


def test_a_cache_without_end_is_cut(work, tmp_path):
    make_deep(work, 1500)
    assert copy_plain_files(work, tmp_path / "copy", 10, 10)
    remove_tree(tmp_path / "copy")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_what_is_closed_to_us_is_left_out(work, tmp_path):
    (work / "closed").mkdir()
    (work / "closed" / "kernel").write_text("1")
    (work / "kernel").write_text("1")
    (work / "kernel").chmod(0)
    (work / "closed").chmod(0)
    assert copy_plain_files(work, tmp_path / "copy", 10, 10)
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


def test_a_link_in_the_place_of_a_folder_goes_and_what_it_led_to_stays(work, tmp_path):
    (tmp_path / "cache").symlink_to(work)
    (work / "file").write_text("1")
    copy_plain_files(tmp_path / "cache", tmp_path / "copy", 10, 10)
    assert not (tmp_path / "copy" / "file").exists()
    remove_tree(tmp_path / "cache")
    assert not os.path.lexists(tmp_path / "cache") and (work / "file").exists()


@pytest.mark.parametrize("kind", [*NO_FILES, "nothing"])
def test_a_folder_is_removed_with_whatever_is_in_it(work, tmp_path, kind):
    make_deep(work, 1500)
    (work / "closed").mkdir()
    (work / "closed" / "inner").mkdir()
    (work / "closed" / "inner").chmod(0)
    (work / "closed").chmod(0)
    if kind != "nothing":
        NO_FILES[kind](work / "odd")
    remove_tree(work)
    assert not os.path.lexists(work) and (tmp_path / "precious").read_text() == "precious"
    remove_tree(work)  # once more does no harm


def test_what_takes_up_the_disk_is_counted_and_links_are_not_followed(work, tmp_path):
    (work / "inner").mkdir()
    (work / "inner" / "full").write_bytes(os.urandom(100_000))
    with (work / "sparse").open("wb") as file:
        file.truncate(10**9)
    (work / "link").symlink_to("/usr")
    used, files = disk_use([work])
    assert 100_000 <= used < 10_000_000 and files == 4


def test_what_lies_too_deep_to_be_counted_is_too_much(work):
    make_deep(work, 30)
    assert disk_use([work])[1] > disk_share.MOST_FILES


def test_files_without_number_are_too_many(work, monkeypatch):
    monkeypatch.setattr(disk_share, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(disk_share, "MOST_FILES", 20)
    share = DiskShare([work])
    assert share.exceeded(os.getpid()) == ""
    for number in range(21):
        (work / str(number)).touch()
    assert "files on disk" in share.exceeded(os.getpid())


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second disk to test on")
def test_each_disk_has_a_share_of_its_own(work, monkeypatch):
    def usage(place):
        return SimpleNamespace(free=4_000_000 if str(place).startswith("/dev/shm") else 10**12)

    monkeypatch.setattr(disk_share, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(disk_share.shutil, "disk_usage", usage)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as small:
        share = DiskShare([work, Path(small)])
        (work / "weights").write_bytes(os.urandom(3_000_000))
        assert share.exceeded(os.getpid()) == ""
        Path(small, "compiled").write_bytes(os.urandom(3_000_000))
        assert "0.00 GB and" in share.exceeded(os.getpid())


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc shows what a process holds open"
)
def test_a_removed_file_that_is_held_open_counts(work):
    code = (
        "import os, sys\n"
        "file = open('much', 'wb'); os.unlink('much')\n"
        "file.write(os.urandom(1 << 20)); file.flush()\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"written\n"
        disk = os.stat(work).st_dev
        assert removed_bytes(holder.pid, {disk})[disk] >= 1 << 20
        assert not removed_bytes(holder.pid, {-1})  # another disk's
    finally:
        holder.communicate()
    assert not removed_bytes(holder.pid, {disk})
