"""A small file is written whole or not at all."""

import pytest

from pipelines.files import write_whole


def test_a_file_is_replaced_and_what_a_link_leads_to_stays(tmp_path):
    (tmp_path / "cache").write_text("kept")
    file = tmp_path / "file"
    file.symlink_to(tmp_path / "cache")
    (tmp_path / ".file.partial").write_text("of a killed process")
    write_whole(file, "ä\n")
    assert file.read_bytes() == "ä\n".encode()
    assert not file.is_symlink()
    assert (tmp_path / "cache").read_text() == "kept"
    write_whole(file, b"\xff")
    assert file.read_bytes() == b"\xff"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "file"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", "after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
