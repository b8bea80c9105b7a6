"""Files are whole or absent, and JSON comes back as it went in."""

import hashlib
import os

import pytest

from harness.ground.files import (
    open_atomic,
    read_json,
    sha256_file,
    walk,
    write_json_atomic,
    write_text_atomic,
)
from harness.sandbox.left_files import remove_tree


def test_json_round_trip_keeps_characters_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "a.json"
    value = {"name": "Übung 漢字", "numbers": [1, 2.5, None], "flag": True}
    write_json_atomic(path, value)
    raw = path.read_text(encoding="utf-8")
    assert read_json(path) == value
    assert "Übung 漢字" in raw and raw.endswith("}\n")


def test_json_without_a_standard_form_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"score": 1.0})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"score": float("nan")})
    assert read_json(path) == {"score": 1.0}


def test_an_exception_while_writing_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.bin"
    write_text_atomic(path, "old")
    with pytest.raises(RuntimeError), open_atomic(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_text_is_written_byte_for_byte(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "one\r\ntwo\n\ttabs, é")
    assert path.read_bytes() == "one\r\ntwo\n\ttabs, é".encode()


def test_new_files_are_readable_by_others_and_replaced_ones_keep_their_mode(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "x")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    write_text_atomic(path, "y")
    assert path.stat().st_mode & 0o777 == 0o600


def test_sha256_of_a_file_longer_than_one_chunk(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    assert sha256_file(path) == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()


def test_broken_json_names_the_file(tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b'{"a": 1')
    with pytest.raises(ValueError, match=r"broken\.json"):
        read_json(path)


def test_folders_of_any_depth_are_gone_through_without_following_links(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").touch()
    (tmp_path / "a").symlink_to(tmp_path / "b")
    found = [(folders, files) for _, folders, files in walk(tmp_path)]
    assert found == [(["b"], ["a"]), ([], ["file"])]
    here = os.getcwd()
    try:
        os.chdir(tmp_path / "b")
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    assert 1000 < sum(1 for _ in walk(tmp_path)) <= 3002
    remove_tree(tmp_path / "b")
