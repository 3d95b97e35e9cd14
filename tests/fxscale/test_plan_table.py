from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fxscale.plan import ScalePlan
from fxscale.plan_table import format_count, format_padding, format_size, plan_as_text
from tests.fxscale.plan_samples import conv, overfeat_fast, plan, plans


def test_the_whole_table_of_overfeat_fast() -> None:
    table = plan_as_text(overfeat_fast(), 100).splitlines()
    assert table[:5] == [
        "convolution  kernel  stride  output  padding     s   s^2  ratio   s^4         MACs",
        "-" * 82,
        "features.0   11->7   4       56->36  0        1.57  2.47   5.98  6.10  109M->18.3M",
        "features.3   5->3    1       24->16  0        1.67  2.78   6.25  7.72  354M->56.6M",
        "features.6   3->2    1       12->8   1->0/1*  1.50  2.25   5.06  5.06  170M->33.6M",
    ]
    summary = dict(
        re.split(r"(?<=\w)  +", line) for line in table[table.index("") :] if "  " in line
    )
    assert summary == {
        "model": "OverFeatFast",
        "input size": "231 -> 147",
        "target size from": "the size that the fully connected interface accepts",
        "kernels": "paper, 5 of 5 convolutions scaled",
        "FC interface": "classifier.0: (1024, 6, 6) -> (1024, 4, 4), 3072 outputs",
        "pad operators": "1: features_6_pad",
        "largest drift": "0.5 pixels of the 8x8 map at node features_6 in features.6",
        "MACs per sample": "2.80G -> 614M, ratio 4.56",
        "  convolutions": "2.67G -> 547M, ratio 4.89 (Eq. 4: 2.32 to 5.34)",
        "  linear layers": "130M -> 67.0M, ratio 1.94",
        "  resizing alone": "2.80G -> 1.23G, ratio 2.27 (the target's kernels)",
        "activations": "817k -> 371k, ratio 2.20 (outputs of convolutions)",
    }


@pytest.mark.parametrize("width", [80, 100, 120])
def test_lines_fit_the_width_and_carry_no_escape_codes(width: int) -> None:
    text = plan_as_text(overfeat_fast(), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii()
    assert text.isprintable() or set(text) - {"\n"} <= set(map(chr, range(32, 127)))
    assert not any(line.endswith(" ") for line in text.splitlines())


@settings(max_examples=30)
@given(plans, st.sampled_from([80, 120]))
def test_any_plan_can_be_printed(found: ScalePlan, width: int) -> None:
    assert "MACs per sample" in plan_as_text(found, width)


def test_a_deep_network_fits_80_columns_on_one_line_each() -> None:
    deep = plan(
        *(conv(f"layer3.{i}.downsample.0", (256, 256), (3, 2), (112, 80)) for i in range(36))
    )
    rows = [line for line in plan_as_text(deep, 80).splitlines() if line.startswith("layer3")]
    assert len(rows) == 36
    assert all(row.endswith("7.40G->1.68G") for row in rows)


def test_long_names_are_folded_not_cut() -> None:
    name = "backbone.stages.3.blocks.11.attention.projection.convolution.depthwise"
    text = plan_as_text(plan(conv(name, (8, 8), (3, 2), (14, 10))), 80)
    # The first column ends where the rule of the head has a second word above it.
    width = text.index(" kernel")
    rows = text.splitlines()[2 : text.splitlines().index("")]
    assert "".join(row[:width].strip() for row in rows) == name


def test_names_are_not_read_as_markup() -> None:
    odd = plan(conv("[bold]x[/bold]", (8, 8), (3, 2), (14, 10)), model="[red]m")
    assert "[bold]x[/bold]" in str(odd)
    assert "[red]m" in str(odd)


def test_a_second_call_has_a_row_of_its_own() -> None:
    lines = plan_as_text(plan(conv("head", (8, 8), (3, 2), (14, 10), calls=2)), 100).splitlines()
    assert lines[2].startswith("head")
    assert lines[3].split() == ["call", "2", "14->10", "0"]


def test_ratios_outside_eq4_are_marked_and_explained() -> None:
    shortcut = conv("shortcut", (8, 8), (1, 1), (28, 20))
    crowded = conv("crowded", (8, 8), (3, 2), (10, 12))
    assert "1.96>" in str(plan(shortcut))
    assert "1.56<" in str(plan(crowded))
    assert "Eq. 4: s^2" in str(plan(crowded))
    assert "Eq. 4: s^2" not in str(plan(conv("usual", (8, 8), (3, 2), (28, 20))))


def test_nothing_inserted_and_nothing_drifted_is_said() -> None:
    text = str(plan(conv("usual", (8, 8), (3, 2), (28, 20))))
    assert "pad operators     none" in text
    assert "0, all sampling grids are aligned" in text


def test_many_pad_operators_are_counted() -> None:
    text = plan_as_text(plan(pad_operators=tuple(f"pad_{i}" for i in range(40))), 120)
    assert "40: pad_0, pad_1, pad_2, pad_3, pad_4, pad_5 and 34 more" in text


def test_rich_prints_the_same_words_in_colour() -> None:
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard", width=100).print(
        overfeat_fast()
    )
    assert "\x1b[1m" in file.getvalue()
    assert "features.10" in file.getvalue()


def test_width_follows_the_terminal_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = overfeat_fast()
    for columns, expected in (("40", 80), ("90", 90), ("400", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        assert str(wide) == plan_as_text(wide, expected)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (99_960, "100k"),
        (999_500, "1.00M"),
        (115_605_504, "116M"),
        (3_663_249_408, "3.66G"),
        (10**15, "1.00P"),
        (10**19, "10000P"),
    ],
)
def test_format_count(count: int, text: str) -> None:
    assert format_count(count) == text


def test_format_size_and_padding() -> None:
    assert format_size((3, 3)) == "3"
    assert format_size((1, 7)) == "1x7"
    assert format_padding(((1, 1), (1, 1))) == "1"
    assert format_padding(((0, 1), (0, 1))) == "0/1"
    assert format_padding(((0, 1), (2, 2))) == "0/1x2"
    assert format_padding(((-1, 0),)) == "-1/0"
