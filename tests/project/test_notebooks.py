"""The notebooks as files: thin, tagged, without outputs; and what they say to bad parameters."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest
from checkout import ROOT

from harness.ground.errors import ParameterError
from harness.lab.parameters import check_parameters
from harness.run.settings import check_tag

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_there_are_the_six():
    names = ["00_lab", "01_prepare", "02_baseline", "03_agent_loop", "04_analysis", "05_close_out"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_and_valid(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and "Question" in notebook.cells[0].source
    assert all("id" in cell for cell in notebook.cells)
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 12
        assert not [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
        ]
        assert not cell.source.lstrip().startswith(("!", "%")) and "sys.path" not in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_literals_in_one_tagged_cell(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = {}
    for node in ast.parse(tagged[0].source).body:
        assert isinstance(node, ast.Assign)
        names[node.targets[0].id] = ast.literal_eval(node.value)
    checks = [cell.source for cell in code_cells(path) if "check_parameters(" in cell.source]
    call = next(
        n
        for n in ast.walk(ast.parse(checks[0]))
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "check_parameters"
    )
    expected = {
        key.value: getattr(__builtins__, value.id, None) or vars(sys.modules["builtins"])[value.id]
        for key, value in zip(call.args[1].keys, call.args[1].values, strict=True)
    }
    check_parameters(names, expected)
    assert set(expected) == set(names)


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem != "04_analysis"], ids=lambda path: path.stem
)
def test_committed_without_outputs(path):
    assert not [cell for cell in code_cells(path) if cell.outputs or cell.execution_count]


def test_links_in_committed_outputs_lead_to_files_of_any_checkout():
    """Else the notebook was executed beside another checkout's harness."""
    path = ROOT / "notebooks" / "04_analysis.ipynb"
    texts = [
        "".join(text)
        for cell in code_cells(path)
        for output in cell.outputs
        for text in output.get("data", {}).values()
        if isinstance(text, str)
    ]
    links = [target for text in texts for target in re.findall(r"\]\(<([^>]+)>\)", text)]
    assert links
    for target in links:
        assert target.count("../") == 1, f"{target} leaves the checkout"
        assert (path.parent / target).exists(), target


EXPECTED = {"tag": str, "seeds": int, "budget_seconds": float}
GOOD = {"tag": "nov23", "seeds": 2, "budget_seconds": 25.0}


def test_good_parameters_pass_and_an_int_is_a_float():
    check_parameters(GOOD, EXPECTED)
    check_parameters(GOOD | {"budget_seconds": 25}, EXPECTED)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"In": ["", "# Parameters\ntga = 'nov23'\n"]},
            "unknown parameter 'tga'. Did you mean tag\\?.*seeds \\(int\\)",
        ),
        ({"tag": 1123}, "tag must be str, got 1123.*-r instead of -p"),
        ({"seeds": "two"}, "seeds must be int, got 'two'"),
        ({"seeds": True}, "seeds must be int"),
        ({"budget_seconds": None}, "budget_seconds must be float"),
    ],
)
def test_bad_parameters_are_named_with_the_right_ones(change, words):
    with pytest.raises(ParameterError, match=words):
        check_parameters(GOOD | change, EXPECTED)


def test_a_missing_parameter_is_named():
    with pytest.raises(ParameterError, match="'seeds' is missing"):
        check_parameters({"tag": "x", "budget_seconds": 1.0}, EXPECTED)


def test_a_kernel_outside_of_the_environment_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTORESEARCH_PREFIX", str(tmp_path))
    with pytest.raises(ParameterError, match="choose its kernel"):
        check_parameters(GOOD, EXPECTED)


@pytest.mark.parametrize("tag", ["nov23", "a", "run.2-b_3", "X" * 64])
def test_good_tags(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    ["", "a b", "../up", "a/b", ".hidden", "a..b", "x.lock", "é", "a:b", "-x", "X" * 65, "dot."],
)
def test_bad_tags(tag):
    with pytest.raises(ParameterError, match="letters, digits"):
        check_tag(tag)
