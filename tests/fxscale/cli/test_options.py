from __future__ import annotations

from pathlib import Path

import pytest
import typer

from fxscale.cli.options import parse_kernels, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("160", 160), ("160x120", (160, 120)), ("160,120", (160, 120)), ("8x160x120", (8, 160, 120))],
)
def test_sizes(text: str, size: object) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "160x", "16.5"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a size: write 160, or one number per axi"):
        parse_size(text)


def test_kernel_policies_by_name() -> None:
    assert parse_kernels("paper") == "paper"
    assert parse_kernels("nearest") == "nearest"


def test_kernels_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_text('{"conv1": 2, "stem.*": [5, 3]}')
    assert parse_kernels(str(path)) == {"conv1": 2, "stem.*": (5, 3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "2"}', "the kernel size of 'a' is '2'; write entries as in"),
        ('{"a": []}', "the kernel size of 'a' is \\[\\]"),
        ("[3, 2]", "must hold an object such as"),
        ('{"3": ', "is not valid JSON: Expecting value"),
    ],
)
def test_bad_kernel_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(content)
    with pytest.raises(typer.BadParameter, match=message):
        parse_kernels(str(path))


def test_neither_a_policy_nor_a_file() -> None:
    with pytest.raises(typer.BadParameter, match="'papper' is neither paper, nearest nor a file"):
        parse_kernels("papper")
