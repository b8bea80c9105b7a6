"""Files in, texts out: plain text, lines of JSON, tables; each may be damaged, none is believed.

In: a path, the field that holds the text, a Counter. Out: texts, streamed, so that memory stays
that of one text however large the file is. `iter_texts` raises nothing for what is in a file: what
is no text is counted in the Counter, by reason. `iter_table` leaves a damaged table to its caller.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PLAIN, LINES, TABLE = (".txt", ".md", ".py"), ".jsonl", ".parquet"
KINDS = (*PLAIN, LINES, TABLE)
GZIP = ".gz"  # after any of the kinds but parquet, which is compressed inside
DOCUMENT_BYTES = 1 << 20  # a longer plain text becomes several documents, cut at line ends
LINE_BYTES = 64 << 20  # a longer line of JSON is skipped
PEEK_BYTES = 4096
BATCH_ROWS = 256  # rows of a table in memory at a time
READ_BYTES = 1 << 20  # buffer of a table's column; without one, pyarrow loads a row group's whole


class DamagedFile(Exception):
    """A file that is not what its name says, or is cut off."""


def kind_of(name: str) -> str | None:
    """The kind of a file by its name, one of KINDS, or None for one that is never read."""
    inner = name.lower().removesuffix(GZIP)
    kind = next((kind for kind in KINDS if inner.endswith(kind)), None)
    return None if kind == TABLE and inner != name.lower() else kind


def iter_texts(path: Path, field: str, skipped: Counter[str]) -> Iterator[str]:
    """Every text of a file, in order. field: the key or column that holds the text."""
    try:
        if kind_of(path.name) == TABLE:
            yield from iter_table(path, field, skipped)
            return
        with gzip.open(path) if path.name.lower().endswith(GZIP) else open(path, "rb") as file:
            if b"\0" in file.peek(PEEK_BYTES)[:PEEK_BYTES]:
                skipped["binary"] += 1
            elif kind_of(path.name) == LINES:
                yield from iter_lines(file, field, skipped)
            else:
                yield from iter_pieces(file, skipped)
    except (DamagedFile, EOFError, zlib.error, gzip.BadGzipFile):
        skipped["damaged"] += 1
    except OSError:
        skipped["unreadable"] += 1


def iter_pieces(file: BinaryIO, skipped: Counter[str]) -> Iterator[str]:
    """A plain text as one text, or, where it is longer than DOCUMENT_BYTES, as several.

    They are cut at line ends. A byte-order mark is left out. A piece that is not UTF-8 is skipped
    by itself.
    """
    rest, found = b"", False
    while raw := rest + file.read(DOCUMENT_BYTES - len(rest)):
        is_last = len(raw) < DOCUMENT_BYTES
        end = len(raw) if is_last else raw.rfind(b"\n") + 1 or _last_character(raw)
        piece, rest = raw[:end], raw[end:]
        try:
            text = piece.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            skipped["badly encoded"] += 1
            found = True
            continue
        if text.strip():
            yield text
            found = True
    if not found:
        skipped["empty"] += 1


def iter_lines(file: BinaryIO, field: str, skipped: Counter[str]) -> Iterator[str]:
    """The text under `field` of each line's JSON object; a line without one is counted."""
    while line := file.readline(LINE_BYTES):
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            while (more := file.readline(LINE_BYTES)) and not more.endswith(b"\n"):
                pass
            skipped["line too long"] += 1
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            skipped["badly encoded"] += 1
        except (ValueError, RecursionError):
            skipped["malformed line"] += 1
        else:
            yield from _usable(
                value.get(field) if isinstance(value, dict) else None, field, skipped
            )


def iter_table(
    path: Path, field: str, skipped: Counter[str], start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """The texts of a parquet file's column `field`, in rows start to stop.

    Row groups outside are not read. OSError when it cannot be opened, DamagedFile when it is no
    whole table.
    """
    import pyarrow  # only those who read tables pay for it
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False) as table:
            if field not in table.schema_arrow.names:
                skipped["no text column"] += 1
                return
            stop = table.metadata.num_rows if stop is None else stop
            groups, row, end = [], 0, 0
            for group in range(table.num_row_groups):
                begin, end = end, end + table.metadata.row_group(group).num_rows
                if end > start and begin < stop:
                    row = row if groups else begin
                    groups.append(group)
            for batch in table.iter_batches(BATCH_ROWS, groups, [field], use_threads=False):
                values = batch.column(0).to_pylist()
                for value in values[max(0, start - row) : max(0, stop - row)]:
                    yield from _usable(value, field, skipped)
                row += len(values)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DamagedFile(f"{path} is no whole parquet file: {error}") from error


def _usable(value: object, field: str, skipped: Counter[str]) -> Iterator[str]:
    """The value if it is a text with something in it; else nothing, and the reason is counted."""
    if not isinstance(value, str):
        skipped[f"no text in {field!r}"] += 1
    elif not value.strip():
        skipped["empty"] += 1
    else:
        yield value


def _last_character(raw: bytes) -> int:
    """Where the last UTF-8 character of `raw` begins: it may be cut off."""
    start = len(raw) - 1
    while start > len(raw) - 4 and raw[start] & 0xC0 == 0x80:
        start -= 1
    return start
