"""What gpu_check measures at, on a card and in a dry run.

Plain data that its child processes read from one JSON file.

Standard library only. The two runs differ in these numbers and in nothing else: they take the same
code paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "train_template.py"
TOKENIZER = Path(__file__).with_name("tokenizer.json")

# The original's baseline, in the words of our template: 8 layers of width 512, short windows of
# half the context, and nothing that the template has beyond it. A test holds it to the original's
# 50.3M parameters and 239 MFLOP per token.
ORIGINAL = {
    "DEPTH": 8,
    "N_HEAD": 4,
    "HEAD_DIM": 128,
    "KV_GROUP": 1,
    "MLP_RATIO": 4,
    "WINDOW_PATTERN": "SSSL",
    "SHORT_WINDOW": 0.5,
    "VALUE_EMBED_EVERY": 2,
    "SHIFT_TAPS": 0,
    "NGRAM_TABLES": 0,
    "LOGIT_SOFTCAP": 15.0,
    "TOTAL_BATCH_SIZE": 2**19,
    "DEVICE_BATCH_SIZE": 128,
}
DRY = {"DEPTH": 2, "N_HEAD": 2, "HEAD_DIM": 32, "TOTAL_BATCH_SIZE": 2**10, "DEVICE_BATCH_SIZE": 4}


@dataclass(frozen=True)
class Settings:
    """What is measured, in tokens or rows and seconds.

    shapes: name -> constants of the template. patience multiplies time limits of tasks.
    """

    work: str
    device: str
    compile: bool
    max_seq_len: int
    shapes: Mapping[str, dict]
    eval_tokens: Mapping[str, int]
    corpus_bytes: int
    matmul_size: int
    copy_mb: int
    attention_shape: tuple[int, int, int]  # rows, heads, channels per head, for the timings
    short_windows: tuple[int, ...]  # for the timings
    timing_seconds: float  # of one kernel
    train_seconds: float  # of one row of the training table, after compilation
    long_seconds: float  # of the first such row
    startup_seconds: float  # training budget of the start-up runs
    loop_options: tuple[str, ...]  # of the whole loop: what it trains
    loop_seconds: float  # for the whole loop
    patience: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def train_dir(self) -> Path:
        return self.folder / "data" / "train"

    def child_environment(self, cache: str = "compile_cache") -> dict[str, str]:
        """Variables for a child.

        This checkout is importable, and compiled code is kept in a folder of our own below `work`.
        """
        path = os.pathsep.join(
            [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        caches = {
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / cache),
            "TRITON_CACHE_DIR": str(self.folder / cache / "triton"),
        }
        return (
            os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | caches | self.environment
        )

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def load_settings(path: Path) -> Settings:
    """What `save` wrote."""
    return Settings(**json.loads(path.read_text(encoding="utf-8")))


def card_settings(work: str, compile: bool) -> Settings:
    """For a CUDA card: the original's shape, and what our profile for large cards trains."""
    from harness.run.profiles import PROFILES

    return Settings(
        work,
        "cuda",
        compile,
        max_seq_len=2048,
        shapes={"original": ORIGINAL, "default": PROFILES["large"].constants},
        eval_tokens={"5M": 5 * 2**20, "21M": 20 * 2**20},
        corpus_bytes=12_000_000,
        matmul_size=8192,
        copy_mb=2048,
        attention_shape=(32, 4, 128),
        short_windows=(256, 1024),
        timing_seconds=0.2,
        train_seconds=8.0,
        long_seconds=20.0,
        startup_seconds=5.0,
        loop_options=(
            *("--profile", "auto", "--device", "cuda"),
            *("--set", "source=python-stdlib", "--set", "budget_seconds=20"),
            *("--set", "baseline_seeds=2", "--set", "eval_tokens=65536"),
        ),
        loop_seconds=230.0,
    )


def dry_settings(work: str, compile: bool) -> Settings:
    """For two CPU cores: everything tiny."""
    return Settings(
        work,
        "cpu",
        compile,
        max_seq_len=128,
        shapes={"original": ORIGINAL | DRY | {"WINDOW_PATTERN": "SL"}, "default": DRY},
        eval_tokens={"5M": 2**12, "21M": 2**13},
        corpus_bytes=400_000,
        matmul_size=256,
        copy_mb=4,
        attention_shape=(2, 2, 64),
        short_windows=(16, 64),
        timing_seconds=0.01,
        train_seconds=0.5,
        long_seconds=1.0,
        startup_seconds=1.0,
        loop_options=("--profile", "tiny", "--device", "cpu", "--set", "budget_seconds=1"),
        loop_seconds=240.0,
        patience=10.0,
        environment={"TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE": "1", "OMP_NUM_THREADS": "1"},
    )


def template_text(constants: Mapping[str, object]) -> str:
    """The template with those of `constants` that it has rewritten; others are left out."""
    from harness.search.constants import constant_values, rewrite_constants

    text = TEMPLATE.read_text(encoding="utf-8")
    known = constant_values(text)
    return rewrite_constants(
        text, {name: value for name, value in constants.items() if name in known}, clamp=False
    )
