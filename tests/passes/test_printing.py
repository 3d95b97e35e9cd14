"""`FXSCALE_PRINT=1` shows what every pass found."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.passes.printing import lines, print_pass
from tests.passes.networks import Around, annotated, sites_of, traced


def body(m: Around, x: Tensor) -> Tensor:
    out: Tensor = m.fc(F.max_pool2d(x, 2).flatten(1))
    return F.relu(out) if m.training else F.tanh(out)


def model() -> Around:
    return Around(body, fc=nn.Linear(4 * 36, 5))


def test_every_pass_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FXSCALE_PRINT", "1")
    fxscale.downscale(model(), 8, target_size=12)
    captured = capsys.readouterr()
    assert captured.out == ""
    titles = [line.split(" (")[0] for line in captured.err.splitlines() if line.startswith("==")]
    assert titles == [
        "== trace",
        "== annotate",
        "== find sites",
        "== choose kernels",
        "== solve geometry",
        "== place paddings",
        "== invert",
        "== summarise",
        "== rewrite",
        "== verify",
    ]
    assert "fully connected interface fc" in captured.err
    assert "(~12)" in captured.err


def test_nothing_is_printed_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FXSCALE_PRINT", raising=False)
    fxscale.downscale(model(), 8, target_size=12)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_modes_are_marked() -> None:
    text = "\n".join(lines(traced(model())))
    assert "relu" in text
    assert "[train]" in text
    assert "[eval]" in text


def test_sites_and_axes() -> None:
    assert "conv: (2) (4) (~12) (~12)" in list(lines(annotated(model())))
    assert next(iter(lines(sites_of(model())))) == "conv2d conv (3, 3): conv"


def test_print_pass(capsys: pytest.CaptureFixture[str]) -> None:
    print_pass("choose kernels", 0.0123, {"conv.weight": (2, 2)})
    assert capsys.readouterr().err == "== choose kernels (12 ms)\n   conv.weight: (2, 2)\n"
    print_pass("verify", 0.001, None)
    assert capsys.readouterr().err == "== verify (1 ms)\n"
