"""`compare`: which runs it makes, and that finished ones are not repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fxscale.errors import CheckpointError, FxscaleError
from fxscale.training import compare as module
from fxscale.training.compare import Comparison, compare, variants
from fxscale.training.run import train
from tests.fxscale.training.small_runs import Pooled, WideKernel, settings, source, tiny


def run(output: Path, *rules: str, resume: bool = False, **options: Any) -> Comparison:
    options.setdefault("seeds", 1)
    return compare(
        variants(settings(epochs=3, milestones=(2,)), rules),
        output,
        resume=resume,
        source=source(),
        factory=Pooled,
        accelerator="cpu",
        **options,
    )


def test_variants() -> None:
    chosen = settings(keep=("fc",), extra_training=1, raised_epochs=1)
    found = variants(chosen, ["1", "2", "1"], ["auto"])
    assert [v.key for v in found] == [
        *("target", "pretrain", "progressive-auto", "resized-1", "resized-2")
    ]
    alone, small, progressive, first, second = (v.settings for v in found)
    assert (alone.pretrain_sizes, alone.schedule.phases) == ((), 1)
    assert (small.resize_at, small.pretrain_sizes, small.keep) == ("never", (17,), ("fc",))
    assert (progressive.resize_at, progressive.sizes, progressive.keep) == ("auto", (17, 24), ())
    assert progressive.progressive_sizes == (17,)
    assert not any(s.progressive_sizes for s in (alone, small, first, second))
    assert [s.raised_epochs for s in (alone, progressive, first)] == [0, 1, 1]
    assert [(s.resize_at, s.keep, s.extra_training) for s in (first, second)] == [
        *(("1", ("fc",), 1), ("2", ("fc",), 1))
    ]
    assert [v.key for v in variants(chosen, ["2", "1"])][2] == "progressive-2"
    assert len(variants(chosen, ["1"], [])) == 3


def test_the_target_alone_may_have_other_epochs() -> None:
    chosen = settings(epochs=5, milestones=(3,))
    found = variants(chosen, ["1"], [], [(3, (2,)), (2, ()), (3, (2,))])
    assert [v.key for v in found] == ["target-3", "target-2", "pretrain", "resized-1"]
    assert [v.name for v in found[:2]] == [
        *("target network alone for 3 epochs", "target network alone for 2 epochs")
    ]
    assert [(v.settings.epochs, v.settings.milestones) for v in found] == [
        *((3, (2,)), (2, ()), (5, (3,)), (5, (3,)))
    ]
    with pytest.raises(FxscaleError, match="'resnet34' has epochs of its own"):
        variants(settings(preset="resnet34"), ["1"], [], [(3, ())])
    with pytest.raises(FxscaleError, match="for 3 epochs twice, with other drops"):
        variants(chosen, ["1"], [], [(3, (2,)), (3, (1,))])
    with pytest.raises(FxscaleError, match="there are only 2"):
        variants(chosen, ["1"], [], [(2, (2,))])


def test_variants_with_progressive_resizing_on_top() -> None:
    chosen = settings(progressive_sizes=(17, 20), resize_at="1,2,3")
    *_, progressive, resized = variants(chosen, ["1,2,3"])
    assert (progressive.key, progressive.settings.sizes) == ("progressive-2-3", (17, 20, 24))
    assert (resized.key, resized.settings.sizes) == ("resized-1-2-3", (17, 17, 20, 24))


@pytest.mark.parametrize(
    ("sizes", "rules", "words"),
    [((), ["1"], "pre-train size"), ((17,), [], "no transition"), ((17,), ["never"], "'never'")],
)
def test_nothing_to_compare(sizes: tuple[int, ...], rules: list[str], words: str) -> None:
    with pytest.raises(FxscaleError, match=words):
        variants(settings(pretrain_sizes=sizes), rules)


def test_runs_are_those_of_train_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "all", "1")
    assert [h[0].epochs[0].size for h in first.histories] == [24, 17, 17, 17]
    assert [h[0].epochs[-1].size for h in first.histories] == [24, 17, 24, 24]

    resized = first.variants[-1]
    alone = train(
        resized.settings, tmp_path / "one", source=source(), factory=Pooled, accelerator="cpu"
    )
    same = load_file(tmp_path / "all" / "runs" / "resized-1" / "seed-0" / "weights.safetensors")
    assert all(torch.equal(same[key], v) for key, v in alone.network.state_dict().items())
    assert [e.accuracy for e in alone.epochs] == [e.accuracy for e in first.histories[-1][0].epochs]

    trained: list[Path] = []

    def recording(chosen: Any, folder: Path, **options: Any) -> Any:
        trained.append(folder)
        return train(chosen, folder, **options)

    monkeypatch.setattr(module, "train", recording)
    more = run(tmp_path / "all", "1", "2", resume=True, seeds=2)
    assert [f"{f.parent.name}/{f.name}" for f in trained] == [
        "resized-2/seed-0",
        *(f"{v.key}/seed-1" for v in more.variants),
    ]
    assert more.seeds == (0, 1)
    assert more.histories[0][0] == first.histories[0][0]
    assert more.histories[0][1].epochs[0].train_loss != more.histories[0][0].epochs[0].train_loss


def test_other_runs_are_not_mistaken_for_these(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "target" / "seed-0"
    run(tmp_path, "1")
    with pytest.raises(CheckpointError, match="holds a comparison already"):
        run(tmp_path, "1")
    history = folder / "history.json"
    text = history.read_text()
    history.write_text(text.replace('"batch_size": 16', '"batch_size": 8'))
    with pytest.raises(CheckpointError, match="batch_size 8, not 16"):
        run(tmp_path, "1", resume=True)
    history.write_text(text[:50])
    with pytest.raises(CheckpointError, match="is damaged"):
        run(tmp_path, "1", resume=True)


def test_what_cannot_be_compiled_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match=r"^pre-train network alone: "):
        compare(
            variants(settings(pretrain_sizes=(2,)), ["1"]),
            tmp_path,
            source=source(),
            factory=tiny,
            accelerator="cpu",
        )
    assert not (tmp_path / "runs").exists()


def compared(folder: Path, factory: Callable[[int], nn.Module]) -> tuple[Comparison, list[str]]:
    noted: list[str] = []
    found = compare(
        variants(settings(epochs=2, milestones=(), resize_at="1"), ["1"]),
        folder,
        source=source(),
        factory=factory,
        note=noted.append,
        accelerator="cpu",
    )
    return found, noted


def test_a_head_of_fixed_size_is_resized_with_the_images(tmp_path: Path) -> None:
    found, noted = compared(tmp_path, tiny)
    assert [v.kind for v in found.variants] == ["target", "pretrain", "progressive", "resized"]
    (remark,) = found.remarks
    assert remark.startswith("progressive resizing: Tiny takes images of one size, so that its ")
    assert noted == [remark]
    (history,) = found.histories[2]
    assert [epoch.size for epoch in history.epochs] == [17, 24]


def test_where_kept_kernels_do_not_fit_progressive_resizing_is_left_out(tmp_path: Path) -> None:
    found, noted = compared(tmp_path, WideKernel)
    assert [v.kind for v in found.variants] == ["target", "pretrain", "resized"]
    assert len(found.histories) == 3
    (remark,) = found.remarks
    assert re.match(
        r"left out: progressive resizing is impossible: WideKernel, .*of 17 px.*; and with another "
        r"head: input size too small: .*too few for a kernel of 6",
        remark,
    )
    assert noted == [remark]
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"target", "pretrain", "resized-1"}
