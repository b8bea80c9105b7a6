"""Children of tests that start warm: forks of a process that has imported torch once.

Each training and each model server would else spend two CPU seconds on that. `WarmPopen` takes the
place of subprocess.Popen: a training or a server that no wall encloses is forked from that process;
every other command is started as ever, those behind bubblewrap too. A warm child is a child of ours
like any other. It has our process id for a parent, a session, an environment, descriptors and a
working folder of its own, and an exit status; it imports the harness afresh. What differs is that
/proc shows the command and the environment of the process that it was forked from.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

PR_SET_CHILD_SUBREAPER = 36
MOST_DESCRIPTORS = 512  # every number that a child is given lies below
MOST_BYTES = 2**20  # of a request
MODULES = ("harness.training.launch", "harness.scoring.server")  # what imports torch


# --- where the tests run ----------------------------------------------------------------------


class WarmPopen(subprocess.Popen):
    """subprocess.Popen, with warm trainings and model servers."""

    def _execute_child(self, args, *rest):
        if not is_warm(args):
            return super()._execute_child(args, *rest)
        pass_fds, cwd, environment = rest[3:6]
        pipes = rest[9:15]  # both ends of stdin, stdout and stderr, -1 for none
        ends = (pipes[0], pipes[3], pipes[5])  # the child's
        standard = [end if end != -1 else number for number, end in enumerate(ends)]
        request = {
            "arguments": args[3:],
            "cwd": os.fspath(cwd),
            "environment": dict(environment),
            "descriptors": [0, 1, 2, *pass_fds],
        }
        self.pid = forks().start(request, [*standard, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)


def is_warm(command) -> bool:
    """Whether a command is a training or a server as `child_command` writes it, with no wall."""
    from harness.sandbox.child import START

    begins = [sys.executable, "-P", "-c", START]
    return isinstance(command, list) and command[:4] == begins and command[5] in MODULES


def warm_kernels(folder) -> dict[str, str]:
    """The variable by which Jupyter kernels start their trainings and servers warm.

    folder: a new one, for IPython's own files.
    """
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "children_start_warm.py").write_text(f"""\
import subprocess, sys
sys.path.append({os.path.dirname(__file__)!r})
from warm import WarmPopen
subprocess.Popen = WarmPopen
""")
    return {"IPYTHONDIR": str(folder)}


class Forks:
    """The process that has imported torch. It ends with ours."""

    def __init__(self) -> None:
        from harness.sandbox.child import child_environment

        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            command = [sys.executable, "-P", "-u", __file__, str(theirs.fileno())]
            given = {"env": child_environment(), "cwd": "/", "pass_fds": (theirs.fileno(),)}
            subprocess.Popen(command, start_new_session=True, **given)

    def start(self, request: dict, descriptors: list[int]) -> int:
        """Make a new child of ours; return its process id.

        descriptors: ours, which it has under the numbers that the request names.
        """
        with self._lock, adopting():
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            answer = self._channel.recv(MOST_BYTES)
        assert answer, "the process that has imported torch has ended"
        return int(answer)


_forks: dict[int, Forks] = {}  # of this process: a fork of ours makes its own


def forks() -> Forks:
    if os.getpid() not in _forks:
        _forks[os.getpid()] = Forks()
    return _forks[os.getpid()]


@contextlib.contextmanager
def adopting():
    """What is orphaned below us meanwhile becomes our own child (see prctl(2))."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# --- the process that is forked ---------------------------------------------------------------


def wait_for_request(channel: socket.socket) -> tuple[dict, list[int]]:
    """Return in each child, with its request and its descriptors.

    Never in the process itself, which ends with its channel.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MOST_BYTES, MOST_DESCRIPTORS)
        if not message:
            os._exit(0)
        readable, writable = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            child = os.fork()
            if child == 0:
                while os.getppid() == between:  # until it has ended, and we are adopted
                    time.sleep(0.0005)
                return json.loads(message), descriptors
            os.write(writable, str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)
        channel.send(os.read(readable, 100))
        for descriptor in (readable, writable, *descriptors):
            os.close(descriptor)


def take_place(request: dict, descriptors: list[int]) -> None:
    """Have what a process that was started by this request would have."""
    os.setsid()
    high = [
        fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, MOST_DESCRIPTORS)
        for descriptor in descriptors
    ]
    os.closerange(3, MOST_DESCRIPTORS)
    for descriptor, number in zip(high, request["descriptors"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *request["arguments"][1:]]


def main() -> None:
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401

    request, descriptors = wait_for_request(socket.socket(fileno=int(sys.argv[1])))
    take_place(request, descriptors)
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 1
    try:
        exec(request["arguments"][0], program.__dict__)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(status)  # to take torch down in good order takes half a second


if __name__ == "__main__":
    main()
