"""Files appear whole or not at all, and leave nothing behind."""

import hashlib

import pytest

from textless.files import atomic, sha256_of, sync, write_text


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_fails_is_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as first, atomic(path) as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"


def test_text_and_its_hash(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "ä\n")
    sync(path)
    sync(tmp_path)
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert sha256_of(path) == hashlib.sha256(b"\xc3\xa4\n").hexdigest()
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "a.txt", "")
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "nowhere")
