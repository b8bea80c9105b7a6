"""Calls that the kernel refuses to a child: those of the table, nothing that a training needs."""

import struct
import subprocess
import sys

import pytest

from harness.ground import syscalls

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's")

PROGRAM = """
import ctypes, errno, mmap, os, platform, sys, threading
from harness.ground import syscalls
libc = ctypes.CDLL(None, use_errno=True)
machine = syscalls.MACHINES[platform.machine()]
waiting, go, found = threading.Event(), threading.Event(), []

def call(number, *arguments):
    ctypes.set_errno(0)
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    libc.syscall(ctypes.c_long(number), *given)
    return ctypes.get_errno()

def refused(name, *arguments):
    return call(syscalls.REFUSED[name][machine], *arguments)

def late():
    waiting.set()
    go.wait()
    found.append(refused("mincore", 0, 0, 0))

thread = threading.Thread(target=late, daemon=True)
thread.start()
waiting.wait()
area = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
assert call(syscalls.MADVISE[machine], address, 4096, 4) == 0
assert refused("mincore", address, 4096, ctypes.create_string_buffer(1)) == 0
assert syscalls.refuse_calls()
go.set()
thread.join()
assert found == [errno.ENOSYS], found
errors = {name: refused(name, 0, 0, 0, 0, 0) for name in syscalls.REFUSED}
assert set(errors.values()) == {errno.ENOSYS}, errors
for advice in syscalls.PUSHED_OUT:
    assert call(syscalls.MADVISE[machine], address, 4096, advice) == errno.ENOSYS, advice
assert call(syscalls.MADVISE[machine], address, 4096, 4) == 0  # MADV_DONTNEED, which allocators use
if os.fork() == 0:
    os._exit(refused("keyctl", 0, 0, 0) == errno.ENOSYS)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 1
print(len(os.listdir("/")) > 0)
"""


def test_the_calls_of_the_table_are_refused_to_all_threads_and_children():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("machine", [0, 1])
def test_every_jump_of_the_filter_ends_inside_it(machine):
    lines = list(struct.iter_unpack("<HBBI", syscalls.make_filter(machine)))
    for place, (code, yes, no, _) in enumerate(lines):
        assert code == syscalls.RETURN or place + 1 + max(yes, no) < len(lines)
    numbers = {each[machine] for each in syscalls.REFUSED.values()}
    ends = {
        place + 1 + yes
        for place, (code, yes, _, value) in enumerate(lines)
        if code == syscalls.EQUAL and value in numbers
    }
    assert ends == {len(lines) - 1}
