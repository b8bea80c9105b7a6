"""Nights that are killed, and the clock that makes a training the same on every machine."""

import json

import pytest
from test_runner import OPEN, train

from harness.lab.profiles import PROFILES, ProfileError, override, parse_overrides

COUNTED = """
import time
torch.manual_seed(session.seed)
model = torch.nn.Linear(4, 4)
session.start()
step = 0
while session.progress < 1:
    time.sleep(WAIT)
    model.weight.data += (1 - session.progress) * torch.randn(4, 4)
    session.log(step, torch.tensor(1.0), tokens=8)
    step += 1
session.finish(model, depth=1)
"""


def test_under_the_step_clock_a_training_is_the_same_however_slow_the_machine_is(tmp_path):
    trained = []
    for wait in (0, 0.02):
        folder = tmp_path / f"{wait}"
        source = OPEN + COUNTED.replace("WAIT", str(wait))
        result, log = train(folder, source, budget_seconds=8.0, clock_step_seconds=0.5)
        assert result["status"] == "ok" and result["num_steps"] == 16, log
        events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
        progress = [event["progress"] for event in events if event["event"] == "step"]
        trained.append((progress, (folder / "run" / "weights.safetensors").read_bytes()))
    assert trained[0] == trained[1] and trained[0][0][-1] == 1.0


def test_a_file_that_never_logs_a_step_is_ended_by_the_real_clock(tmp_path):
    endless = OPEN + "import time\nsession.start()\nwhile session.progress < 1:\n    time.sleep(0.01)"
    result, _ = train(tmp_path, endless, clock_step_seconds=0.1)
    assert result["status"] == "timeout"


def test_the_step_clock_is_a_size_of_the_profile_and_the_real_clock_unless_asked_for():
    tiny = PROFILES["tiny"]
    changed = override(tiny, parse_overrides("clock_step_seconds=0.5"))
    assert tiny.clock_step_seconds == 0.0 and changed.clock_step_seconds == 0.5
    assert (
        override(PROFILES["demo"], {"clock_step_seconds": 0.5}).prior is None
    )  # its noise was measured on the real clock
    with pytest.raises(ProfileError, match="positive"):
        override(tiny, {"clock_step_seconds": 0.0})
