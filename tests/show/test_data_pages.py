"""What the prepare notebook shows adds up, and is text, whatever the corpus spells."""

import html
import re
from dataclasses import replace

import pytest
from fake_source import PartedSource, make_texts

from harness.data.prepare import DataSpec, prepare
from harness.data.splits import EVAL_SPLITS
from harness.show import data_page

PRIVATE = [f"{split}.bin" for split in EVAL_SPLITS]
HOSTILE = "<script>alert('row')</script> & <img src=x onerror=alert(1)>\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Private and training parts with copies and a skip in each.

    Every training document has markup.
    """
    private = make_texts(150, seed=1)
    own = [HOSTILE + text for text in make_texts(148, seed=2)]
    source = PartedSource([*private, *own, own[0] + "\n", private[0]], 50, private=3)
    leaky = PartedSource([*source.texts, *private], 50, private=3)
    cache = tmp_path_factory.mktemp("cache")
    return prepare(DataSpec(leaky, 300, 64, 1024, cache), workers=1, progress=lambda line: None)


def cells(page):
    """The rows of a page's table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in rows
    ]


def test_the_splits_are_the_manifests(data):
    page = data_page.counts_page(data)
    for split, *row in cells(page)[1:]:
        assert row[0] == f"{data.manifest['documents'][split]:,}"
        assert row[2] == f"{data.manifest['tokens'][split]:,}"
        assert row[3] == f"{data.manifest['rows'][split]:,}"
    assert [row[0] for row in cells(page)[1:]] == ["train", *EVAL_SPLITS]
    assert "tokens per byte" in page


def test_what_the_source_says_of_evaluation_is_shown(data):
    source = data.manifest["source"] | {"evaluation_note": "chosen among <tests>"}
    noted = replace(data, manifest=data.manifest | {"source": source})
    assert "chosen among &lt;tests&gt;" in data_page.counts_page(noted)


def test_what_was_read_went_somewhere(data):
    rows = {words: documents for words, documents, _ in cells(data_page.dropped_page(data))[1:]}
    numbers = {words: int(text.replace(",", "")) for words, text in rows.items()}
    skipped = numbers.pop("not read: empty")
    assert skipped == 9
    read = numbers.pop("read from the source")
    assert read == sum(numbers.values()) == 450
    assert len(numbers) == 7  # four splits, copies, copies of evaluation text, unused private text


def test_the_figure_counts_every_training_document(data):
    page = html.unescape(data_page.lengths_page(data))
    counts = [int(text) for text in re.findall(r'padding-left:8px">(\d+)<', page)]
    assert sum(counts) == data.manifest["documents"]["train"]
    assert "longer than a row's 64 tokens" in page
    assert (
        data_page.short(950) == "950"
        and data_page.short(12_345) == "12.3k"
        and data_page.short(3 * 10**6) == "3M"
    )


def test_sample_rows_are_training_text_shown_as_text(data):
    page = data_page.sample_rows_page(data, count=40)
    assert set(re.findall(r"<(\w+)", page)) == {"div", "small"}  # our own
    assert "&lt;script&gt;" in page or "&lt;img" in page
    assert page.count("▶") >= 40


def test_sample_rows_open_no_private_file(data, tmp_path):
    for name in PRIVATE:
        (data.private_dir / name).rename(tmp_path / name)
    try:
        assert (
            data_page.sample_rows_page(data)
            and data_page.dropped_page(data)
            and data_page.lengths_page(data)
        )
    finally:
        for name in PRIVATE:
            (tmp_path / name).rename(data.private_dir / name)
