"""Tables as people have them: read by their columns' names, drawn under their score's name."""

import math

import pytest

from harness.ground.errors import AnalysisError, ResultsError
from harness.show import analysis, analysis_words
from harness.show.charts import plots
from harness.show.foreign_tables import read_foreign_table
from harness.show.frame import load_results_tsv

HEAD = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
# Name -> (text of the table, (its score, scores, outcomes as the frame has them)).
TABLES = {
    "blank commit": (
        HEAD + "a1\t1.2\t4.0\tkeep\tbaseline\n\t1.1\t4.0\tkeep\trate up\n",
        ("val_bpb", [1.2, 1.1], "baseline kept"),
    ),
    "comment": (
        HEAD + "a1\t1.2\t4\tkeep\tb\n# second evening\nb2\t1.1\t4\tkeep\tr\n",
        ("val_bpb", [1.2, 1.1], "baseline kept"),
    ),
    "crash: dash": (
        HEAD + "a1\t1.2\t4.0\tkeep\tb\nb2\t-\t-\tcrash\toom\n",
        ("val_bpb", [1.2, None], "baseline crashed"),
    ),
    "crash: nan": (
        HEAD + "a1\t1.2\t4.0\tkeep\tb\nb2\tnan\t0.0\tcrash\tnan\n",
        ("val_bpb", [1.2, None], "baseline crashed"),
    ),
    "no description": (HEAD + "a1\t1.2\t4.0\tkeep\n", ("val_bpb", [1.2], "baseline")),
    "another metric": (
        "commit\tval_rmse\tstatus\tdescription\na1\t0.2\tkeep\tb\n",
        ("val_rmse", [0.2], "baseline"),
    ),
    "other names": (
        "exp\tdescription\tval_bpb\tpeak_mem_gb\tsteps\tstatus\n0\tbaseline\t1.2\t4.0\t300\tbaseline\n"
        "1\tdeeper\t1.1\t4.0\t290\tkeep\n2\twider\t0\t0\t0\tskip\n",
        ("val_bpb", [1.2, 1.1, None], "baseline kept crashed"),
    ),
    "superset": (
        "commit\tval_bpb\tmfu\tmemory_gb\tstatus\tdescription\na1\t1.2\t30\t4.0\tkeep\tb\n",
        ("val_bpb", [1.2], "baseline"),
    ),
    "tab in a description": (
        HEAD + "a1\t1.2\t4.0\tkeep\tbaseline\tas it was\n",
        ("val_bpb", [1.2], "baseline"),
    ),
    "capitals": (
        HEAD.upper() + "a1\t1.2\t4.0\tKEEP\tb\na2\t1.3\t4\tDISCARD\tc\n",
        ("val_bpb", [1.2, 1.3], "baseline discarded"),
    ),
    "commas and quotes": (
        'run,val_loss,notes\n1,3.2,"base, as is"\n2,3.3,wider\n3,3.1,deeper\n',
        ("val_loss", [3.2, 3.3, 3.1], "baseline discarded kept"),
    ),
    "a Markdown table": (
        "| # | idea | val_bpb | result |\n|---|---|---|---|\n"
        "| 1 | base | 1.2 | kept |\n| 2 | x | 1.25 | reverted |\n",
        ("val_bpb", [1.2, 1.25], "baseline discarded"),
    ),
    "more is better": (
        "id,accuracy,decision\n1,0.7,accept\n2,0.8,accept\n3,0.6,reject\n",
        ("accuracy", [0.7, 0.8, 0.6], "baseline kept discarded"),
    ),
    "signs and units": (
        "id\ttest acc\tresult\n1\t71.2%\tkept\n2\t~72.0 ± 0.3\timproved\n",
        ("test_acc", [71.2, 72.0], "baseline kept"),
    ),
    "loss beside time": (
        "step\ttime_s\ttrain_loss\tval_loss\tlr\n1\t300\t3.0\t3.2\t0.1\n2\t301\t2.9\t3.1\t0.2\n",
        ("val_loss", [3.2, 3.1], "baseline kept"),
    ),
    "no header": (
        "a1\t1.2\t4.0\tkeep\tbaseline\nb2\t1.3\t4.0\tdiscard\tdeeper\n",
        ("score", [1.2, 1.3], "baseline discarded"),
    ),
    "no header, no commit": (
        "1.2,kept,base line\n0,crash,oom\n1.1,kept,wider\n",
        ("score", [1.2, None, 1.1], "baseline crashed kept"),
    ),
    "decimal commas": (
        "exp;val_loss;result\n1;1,234;kept\n2;1,1;kept\n3;1,3;no\n",
        ("val_loss", [1.234, 1.1, 1.3], "baseline kept discarded"),
    ),
    "thousands": (
        "exp\telo score\tresult\n1\t1,234\tkept\n2\t1,250.5\tkept\n",
        ("elo_score", [1234.0, 1250.5], "baseline kept"),
    ),
    "units": (
        "exp\tval_bpb\tstatus\n1\t1.2 bpb\tkeep\n2\t1.1 bits/byte\tkeep\n",
        ("val_bpb", [1.2, 1.1], "baseline kept"),
    ),
    "numbers with a sign": (
        "#\tval_bpb\tstatus\n#1\t1.2\tkeep\n# a note\n#2\t1.3\tdiscard\n",
        ("val_bpb", [1.2, 1.3], "baseline discarded"),
    ),
    "zeros for no score": (
        HEAD + "a\t1.2\t4.0\tkeep\tx\nb\t0.000000\t0.0\tdiscard\ty\n",
        ("val_bpb", [1.2, None], "baseline crashed"),
    ),
    "a rate, more is better": (
        "commit\ttok_per_sec\tstatus\na\t120\tkeep\nb\t90\tdiscard\n",
        ("tok_per_sec", [120, 90], "baseline discarded"),
    ),
    "what was kept tells the way": (
        "commit\tmIoU\tstatus\na\t0.5\tkeep\nb\t0.4\tdiscard\nc\t0.6\tkeep\n",
        ("miou", [0.5, 0.4, 0.6], "baseline discarded kept"),
    ),
    "before and after": (
        "exp\tval_bpb_before\tval_bpb_after\tstatus\n1\t1.3\t1.2\tkeep\n",
        ("val_bpb_after", [1.2], "baseline"),
    ),
    "signs for words": (
        "exp\tval_bpb\tstatus\n1\t1.2\t✅\n2\t1.1\t❌\n",
        ("val_bpb", [1.2, 1.1], "baseline discarded"),
    ),
    "words beside numbers": (
        "exp\tval_bpb\tstatus\n1\t1.2\tkeep\n2\t1.2 → 1.1\tkeep\n3\t1.15 (best 1.1)\tno\n",
        ("val_bpb", [1.2, 1.1, 1.15], "baseline kept discarded"),
    ),
    "one still runs": (
        HEAD + "a\t1.2\t4\tkeep\tx\nb\t\t\trunning\ty\n",
        ("val_bpb", [1.2], "baseline"),
    ),
    "another alphabet": (
        "提交\tval_bpb\t状态\t描述\na\t1.2\tkeep\tb\nb\t1.1\tdiscard\tc\n",
        ("val_bpb", [1.2, 1.1], "baseline discarded"),
    ),
    "quotes around all": (
        '"commit"\t"val_bpb"\t"status"\n"a"\t"1.2"\t"keep"\n',
        ("val_bpb", [1.2], "baseline"),
    ),
    "Markdown in a report": (
        "# Results\n\nSome words here.\n\n| Exp | val_bpb | Status |\n|:--|--:|---|\n"
        "| 1 | **1.2** | keep |\n| 2 | `1.1` | **keep** |\n",
        ("val_bpb", [1.2, 1.1], "baseline kept"),
    ),
    "single blanks": (
        "commit val_bpb status words\na 1.2 keep as it was\nb 1.3 discard\n",
        ("val_bpb", [1.2, 1.3], "baseline discarded"),
    ),
    "objects, one a line": (
        '{"commit": "a", "metrics": {"val_bpb": 1.2}, "kept": true}\n'
        '{"commit": "b", "metrics": {"val_bpb": 1.1}, "kept": false}\n',
        ("metrics_val_bpb", [1.2, 1.1], "baseline discarded"),
    ),
    "objects in a list": (
        '{"runs": [{"id": 1, "val_loss": 3.2}, {"id": 2, "val_loss": null}]}',
        ("val_loss", [3.2, None], "baseline crashed"),
    ),
    "nothing kept": (
        HEAD + "a\t1.2\t4.0\tdiscard\tx\nb\t1.1\t4.0\tdiscard\ty\n",
        ("val_bpb", [1.2, 1.1], "discarded discarded"),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_with_a_number_for_each_experiment_is_read_and_shown(tmp_path, name):
    text, (metric, scores, outcomes) = TABLES[name]
    path = tmp_path / "theirs.tsv"
    path.write_text(text)
    run = load_results_tsv(path)
    assert run.metric == metric and list(run.experiments["outcome"]) == outcomes.split()
    read = [None if math.isnan(score) else score for score in run.experiments["val_bpb"]]
    assert read == scores
    for draw in (
        plots.plot_progress,
        plots.plot_outcomes,
        plots.plot_curves,
        plots.plot_memory_against_score,
        plots.plot_time_use,
    ):
        draw(run)
    plots.plot_overlay([run])
    says = [
        *(analysis_words.say_run, analysis_words.say_progress, analysis_words.say_outcomes),
        *(analysis_words.say_gains, analysis_words.say_curves, analysis_words.say_memory),
    ]
    said = " ".join(say(run) for say in says)
    assert metric == "val_bpb" or (metric in said and "bits per byte" not in said)
    assert "val_bpb" in analysis.best_by_gain(run).columns


def test_columns_that_no_name_tells_are_found_by_what_they_hold(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("提交\t验证\t状态\t描述\na1\t1.2\tkeep\tas it was\nb2\t1.3\tno\twider\n")
    rows = read_foreign_table(path).rows
    assert [(row.commit, row.score, row.outcome, row.title) for row in rows] == [
        ("a1", 1.2, "kept", "as it was"),
        ("b2", 1.3, "discarded", "wider"),
    ]


def test_gains_are_the_way_that_the_score_goes(tmp_path):
    (tmp_path / "t.csv").write_text("id,accuracy,decision\n1,0.7,accept\n2,0.8,accept\n")
    run = load_results_tsv(tmp_path / "t.csv")
    assert run.higher_is_better and run.experiments["gain"].iloc[1] == pytest.approx(0.1)
    assert "accuracy (higher is better)" in plots.plot_progress(run).axes[0].get_ylabel()


@pytest.mark.parametrize("text", ["", "one line\n", "a\tb\nx\ty\n", "\0\xff binary"])
def test_what_is_no_table_says_what_it_lacks(tmp_path, text):
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(AnalysisError, match="holds no table|no column of numbers"):
        read_foreign_table(path)
    with pytest.raises((AnalysisError, ResultsError)):
        load_results_tsv(path)


TABLE = (
    "commit\tval_bpb\tstatus\tdescription\na1\t0.99\tkeep\tbaseline\nb2\t0.98\tkeep\tmore  depth\n"
)


@pytest.mark.parametrize(
    "raw",
    [
        TABLE.encode("utf-16"),
        TABLE.replace("\t", "   ").replace("more  depth", "more depth").encode(),
        TABLE.replace("\t", "\\t").encode(),
        (TABLE + TABLE.split("\n")[0] + "\n").encode(),
        TABLE.replace("b2", "<<<<<<< HEAD\nb2").encode() + b"=======\n>>>>>>> other\n",
    ],
    ids=["UTF-16", "blanks", "written tabs", "header twice", "conflict"],
)
def test_tables_as_editors_and_merges_leave_them(tmp_path, raw):
    (tmp_path / "results.tsv").write_bytes(raw)
    assert [row.score for row in read_foreign_table(tmp_path / "results.tsv").rows] == [0.99, 0.98]


def test_a_field_that_is_too_long_is_told(tmp_path):
    (tmp_path / "results.csv").write_text("commit,val_bpb\na," + "9" * 200_000 + "\n")
    with pytest.raises(AnalysisError, match="cannot be read as a table"):
        read_foreign_table(tmp_path / "results.csv")
