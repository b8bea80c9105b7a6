"""The command that makes machine code for cards that are not here."""

import importlib.util
import subprocess
import sys

import card_rehearsal
import pytest
from checkout import ROOT
from rehearsal.fake_card import why_impossible


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_makes_machine_code_or_says_what_is_missing(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "scripts" / "card_rehearsal.py"), "--profiles", "small"]
    command += ["--cards", "sm_80", "--depth", "2", "--output", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    if why := why_impossible():
        assert done.returncode == 2 and why in done.stderr
    elif importlib.util.find_spec("triton") is None:
        assert done.returncode == 2 and "pip install --no-deps --target" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        (row,) = (line for line in page.read_text().splitlines() if line.startswith("| small"))
        cells = [cell.strip() for cell in row.split("|")]
        assert int(cells[6]) > 50 and cells[7] == "0"


def test_a_row_says_what_was_made_and_the_least_that_its_bytes_take():
    facts = {"graphs": 10, "kernels": 9, "failed": ["x"], "shared_bytes": 2**13}
    facts["moved"] = {"forward": 1e9, "backward": 2e9, "optimizer": 1.8e9}
    constants = card_rehearsal.constants_of("large", 3)
    assert constants["DEPTH"] == 3 and constants["TOTAL_BATCH_SIZE"] == 32 * 2048
    row = card_rehearsal.row_of("large", "sm_90", constants, facts)
    assert row[:4] == ["large", "sm_90 (NVIDIA H200)", "3", "65,536"]
    assert row[4:] == ["10", "9", "1", "8 KiB", "1.00", "2.00", "1.80", "1.00"]
    assert len(row) == len(card_rehearsal.HEAD)
