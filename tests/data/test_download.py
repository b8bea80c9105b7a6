"""Downloads by the real hub client from a real server: whole, resumed, verified, failing.

Every failure names its next action.
"""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from checkout import ROOT
from fake_hub import clean_environment, serve

from harness.data.download import asked_to_wait

REVISION = "0123456789abcdef0123456789abcdef01234567"
# The client hands over so many bytes at a time: what is resumed comes in multiples of it.
CHUNK = 10 << 20
BIG = random.Random(1).randbytes(2 * CHUNK + 12345)

# The client reads HF_ENDPOINT when it is imported, so this is a process of its own. It downloads
# one list of names after the other and prints what came of each.
SCRIPT = """
import json, sys
from pathlib import Path
from harness.data import download
from harness.ground.errors import DataError

folder, rounds, waits, revision = sys.argv[1:]
download.WAIT_SECONDS = json.loads(waits)
download.SAY_SECONDS = 0.05
for names in json.loads(rounds):
    try:
        files = download.HubFiles("someone/texts", revision, Path(folder))
        plan = files.plan(names, 2)
        print("plan", json.dumps([file[1:] for file in plan]), flush=True)
        files.download(plan, 2, lambda line: print("says", line, flush=True))
        print("done")
    except DataError as error:
        print("error", error)
"""


def start(hub_url, folder, *rounds, waits=(), **environment):
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(folder),
        json.dumps(rounds),
        json.dumps(waits),
        REVISION,
    ]
    environment = clean_environment(hub_url, folder.parent, PYTHONPATH=str(ROOT), **environment)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def download(hub_url, folder, *rounds, **environment):
    out, err = start(hub_url, folder, *rounds, **environment).communicate(timeout=100)
    assert "Traceback" not in err, err
    return out


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_files_arrive_whole_with_their_sums_and_no_second_time(tmp_path):
    with serve({"a.parquet": b"first" * 1000, "sub/b.parquet": b"second" * 1000}) as hub:
        out = download(
            hub.url, tmp_path / "data", ["a.parquet", "sub/b.parquet"], HF_TOKEN="hf_secret"
        )
        assert out.endswith("done\n")
        assert (tmp_path / "data" / "a.parquet").read_bytes() == b"first" * 1000
        assert (tmp_path / "data" / "sub" / "b.parquet").read_bytes() == b"second" * 1000
        check = subprocess.run(
            ["sha256sum", "-c", "a.parquet.sha256"], cwd=tmp_path / "data", capture_output=True
        )
        assert check.returncode == 0
        assert hub.tokens == {"Bearer hf_secret"}
        # The storage is another host: no token for it.
        assert [token for *_, token in hub.requests] == [None, None]
    again = download("http://127.0.0.1:9", tmp_path / "data", ["a.parquet", "sub/b.parquet"])
    assert again == "plan []\ndone\n"  # verified without the network


def test_a_cut_connection_is_gone_on_with(tmp_path):
    with serve({"big": BIG}) as hub:
        hub.faults["big"] = [("cut", CHUNK + 1000)]
        assert download(hub.url, tmp_path / "data", ["big"]).endswith("done\n")
        assert hub.gets("big") == [None, f"bytes={CHUNK}-"]
        assert hub.served["big"] == len(BIG) + 1000
    assert (tmp_path / "data" / "big").read_bytes() == BIG


def test_a_killed_download_is_gone_on_with(tmp_path):
    with serve({"big": BIG}) as hub:
        hub.faults["big"] = [("stall", CHUNK + 1000)]
        process = start(hub.url, tmp_path / "data", ["big"])
        assert hub.stalled.wait(60)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size >= CHUNK for path in (tmp_path / "data").glob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        said = next(line for line in process.stdout if "of 21 MB" in line)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert "MB/s" in said
        assert len(names_in(tmp_path / "data")) == 1  # nothing has its own name yet
        out = download(hub.url, tmp_path / "data", ["big"])
        assert f"[[{len(BIG)}, " in out and f", {CHUNK}]]" in out  # the plan knows what is there
        assert hub.gets("big") == [None, f"bytes={CHUNK}-"]
    assert (tmp_path / "data" / "big").read_bytes() == BIG
    assert names_in(tmp_path / "data") == ["big", "big.sha256"]


def test_a_wrong_sum_is_said_and_loaded_once_more(tmp_path):
    with serve({"a": b"text" * 1000}) as hub:
        hub.faults["a"] = [("spoil",)]
        out = download(hub.url, tmp_path / "data", ["a"])
        assert (
            "says a of someone/texts arrived with SHA-256" in out and "downloading it again" in out
        )
        assert out.endswith("done\n")
        assert hub.gets("a") == [None, None]
    assert (tmp_path / "data" / "a").read_bytes() == b"text" * 1000


def test_a_sum_that_stays_wrong_is_an_error_and_the_file_is_not_used(tmp_path):
    with serve({"a": b"text" * 1000}) as hub:
        hub.faults["a"] = [("spoil",), ("spoil",)]
        out = download(hub.url, tmp_path / "data", ["a"], ["a"])
    assert "error a of someone/texts arrived with SHA-256" in out and "twice, and is deleted" in out
    again = [line for line in out.splitlines() if line.startswith("plan")][1]
    assert again.startswith("plan [[4000, ") and again.endswith(", 0]]")  # from its beginning
    assert out.endswith("done\n") and (tmp_path / "data" / "a").read_bytes() == b"text" * 1000


def test_a_file_that_changed_on_disk_is_loaded_again(tmp_path):
    with serve({"a": b"text" * 1000}) as hub:
        download(hub.url, tmp_path / "data", ["a"])
        (tmp_path / "data" / "a").write_bytes(b"Text" * 1000)
        assert download(hub.url, tmp_path / "data", ["a"]).endswith("done\n")
    assert (tmp_path / "data" / "a").read_bytes() == b"text" * 1000


def test_a_refusal_says_what_to_do(tmp_path):
    faults = {"gated": [403], "closed": [401], "down": [503]}
    with serve(dict.fromkeys(faults, b"text") | {"a": b"text"}) as hub:
        hub.faults.update(faults)
        rounds = [["gated"], ["closed"], ["a", "missing"], ["down"]]
        gated, closed, missing, down = download(hub.url, tmp_path / "data", *rounds).splitlines()
    for words in (
        "not open to you (403)",
        "huggingface.co/datasets/someone/texts",
        "export HF_TOKEN",
    ):
        assert words in gated
    assert "not open to you (401)" in closed and "HF_TOKEN" in closed
    assert (
        missing.startswith("error missing of someone/texts at http://127")
        and "not there (404)" in missing
    )
    assert (
        "503" in down
        and "run the same again" in down
        and "python-stdlib" in down
        and "4 passes" in down
    )


def test_no_server_and_no_leave_to_ask(tmp_path):
    out = download("http://127.0.0.1:9", tmp_path / "data", ["a"])
    assert (
        out.startswith("error cannot download a of someone/texts at http://127.0.0.1:9")
        and "python-stdlib" in out
    )
    out = download("http://127.0.0.1:9", tmp_path / "data", ["a"], HF_HUB_OFFLINE="1")
    assert "unset" in out and "HF_HUB_OFFLINE" in out


def test_a_hiccup_is_waited_out(tmp_path):
    with serve({"a": b"text"}) as hub:
        hub.faults["a"] = [503]
        process = start(hub.url, tmp_path / "data", ["a"], waits=(0.1,) * 100)
        time.sleep(0.5)
        hub.faults["a"] = []
        assert process.communicate(timeout=60)[0].endswith("done\n")


@pytest.mark.parametrize(
    "said, seconds",
    [
        ({"retry-after": "300"}, 300.0),
        ({"retry-after": "99999"}, 600.0),
        ({}, 0.0),
        ({"retry-after": "soon"}, 0.0),
    ],
)
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(said, seconds):
    assert asked_to_wait(said) == seconds
