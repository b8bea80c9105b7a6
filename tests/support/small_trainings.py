"""A train.py of a few lines, and the real runner on it with a small budget."""

from pathlib import Path

from harness.sandbox.request import TrainingRequest
from harness.sandbox.runner import run_training

OPEN = (
    "from harness.training.session import open_session\n"
    "import torch\n"
    "session = open_session(__file__)\n"
)
HONEST = (
    OPEN
    + """
model = torch.nn.Linear(2, 2)
session.start()
step = 0
while session.progress < 1:
    session.log(step, torch.tensor(1.0), tokens=8)
    step += 1
session.finish(model, depth=1)
"""
)


def train(folder: Path, source: str, listen=lambda event: None, **changes) -> tuple[dict, str]:
    """Run a train.py; return (result, log)."""
    folder.mkdir(exist_ok=True)
    train_py = folder / "train.py"
    train_py.write_text(source)
    (folder / "rows.bin").write_bytes(bytes(2 * 65 * 4))
    request = {
        "folder": str(folder / "run"),
        "train_py": str(train_py),
        "train_dir": str(folder),
        "n_vocab": 257,
        "max_seq_len": 64,
        "seed": 1,
        "budget_seconds": 0.3,
        "startup_limit_seconds": 30,
        "device": "cpu",
        "dtype": "float32",
        "compile": False,
        "threads": 1,
    }
    result = run_training(TrainingRequest(**request | changes), listen)
    return result, (folder / "run" / "run.log").read_text()
