"""Ids stand for exact bytes; what is saved comes back; what is damaged is refused."""

import numpy as np
import pytest
from fake_source import make_texts

from harness.data import tokenizer as tokenizer_module
from harness.data.tokenizer import (
    BOS,
    MAX_VOCAB_SIZE,
    Tokenizer,
    iter_windows,
    load_tokenizer,
    train_tokenizer,
)
from harness.ground.errors import DataError

BYTES_ONLY = Tokenizer(tuple(bytes([value]) for value in range(256)))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(make_texts(100), 400)


@pytest.mark.parametrize(
    "text",
    ["", "a", "naïve\r\n\t 漢字 \N{SNAKE}", "<|bos|>", "\0\x7f\x80 \ufeff", *make_texts(3, 9)],
)
def test_ids_stand_for_exactly_the_bytes_of_the_text(tokenizer, text):
    for each in (tokenizer, BYTES_ONLY):
        ids = each.encode(text)
        assert ids.dtype == np.uint16
        assert each.decode_bytes(ids.tolist()) == text.encode()
        assert each.token_bytes()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("window", [30, 1000, 1 << 16])
def test_many_texts_at_once_are_encoded_as_each_alone(tokenizer, monkeypatch, window):
    texts = [
        "",
        *make_texts(40, 5),
        "<|bo",
        "s|>",
        f"a{BOS}",
        BOS,
        f"{BOS}{BOS} b",
        "<|bo",
        "  ",
        "\n",
        "word",
        " word",
        "",
    ]
    alone = [tokenizer.encoding.encode_ordinary(text) for text in texts]
    monkeypatch.setattr(tokenizer_module, "WINDOW_CHARS", window)
    ids, lengths = tokenizer.encode_all(texts)
    assert len(lengths) == len(texts) and ids.dtype == np.uint16
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    if window == 30:  # windows cut long texts, so that only the bytes are the same
        assert [tokenizer.decode_bytes(part.tolist()) for part in parts] == [
            text.encode() for text in texts
        ]
    else:
        assert [part.tolist() for part in parts] == alone
    assert ids.max() < tokenizer.bos_id
    assert tokenizer.encode_all([])[1] == []


def test_untrusted_text_never_becomes_a_special_token(tokenizer):
    ids = tokenizer.encode(f"x{BOS}y" * 50)
    assert ids.max() < tokenizer.bos_id


def test_sizes_and_ids(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.n_vocab, tokenizer.bos_id) == (400, 401, 400)
    assert tokenizer.encoding.n_vocab == 401
    assert tokenizer.encoding.encode(BOS, allowed_special="all") == [400]
    assert tokenizer.tokens[:256] == BYTES_ONLY.tokens
    assert len(set(tokenizer.tokens)) == 400


def test_token_bytes_count_raw_bytes_where_decoding_would_miscount(tokenizer):
    table = tokenizer.token_bytes()
    assert table.dtype == np.int32 and table.shape == (401,)
    assert table[:256].tolist() == [1] * 256
    assert table[tokenizer.bos_id] == 0
    assert table[:400].tolist() == [len(token) for token in tokenizer.tokens]


def test_merges_shorten_text_and_training_is_deterministic(tokenizer):
    texts = make_texts(100)
    text = "".join(texts)
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())
    assert train_tokenizer(iter(texts), 400) == tokenizer


def test_256_is_plain_bytes_and_reads_nothing():
    def no_text():
        raise AssertionError("read")
        yield

    assert train_tokenizer(no_text(), 256) == BYTES_ONLY


def test_saved_json_comes_back_and_is_stable(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a.json")
    loaded = load_tokenizer(tmp_path / "a.json")
    assert loaded == tokenizer
    assert loaded.encode("naïve 漢字").tolist() == tokenizer.encode("naïve 漢字").tolist()
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_missing_or_cut_file_says_what_to_run(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="01_prepare"):
        load_tokenizer(path)
    tokenizer.save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="01_prepare"):
        load_tokenizer(path)


def test_impossible_vocabularies_are_refused():
    for size in (255, MAX_VOCAB_SIZE + 1, 512.0, True):
        with pytest.raises(DataError, match="vocab_size"):
            train_tokenizer(["text"], size)
    with pytest.raises(DataError, match="too small for a vocabulary of 2048"):
        train_tokenizer(["hello hello"], 2048)


def test_a_run_of_blanks_longer_than_the_regex_stack_is_encoded(tokenizer):
    text = "x" + " " * 1_500_000 + "y"
    assert tokenizer.decode_bytes(tokenizer.encode(text).tolist()) == text.encode()


def test_windows_are_cut_after_line_ends_where_there_are_any(monkeypatch):
    monkeypatch.setattr(tokenizer_module, "WINDOW_CHARS", 10)
    text = "abc\ndefg\nhi" + "x" * 25 + "\nend"
    windows = list(iter_windows(text))
    assert "".join(windows) == text
    assert windows[0] == "abc\ndefg\n"
    assert max(map(len, windows)) <= 10
