"""Which processes are alive, looked at while others come and go."""

import os

import psutil


def alive_with(words: str, mine: bool = False) -> list[psutil.Process]:
    """Living processes with these words in their command; mine: this process's own alone.

    One that ends or is a zombie meanwhile is not among them.
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command, status = process.info["cmdline"] or [], process.info["status"]
        if words in " ".join(command) and status != psutil.STATUS_ZOMBIE:
            found.append(process)
    below = {each.pid for each in psutil.Process(os.getpid()).children(recursive=True)}
    return [each for each in found if not mine or each.pid in below]
