"""results.tsv: the original's real file, tables from journals, hand edits, what is malformed."""

import csv
import io
import subprocess
import sys

import journals
import pandas as pd
import pytest
from checkout import ROOT

from harness.ground.errors import ResultsError
from harness.run.results import (
    HEADER,
    ResultRow,
    clean_description,
    format_results,
    read_results,
    results_from_journal,
    write_results,
)

UPSTREAM = ROOT / "tests/support/data" / "upstream-mar8-results.tsv"


def decided(experiment: int, **fields) -> list[dict]:
    """The entries of an experiment up to its decision."""
    values = {
        "decision": "discard",
        "status": "ok",
        "kind": "worse",
        "val_bpb": 1.0,
        "memory_gb": 2.0,
        "title": "an idea",
    }
    proposed = {"event": "proposed", "experiment": experiment}
    return [proposed, {"event": "decided", "experiment": experiment, **values, **fields}]


def committed(experiment: int, commit: str | None = "c" * 40) -> dict:
    return {"event": "committed", "experiment": experiment, "commit": commit}


def test_the_originals_file_comes_back_byte_for_byte(tmp_path):
    rows = read_results(UPSTREAM)
    assert format_results(rows).encode() == UPSTREAM.read_bytes()
    write_results(tmp_path / "results.tsv", rows)
    assert (tmp_path / "results.tsv").read_bytes() == UPSTREAM.read_bytes()


def test_the_originals_file_is_read_as_the_csv_module_reads_it():
    expected = list(
        csv.DictReader(UPSTREAM.open(newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    rows = read_results(UPSTREAM)
    assert [row.commit for row in rows] == [line["commit"] for line in expected]
    assert [row.val_bpb for row in rows] == [float(line["val_bpb"]) for line in expected]
    assert [row.description for row in rows] == [line["description"] for line in expected]
    assert [sum(row.status == word for row in rows) for word in ("keep", "discard", "crash")] == [
        23,
        102,
        1,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + "\na\t1.0\t2.0\tkeep\tx",
        HEADER + "\r\na\t1.0\t2\tkeep\tx\r\n",
        HEADER + "\n\na\t1.0\t2.0\tkeep\tx\n\n\n",
    ],
)
def test_marks_line_ends_and_blank_lines_of_other_editors_are_read_over(tmp_path, text):
    (tmp_path / "results.tsv").write_bytes(text.encode())
    assert read_results(tmp_path / "results.tsv") == [ResultRow("a", 1.0, 2.0, "keep", "x")]


def test_a_description_may_hold_what_other_readers_take_for_a_line_end(tmp_path):
    rows = [ResultRow("a", 1.5, 0.0, "discard", 'U+2028 \u2028 and "quotes" ü')]
    write_results(tmp_path / "results.tsv", rows)
    assert read_results(tmp_path / "results.tsv") == rows


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a\t1.0\t2.0\tkeep", "4 columns instead of 5"),
        ("a\t1.0\t2.0\tkeep\tx\ty", "6 columns instead of 5"),
        ("a b c", "1 columns instead of 5"),
        ("\t1.0\t2.0\tkeep\tx", "the commit is empty"),
        ("a\tnan\t2.0\tkeep\tx", "val_bpb must be a number"),
        ("a\tinf\t2.0\tkeep\tx", "val_bpb must be a number"),
        ("a\t-1.0\t2.0\tkeep\tx", "val_bpb must be a number"),
        ("a\t1.0\tmuch\tkeep\tx", "memory_gb must be a number"),
        ("a\t1.0\t2.0\tkept\tx", "status 'kept' is none of keep, discard, crash"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, line, complaint):
    path = tmp_path / "results.tsv"
    path.write_text(f"{HEADER}\nok\t1.0\t2.0\tkeep\tx\n{line}\n")
    with pytest.raises(ResultsError, match="line 3") as error:
        read_results(path)
    assert complaint in str(error.value)


def test_other_files_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ResultsError, match="02_baseline"):
        read_results(tmp_path / "absent.tsv")
    for content in (b"", b"commit,val_bpb\n", b"\x89PNG\xff"):
        (tmp_path / "other.tsv").write_bytes(content)
        with pytest.raises(ResultsError, match="line 1|UTF-8"):
            read_results(tmp_path / "other.tsv")


def test_a_journal_becomes_this_exact_table():
    entries = [
        {"event": "opened"},
        *decided(0, decision="baseline", val_bpb=1.23456789, memory_gb=43.97, title="baseline"),
        committed(0),
        *decided(1, decision="keep", val_bpb=1.2, title="wider\tand\ndeeper"),
        committed(1, "0123456789abcdef"),
        *decided(2, status="oom", val_bpb=None, memory_gb=None, title="huge"),
        committed(2, None),
        *decided(3, status="crash", val_bpb=None, memory_gb=None, title=""),
        committed(3),
        *decided(4, decision="quarantine", val_bpb=0.2, title="too good"),
        committed(4),
        *decided(5, status="cheating", val_bpb=0.1, memory_gb=3.0, title="leak"),
        committed(5),
        *decided(6, status="interrupted", val_bpb=None),
        committed(6),
        *decided(7),
    ]
    assert (
        format_results(results_from_journal(entries))
        == "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
        "ccccccc\t1.234568\t44.0\tkeep\tbaseline\n"
        "0123456\t1.200000\t2.0\tkeep\twider and deeper\n"
        "exp0002\t0.000000\t0.0\tcrash\thuge (oom)\n"
        "ccccccc\t0.000000\t0.0\tcrash\t(no title)\n"
        "ccccccc\t0.200000\t2.0\tdiscard\tquarantined: too good\n"
        "ccccccc\t0.000000\t0.0\tcrash\tleak (cheating)\n"
    )


def test_a_night_has_one_row_per_committed_experiment():
    entries = journals.make_journal(60)
    rows = results_from_journal(entries)
    lines = [entry for entry in entries if entry["event"] == "decided"]
    assert len(rows) == len(lines) == 61
    assert [row.status == "crash" for row in rows] == [line["status"] != "ok" for line in lines]
    assert [row.status == "keep" for row in rows] == [
        line["decision"] in ("baseline", "keep") for line in lines
    ]


def test_the_originals_tools_read_any_title():
    nasty = [
        *('"an open quote', "tab\there", "line\nbreak", "\r\x0b\x0c\x1b[31mred"),
        *("back\\slash", "=1+1", "\u2028sep", "'", " "),
    ]
    rows = [
        ResultRow(f"c{i}", 1.0, 2.0, "discard", clean_description(title))
        for i, title in enumerate(nasty)
    ]
    text = format_results(rows)
    assert len(pd.read_csv(io.StringIO(text), sep="\t")) == len(nasty)
    assert all(line.isprintable() for line in text.replace("\t", " ").split("\n"))


def test_writing_saves_an_edited_table_first(tmp_path):
    path, rows = tmp_path / "results.tsv", read_results(UPSTREAM)
    assert write_results(path, rows[:3]) is None
    assert write_results(path, rows[:5]) is None, "an earlier table is no edit"
    edited = path.read_bytes().replace(b"baseline\n", b"baseline (mine)\n")
    path.write_bytes(edited)
    copy = write_results(path, rows[:6])
    assert copy == tmp_path / "results.tsv.edited" and copy.read_bytes() == edited
    assert path.read_text() == format_results(rows[:6])
    path.write_bytes(edited)
    assert write_results(path, rows[:6]) == copy, "the same edit is saved once"
    path.write_bytes(b"notes")
    second = write_results(path, rows[:6])
    assert second == tmp_path / "results.tsv.edited.1" and second.read_bytes() == b"notes"
    assert copy.read_bytes() == edited, "an earlier copy is never overwritten"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results.tsv",
        "results.tsv.edited",
        "results.tsv.edited.1",
    ]


def test_what_should_be_there_is_no_edit(tmp_path):
    path, rows = tmp_path / "results.tsv", read_results(UPSTREAM)
    write_results(path, rows[:4])
    assert write_results(path, rows[5:6], expected_previous=rows[:4]) is None
    assert write_results(path, rows[:2], expected_previous=rows[5:6]) is None
    assert not path.with_name("results.tsv.edited").exists()


def test_a_row_somebody_cut_in_half_is_an_edit(tmp_path):
    path, rows = tmp_path / "results.tsv", read_results(UPSTREAM)
    path.write_bytes(format_results(rows[:4]).encode()[:-10])
    assert write_results(path, rows[:4]) == path.with_name("results.tsv.edited")


@pytest.mark.parametrize(
    "module",
    ["run.results", "run.records", "show.sentences", "show.status", "show.report", "show.index"],
)
def test_what_the_loop_and_the_driver_import_starts_fast(module):
    heavy = "{'torch', 'pandas', 'matplotlib', 'nbconvert', 'ipywidgets', 'IPython'}"
    code = f"import sys, harness.{module}; print(sorted({heavy} & set(sys.modules)))"
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("title", ["=HYPERLINK(1)", "+1", "-1% learning rate", "@here", "\t=1"])
def test_a_title_that_a_spreadsheet_would_take_for_a_formula_is_text(title):
    baseline = [*decided(0, decision="baseline"), committed(0)]
    entries = [*baseline, *decided(1, title=title, decision="quarantine", verdict=""), committed(1)]
    ruled = {"event": "ruled", "experiment": 1, "accept": True, "becomes_incumbent": True}
    assert results_from_journal([*entries, ruled])[1].description == f"'{title.strip()}"
    assert results_from_journal(entries)[1].description.endswith(f"'{title.strip()}")
