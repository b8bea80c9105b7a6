"""How fast preparing is, what memory and disk it takes, and what text it keeps.

    python scripts/bench_prepare.py                        under two minutes, 0.3 GB of text
    python scripts/bench_prepare.py --gigabytes 3 --write  needs 7 GB of disk

In: text made of the standard library's sources. Out: Markdown on standard output; --write puts it
into results/benchmarks/prepare.md. Run it with the project's environment on a machine that does
nothing else. "The original's method" is what karpathy/autoresearch's description says its loader
does, written anew here: one process, tiktoken's encode_ordinary_batch with 8 threads on 128
documents at a time, and a buffer of 1,000 documents from which each row takes the largest that
fits, or crops the shortest where none does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from synthetic.texts import SyntheticSource

from harness.data.prepare import DataSpec, prepare
from harness.data.rows import PartTask, RowsFile, iter_tokenizer_text, make_train_part
from harness.data.shards import make_group_tasks, read_shard, write_group
from harness.data.tokenizer import PLAIN_RUNS, Tokenizer, train_tokenizer
from harness.data.workers import map_in_processes
from harness.ground.cgroup import cpu_count

VOCAB_SIZE, MAX_SEQ_LEN = 8192, 2048  # the original's
SHARD_BYTES = 4 << 20
KINDS = {
    "short, about 200 bytes": (200, 0.3),
    "ordinary, about 4 KB": (4000, 1.0),
    "long, about 1 MB": (1_000_000, 0.3),
}


def table(header: str, rows: Iterable[tuple[object, ...]]) -> str:
    lines = [f"| {header} |", "|---" * (header.count("|") + 1) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


# --- Whole prepares: speed, memory, disk ----------------------------------------------------------


def watch_prepare(size: int, workers: int) -> dict[str, float]:
    """Prepare `size` bytes in a process of its own; return MB/s, the most memory and disk seen."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", str(size), str(workers), folder]
        process = psutil.Popen(command, stdout=subprocess.PIPE)
        memory = disk = 0
        for tick in itertools.count():
            memory = max(memory, sum(map(resident_bytes, [process, *children(process)])))
            if tick % 20 == 0:
                disk = max(disk, disk_bytes(Path(folder)))
            if process.poll() is not None:
                break
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"the prepare of {size:,} bytes ended with {process.returncode}")
        done = json.loads(process.stdout.read().splitlines()[-1])
        return {**done, "memory_mb": memory / 1e6, "disk_share": disk / size}


def prepare_child(size: int, workers: int, folder: str) -> None:
    """What the watched process does: its result is one line of JSON."""
    lines = []
    manifest = prepare(
        DataSpec(SyntheticSource(size), VOCAB_SIZE, MAX_SEQ_LEN, 2**18, folder),
        workers,
        lines.append,
    ).manifest
    stages = {
        line.split()[0]: float(line.rsplit("(", 1)[1].split()[0])
        for line in lines
        if line.endswith(" s)")
    }
    print(
        json.dumps(
            {
                "mb_per_s": manifest["prepare"]["mb_per_s"],
                "bytes": manifest["bytes"]["read"],
                **stages,
            }
        )
    )


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory; pages that processes share are counted for each."""
    try:
        return process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def disk_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def whole_table(gigabytes: float) -> str:
    large, small = int(gigabytes * 1e9), int(max(0.1, gigabytes / 10) * 1e9)
    rows = []
    for size, workers in ((small, 1), (small, 2), (large, 2)):
        done = watch_prepare(size, workers)
        speeds = [done["bytes"] / 1e6 / done[stage] for stage in ("read", "rows")]
        cells = [f"{speed:.1f}" for speed in (done["mb_per_s"], *speeds)]
        cells += [
            f"{done['tokenizer']:.1f}",
            f"{done['memory_mb']:,.0f}",
            f"{done['disk_share']:.2f}",
        ]
        rows.append((f"{size / 1e6:,.0f} MB", workers, *cells))
    return table(
        "text | worker processes | MB/s, all | MB/s, reading | MB/s, rows | tokenizer, s | peak"
        " memory of all processes, MB | peak disk, bytes per byte of text",
        rows,
    )


# --- The original's method ------------------------------------------------------------------------


def iter_original_rows(
    texts: Iterable[str], tokenizer: Tokenizer, encode: Callable, max_seq_len: int
) -> Iterator[list[int]]:
    """Rows as the original's method makes them, until the text is used up."""
    texts, buffer = iter(texts), []
    while True:
        row: list[int] = []
        while (room := max_seq_len + 1 - len(row)) > 0:
            while len(buffer) < 1000 and (batch := list(itertools.islice(texts, 128))):
                buffer += [[tokenizer.bos_id, *ids] for ids in encode(batch, num_threads=8)]
            if not buffer:
                return
            lengths = [len(ids) for ids in buffer]
            fitting = max((length for length in lengths if length <= room), default=0)
            ids = buffer.pop(lengths.index(fitting or min(lengths)))
            row += ids[:room]
        yield row


def plain_batch_encode(tokenizer: Tokenizer) -> Callable:
    """encode_ordinary_batch with the split pattern as one plain list of alternatives.

    The original writes it so; the ids are the same.
    """
    import tiktoken

    pattern = tokenizer.pattern.replace(f"(?:{PLAIN_RUNS})", PLAIN_RUNS)
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return tiktoken.Encoding(
        "plain", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    ).encode_ordinary_batch


class Corpus:
    """Synthetic text in shards, its tokenizer, and both ways to make rows of it."""

    def __init__(self, source: SyntheticSource, folder: Path) -> None:
        self.folder, self.shards = folder, folder / "shards"
        self.n_shards = max(1, source.size // SHARD_BYTES)
        for task in make_group_tasks(source, self.shards, self.n_shards):
            write_group(task)
        self.tokenizer = train_tokenizer(
            iter_tokenizer_text(self.shards, self.n_shards, 20_000_000), VOCAB_SIZE
        )
        self.tokenizer.save(folder / "tokenizer.json")
        folders = [self.shards / "any"]
        documents = (
            d for index in range(self.n_shards) for d in read_shard(folders, index).documents
        )
        self.texts = [document.text.decode() for document in documents]
        self.bytes = sum(map(len, self.texts))  # they are ASCII

    def make_rows(self, workers: int) -> np.ndarray:
        """Our rows, by way of the disk: processes read, tokenise and pack; this one writes."""
        path, state = self.folder / "rows.bin", self.folder / "rows.json"
        state.unlink(missing_ok=True)
        nobody = bytes(32)  # no document has this key: all text is for training
        tasks = [
            PartTask(index, self.shards, self.folder / "tokenizer.json", nobody, MAX_SEQ_LEN)
            for index in range(self.n_shards)
        ]
        with RowsFile(path, state) as file:
            for part in map_in_processes(make_train_part, tasks, workers, ahead=2 * workers):
                file.append(part)
            file.checkpoint()
        return np.fromfile(path, np.uint16)

    def make_original_rows(self) -> np.ndarray:
        """The original's, from texts in memory to rows in memory."""
        rows = iter_original_rows(
            self.texts, self.tokenizer, plain_batch_encode(self.tokenizer), MAX_SEQ_LEN
        )
        return np.concatenate([np.array(row, np.uint16) for row in rows])

    def share_kept(self, rows: np.ndarray) -> float:
        """Bytes of text that stand in the rows, per byte of text."""
        return int(self.tokenizer.token_bytes()[rows].sum()) / self.bytes


class Timing(NamedTuple):
    """Seconds that passed, seconds of CPU in this process and its children, and what came out."""

    passed: float
    cpu: float
    rows: np.ndarray


def timed(function: Callable[[], np.ndarray]) -> Timing:
    passed, cpu = time.perf_counter(), cpu_seconds()
    rows = function()
    return Timing(time.perf_counter() - passed, cpu_seconds() - cpu, rows)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ratio_table(size: int, repeats: int = 3) -> str:
    """Ours against the original's method on the same text, one after the other and again."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Corpus(SyntheticSource(size), Path(name))
        ways = {
            "ours, 2 processes": lambda: corpus.make_rows(2),
            "ours, 1 process": lambda: corpus.make_rows(1),
            "the original's method": corpus.make_original_rows,
        }
        times: dict[str, list[Timing]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                times[way].append(timed(run))
        original = statistics.median(run.passed for run in times["the original's method"])
        rows = []
        for way, runs in times.items():
            passed, cpu = (
                statistics.median(values)
                for values in ([r.passed for r in runs], [r.cpu for r in runs])
            )
            spread = (
                f"{min(run.passed for run in runs):.1f} to {max(run.passed for run in runs):.1f}"
            )
            tokens = int((runs[0].rows != corpus.tokenizer.bos_id).sum())
            speeds = (
                f"{corpus.bytes / 1e6 / passed:.1f}",
                f"{tokens / passed:,.0f}",
                f"{original / passed:.2f}",
            )
            rows.append((way, f"{passed:.1f} ({spread})", f"{cpu:.1f}", *speeds))
    return table(
        f"{size / 1e6:,.0f} MB of text, vocabulary {VOCAB_SIZE},"
        f" T = {MAX_SEQ_LEN} | seconds, median of {repeats} | CPU seconds |"
        " MB of text/s | tokens in rows/s | speed, the original's method = 1",
        rows,
    )


def kept_table(size: int = 8_000_000) -> str:
    rows = []
    for kind, (mean, spread) in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            corpus = Corpus(SyntheticSource(size, mean, spread), Path(name))
            shares = [
                corpus.share_kept(rows)
                for rows in (corpus.make_rows(1), corpus.make_original_rows())
            ]
            rows.append((kind, f"{len(corpus.texts):,}", *(f"{share:.2%}" for share in shares)))
    return table("documents | how many | kept by ours | kept by the original's method", rows)


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gigabytes", type=float, default=0.3, help="text of the largest prepare (%(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="write results/benchmarks/prepare.md")
    parser.add_argument(
        "--child", nargs=3, metavar=("BYTES", "WORKERS", "FOLDER"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.child:
        size, workers, folder = options.child
        return prepare_child(int(size), int(workers), folder)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tiktoken", "rustbpe", "numpy")
    )
    machine = (
        f"{cpu_count()} CPU cores ({platform.machine()}),"
        f" Python {platform.python_version()}, {versions}"
    )
    text = f"""\
# Preparing text

Made by `python scripts/bench_prepare.py --gigabytes {options.gigabytes:g} --write` on {machine}.
The text is made of the standard library's sources, documents of about 4 KB where nothing else is
said.

## Whole prepares

{whole_table(options.gigabytes)}

Memory is resident memory of all processes together, looked at every 20 ms; pages that they share
count for each of them.

## Text to rows, against the original's method

{ratio_table(48_000_000)}

Ours reads its text from disk and writes its rows there, process start included; the original's
method has its text in memory.

## Text kept

Bytes of text that stand in the rows, per byte of text.

{kept_table()}
"""
    print(text)
    if options.write:
        (ROOT / "results" / "benchmarks" / "prepare.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
