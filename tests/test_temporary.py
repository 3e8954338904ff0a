"""Atomic writes: the target appears complete, or nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qqonnx.temporary import atomic_write


def test_a_file_and_what_is_beside_it_appear_together(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    with atomic_write(target) as written:
        written.write_text("new")
        written.with_name("model.onnx.data").write_text("data")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_a_folder_can_be_written(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "folder") as written:
        written.mkdir()
        (written / "file").write_text("content")
    assert (tmp_path / "folder" / "file").read_text() == "content"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_has_changed(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fails() -> None:
        with atomic_write(target) as written:
            written.write_text("half")
            raise error

    with pytest.raises(error):
        fails()
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass
    assert not list(tmp_path.iterdir())
