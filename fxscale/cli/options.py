"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from fxscale.plan import Size

Kernels: TypeAlias = str | Mapping[str, int | Size]

_EXAMPLE = '{"stem.conv": 5, "layer1.*": [2, 2]}'


def parse_size(text: str) -> int | Size:
    """`160` as 160; `160x120`, one number per axis, as (160, 120)."""
    try:
        sizes = tuple(int(part) for part in text.replace(",", "x").split("x"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a size: write 160, or one number per axis, 160x120"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes


def parse_kernels(text: str) -> Kernels:
    """`paper` or `nearest` as they are; any other text names a JSON file.

    The file holds an object from names or patterns of layers to kernel sizes.
    """
    if text in ("paper", "nearest"):
        return text
    path = Path(text)
    if not path.is_file():
        raise typer.BadParameter(f"{text!r} is neither paper, nearest nor a file")
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not valid JSON: {error}") from None
    if not isinstance(mapping, dict):
        raise typer.BadParameter(f"{path} must hold an object such as {_EXAMPLE}")
    return {name: _kernel_size(path, name, size) for name, size in mapping.items()}


def _kernel_size(path: Path, name: str, size: object) -> int | Size:
    sizes = [k for k in (size if isinstance(size, list) else [size]) if type(k) is int]
    if not sizes or size not in (sizes, sizes[0]):
        raise typer.BadParameter(
            f"{path}: the kernel size of {name!r} is {size!r}; write entries as in {_EXAMPLE}"
        )
    return tuple(sizes) if isinstance(size, list) else sizes[0]


def _remember_debug(context: typer.Context, debug: bool) -> bool:
    context.find_root().meta["fxscale.debug"] = debug
    return debug


Model = Annotated[
    str,
    typer.Argument(
        help="overfeat_fast, resnet34, torchvision/NAME, timm/NAME or path/to/file.py:factory.",
        metavar="MODEL",
        show_default=False,
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Input size of the pre-train network: 160, or 160x120, one number per axis.",
        show_default="from the first convolution's factor",
    ),
]
TargetSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Input size of the target network.",
        show_default="the model's own",
    ),
]
kernels_option = partial(
    typer.Option,
    metavar="paper|nearest|FILE.json",
    help="How kernels shrink: by Table 1 of the paper, by the input's ratio, or as a JSON "
    f"file says by names, {_EXAMPLE}.",
)
keep_option = partial(
    typer.Option,
    metavar="PATTERN",
    help="Leave the layers of this name alone, * matches anything. May be repeated.",
    show_default=False,
)
KernelPolicy = Annotated[str, kernels_option()]
Keep = Annotated[list[str] | None, keep_option()]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Print the traceback of an error.", callback=_remember_debug, is_eager=True
    ),
]
