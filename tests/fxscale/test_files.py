from __future__ import annotations

from pathlib import Path

import pytest

from fxscale.files import written_whole


def test_the_file_appears_with_its_content(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with written_whole(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_impossible_paths_are_told_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"the folder does not exist: '.*none'"),
        written_whole(tmp_path / "none" / "a.txt"),
    ):
        pytest.fail("the block ran")
    with (
        pytest.raises(IsADirectoryError, match="is a folder, expected a file name"),
        written_whole(tmp_path),
    ):
        pytest.fail("the block ran")
