"""Taking a kept change off the best, and putting it on the baseline: numbers by name, text by a
merge of three.
"""

import pytest
from kept_runs import COMMENTED, MORE_DEPTH, MORE_HEADS, TEMPLATE, Kept

from harness.lab.changes import NotAlone, baseline_with, best_without
from harness.search.constants import constant_values


def test_numbers_on_neighbouring_lines_come_off_one_by_one(tmp_path):
    run = Kept(tmp_path / "t", (MORE_DEPTH,), (MORE_HEADS,)).run
    without_depth = constant_values(best_without(run, [1]))
    assert (without_depth["DEPTH"], without_depth["N_HEAD"]) == (1, 4)
    without_heads = constant_values(best_without(run, [2]))
    assert (without_heads["DEPTH"], without_heads["N_HEAD"]) == (3, 2)
    assert best_without(run, [1, 2]) == TEMPLATE


def test_a_change_of_text_and_numbers_comes_off_whole_beside_another_of_both(tmp_path):
    run = Kept(tmp_path / "t", (MORE_DEPTH, COMMENTED), (MORE_HEADS,)).run
    source = best_without(run, [1])
    assert "itertools" not in source and constant_values(source)["N_HEAD"] == 4
    assert best_without(run, [2]) == run.train_py(run.state.kept[1]).read_text()


def test_a_number_that_was_moved_twice_does_not_come_off_alone_but_together(tmp_path):
    again = (MORE_DEPTH[1], MORE_DEPTH[1].replace("DEPTH = 3", "DEPTH = 5"))
    run = Kept(tmp_path / "t", (MORE_DEPTH,), (again,)).run
    with pytest.raises(NotAlone, match="another change moved DEPTH, too"):
        best_without(run, [1])
    assert constant_values(best_without(run, [2]))["DEPTH"] == 3
    assert best_without(run, [1, 2]) == TEMPLATE


def test_patches_that_overlap_do_not_come_off_alone(tmp_path):
    other = ("import itertools\n", "import itertools as its\n")
    run = Kept(tmp_path / "t", (COMMENTED,), (other,)).run
    with pytest.raises(NotAlone, match="another change is on the same lines"):
        best_without(run, [1])


def test_what_is_in_the_best_no_more_cannot_be_taken_off(tmp_path):
    back = (COMMENTED[1], COMMENTED[0])
    run = Kept(tmp_path / "t", (COMMENTED,), (MORE_DEPTH, back)).run
    with pytest.raises(NotAlone, match="nothing of it is left"):
        best_without(run, [1])


def test_what_the_gate_would_refuse_is_not_trained(tmp_path):
    use = ("import math\n", "import math\n\nFACTOR = 2\n")
    run = Kept(tmp_path / "t", (use,), (MORE_DEPTH,)).run
    path = run.train_py(run.state.kept[0])
    path.write_text(path.read_text().replace("import math\n", "import os\n"))
    with pytest.raises(NotAlone, match="no train.py that may run"):
        best_without(run, [1])


def test_confirmed_changes_are_put_on_the_baseline_one_after_the_other(tmp_path):
    run = Kept(tmp_path / "t", (MORE_DEPTH,), (COMMENTED,), (MORE_HEADS,)).run
    source = baseline_with(run, [1, 3])
    assert source == best_without(run, [2]) and "itertools" not in source
    assert baseline_with(run, [1, 2, 3]) == run.train_py(run.state.incumbent).read_text()
