"""Files are whole or as they were, whatever fails while they are written."""

import os

import pytest

from divprune_hf.common.whole_file import check_writable, partial_of, save_whole, write_whole


def test_a_text_is_written_as_utf_8_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "table.md"
    for text in ("longer text\n", "é\n"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert os.listdir(tmp_path) == ["table.md"]


def test_what_was_there_stays_if_writing_fails(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    def fail(partial):
        partial.write_bytes(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        save_whole(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["weights.pt"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    partial_of(tmp_path / "run.json").write_text("{" * 100)
    write_whole(tmp_path / "run.json", "{}")
    assert (tmp_path / "run.json").read_text() == "{}" and os.listdir(tmp_path) == ["run.json"]


def test_a_link_is_followed_and_a_device_is_written_to(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    write_whole(os.devnull, "text")
    assert not os.path.isfile(os.devnull)


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path):
    check_writable(tmp_path / "new.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ValueError, match="its folder does not exist"):
        check_writable(tmp_path / "missing" / "new.json")
