from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import FxscaleError
from fxscale.plan_layers import Side
from fxscale.plan_picture import Lane, check_drawing, lanes, save_picture

pytest.importorskip("matplotlib")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=2, padding=3)
        self.lone = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16 * 16, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = torch.relu(self.lone(x)) + x
        return self.head(torch.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def networks() -> tuple[fxscale.PretrainNetwork, nn.Module]:
    torch.manual_seed(0)
    target = Net()
    return fxscale.downscale(target, 46, target_size=64), target


@pytest.fixture(scope="module")
def svg(
    networks: tuple[fxscale.PretrainNetwork, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> str:
    path = tmp_path_factory.mktemp("picture") / "net.svg"
    save_picture(*networks, path)
    return path.read_text(encoding="utf-8")


def texts(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def test_the_texts_of_both_networks(svg: str) -> None:
    words = Counter((element.text or "").strip() for element in texts(svg))
    assert words["Net, 64×64 → 46×46"] == 1
    for name in ("stem", "lone", "head"):
        assert words[name] >= 1
    for text in ("7×7", "5×5", "3×3", "2×2", "pad 3", "pad 2"):
        assert words[text] == 1, text
    assert words["/2"] == 2
    assert words["16 @"] == 4
    assert words["32×32"] == 3  # stem, lone and sum of the target
    assert words["16×16×16 → 10"] == 1


def test_the_other_networks_texts_are_those_of_its_plan(
    svg: str, networks: tuple[fxscale.PretrainNetwork, nn.Module]
) -> None:
    plan = networks[0].plan
    words = {(element.text or "").strip() for element in texts(svg)}
    (interface,) = plan.interfaces
    height, width = interface.pretrain_size
    assert f"16×{height}×{width} → 10" in words
    for conv in plan.convs:
        (call,) = conv.calls
        assert "×".join(map(str, call.pretrain_output)) in words


def test_only_what_changed_is_bold(svg: str) -> None:
    bold = {
        (element.text or "").strip()
        for element in texts(svg)
        if re.search(r"font(-weight)?:[^;]*\b(bold|700)\b", element.get("style", ""))
    }
    assert {"5×5", "2×2", "pad 2"} <= bold
    assert not {"7×7", "3×3", "pad 3", "/2", "16 @", "conv"} & bold


def test_the_same_network_gives_the_same_file(
    networks: tuple[fxscale.PretrainNetwork, nn.Module], svg: str, tmp_path: Path
) -> None:
    save_picture(*networks, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")])
def test_the_suffix_is_the_format(
    networks: tuple[fxscale.PretrainNetwork, nn.Module], tmp_path: Path, name: str, magic: bytes
) -> None:
    save_picture(*networks, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize("name", ["a.gif", "a", "svg"])
def test_another_suffix_is_refused(name: str) -> None:
    with pytest.raises(FxscaleError, match=rf"^{name}: the suffix .* one of \.svg, \.png, \.pdf$"):
        check_drawing(name)


def test_a_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "fxscale.plan_picture.find_spec",
        lambda name: None if name == "matplotlib" else find_spec(name),
    )
    with pytest.raises(FxscaleError, match=r"extra `train`: pip install 'fxscale\[train\]'$"):
        check_drawing("a.svg")


def test_a_folder_that_is_not_there_is_told_and_nothing_is_written(
    networks: tuple[fxscale.PretrainNetwork, nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        save_picture(*networks, tmp_path / "none" / "a.svg")
    assert not list(tmp_path.iterdir())


def test_a_chain_needs_no_lines() -> None:
    assert lanes([Side(), Side(reads=(0,)), None, Side(reads=(1,))]) == []


def test_lines_that_overlap_lie_beside_each_other() -> None:
    sides = [
        Side(),
        Side(reads=(0,)),
        Side(reads=(1,)),
        Side(reads=(0, 2)),
        Side(reads=(0, 3)),
        Side(reads=(4,)),
        Side(reads=(4, 5)),
    ]
    # 0 is read by 3 and 4: one line. Below it, another may take its place.
    assert lanes(sides) == [Lane(4, (6,), 0), Lane(0, (3, 4), 0)]
    crossing = [*sides[:3], Side(reads=(1, 2)), Side(reads=(0, 3))]
    assert lanes(crossing) == [Lane(1, (3,), 0), Lane(0, (4,), 1)]
