"""System calls that no training and no model server needs, refused to it by the kernel.

For Linux on x86-64 and arm64. Standard library only. Two processes that may not talk can still pass
messages through what the kernel remembers: which pages of a readable file are in memory, keys,
other processes' memory. These calls read or set such things at once. Without them it takes timing,
which is slow and noisy; what still gets through is for the audit's statistics to find (see
scoring/unseen.py).
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

# Name: its number on x86-64 and on arm64.
REFUSED = {
    "cachestat": (451, 451),
    "mincore": (27, 232),
    # With RWF_NOWAIT it tells what is in memory; the C library goes on without.
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "process_madvise": (440, 440),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
MADVISE = (28, 233)
# MADV_COLD, MADV_PAGEOUT: they choose which pages of a file stay in memory.
PUSHED_OUT = (20, 21)
MACHINES = {"x86_64": 0, "aarch64": 1}
ARCHITECTURES = (0xC000003E, 0xC00000B7)  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
SECCOMP = (317, 277)  # the number of seccomp itself
SET_FILTER, ALL_THREADS = 1, 1
PR_SET_NO_NEW_PRIVS = 38
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of the kernel's packet filter
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 38  # ENOSYS: as on a kernel that has no such call
OTHER_TABLE = 0x40000000  # x32: the same calls by other numbers
NUMBER, ARCHITECTURE, THIRD_ARGUMENT = 0, 4, 32  # offsets in what the kernel shows a filter


def make_filter(machine: int) -> bytes:
    """The filter as the kernel takes it: struct sock_filter, one after the other.

    machine: 0 for x86-64, 1 for arm64. A jump counts the lines that it passes over.
    """
    refused = [
        (EQUAL, number) for number in sorted(numbers[machine] for numbers in REFUSED.values())
    ]
    if machine == MACHINES["x86_64"]:
        refused.append((AT_LEAST, OTHER_TABLE))
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, NUMBER),
    ]
    # After these checks: the one for madvise, the load of its advice, a check for each, and ALLOW.
    last = len(lines) + len(refused) + 2 + len(PUSHED_OUT) + 1
    for code, value in refused:
        lines.append((code, last - len(lines) - 1, 0, value))
    lines.append((EQUAL, 0, 1 + len(PUSHED_OUT), MADVISE[machine]))
    lines.append((LOAD, 0, 0, THIRD_ARGUMENT))
    for advice in PUSHED_OUT:
        lines.append((EQUAL, last - len(lines) - 1, 0, advice))
    lines += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def refuse_calls() -> bool:
    """Refuse the calls to this process and all it starts, where it can; return whether."""
    machine = MACHINES.get(platform.machine())
    if machine is None or not sys.platform.startswith("linux") or sys.byteorder != "little":
        return False
    lines = make_filter(machine)
    buffer = ctypes.create_string_buffer(lines, len(lines))
    program = struct.pack("<HxxxxxxQ", len(lines) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return libc.syscall(SECCOMP[machine], SET_FILTER, ALL_THREADS, pointer) == 0
