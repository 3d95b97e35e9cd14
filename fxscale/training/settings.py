"""`Settings`: everything that decides what a training run does, checked before it starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from fxscale.errors import FxscaleError
from fxscale.schedules import ExtraTraining, LearningRules, Schedule, parse_resize_rule
from fxscale.schedules.presets import rules_of

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Interval:
    """How often: every `count` epochs, or every `count` optimizer steps."""

    count: int
    unit: Literal["epochs", "steps"]

    @staticmethod
    def parse(text: str) -> Interval:
        """`"2 epochs"`, `"1epoch"`, `"500 steps"`; a bare number counts epochs."""
        match = re.fullmatch(r"\s*(\d+)\s*(epochs?|steps?|)\s*", text)
        if match is None or int(match[1]) < 1:
            raise FxscaleError(
                f"{text!r} is no interval: write, for example, '1 epoch' or '500 steps'"
            )
        return Interval(int(match[1]), "steps" if match[2].startswith("step") else "epochs")


@dataclass(frozen=True)
class Settings:
    """One training run. Two runs of equal settings, data and machine give equal results.

    On a GPU they do with `deterministic` alone: kernels are chosen by their speed, and some add in
    any order.

    **Networks and images**

    - `model`: a name as `fxscale.models.create` takes it.
    - `data`: a folder with `train/CLASS/*` and `val/CLASS/*`, or with webdataset's shards
      `train*.tar` and `val*.tar` (`KEY.jpg` and `KEY.cls`); `"digits"` (handwritten digits that
      come with scikit-learn) or `"synthetic"` (noise, to measure speed).
    - `target_size`: height and width of the images of the target network, in pixels.
    - `pretrain_sizes`: those of the pre-train networks, increasing; none trains the target alone.
    - `kernels`, `keep`: as for `fxscale.downscale`.
    - `progressive_sizes`: those on which the target itself, not a layer of it changed, trains
      before its own: progressive resizing, after the pre-train networks or, without any, alone.
      They grow, too, from the last pre-train size on. A head that takes no other size is resized.

    **Schedule**

    - `preset`: `"overfeat"` or `"resnet34"`, the paper's learning rules, in place of `epochs`,
      `learning_rate`, `milestones`, `gamma` and `weight_decay`.
    - `milestones`: completed epochs after which the learning rate is multiplied by `gamma`.
    - `resize_at`: completed epochs before each transition (`"28"`, `"10,28"`), `"auto"` (the last
      one two before the first drop; pre-train networks get the first fifth of the epochs before
      it where the target trains on small images next),
      `"plateau"` or `"never"`, see `fxscale.schedules`.
    - `warmup_after_resize`: epochs, fractions too, over which the learning rate rises linearly
      after each transition, step by step; 0: none.
    - `raised_epochs`: so many epochs after the last transition have the first learning rate, also
      behind its drop; 0: none.
    - `extra_training`: at most so many extra epochs after each transition (section 5.2); 0: none.

    **Optimization**

    - `optimizer`: `"sgd"` or `"adamw"`; `momentum` is SGD's.
    - `batch_size`: images per optimizer step, over all processes and accumulated batches together.
    - `accumulate`: batches per process that one step's gradient is gathered from.
    - `clip_norm`: gradients are scaled down to this norm; `None`: they are not.
    - `label_smoothing`: from 0 to 1. `mixup`: alpha of its Beta distribution, 0 for none.
    - `auxiliary_weight`: what the losses of auxiliary classifiers are multiplied by before they are
      added to the network's own, where it has any (GoogLeNet: 0.3).
    - `average`: decay per step of an exponential moving average of the weights, which is then what
      is evaluated and saved in the end; 0 for none.
    - `batchnorm_batches`: steps' worth of images over which BatchNorm is re-estimated after a
      transition; 0: it is not.

    **Computation**

    - `precision`: `"fp32"` or `"bf16"` (mixed). `channels_last`: memory format. `compile`:
      `torch.compile`; on one GPU, unless gradients are accumulated, with CUDA graphs.
    - `sync_batchnorm`: BatchNorm normalises over the images of all processes (`nn.SyncBatchNorm`);
      several processes need GPUs for it.
    - `seed`: of initial weights, order, augmentation and dropout. `deterministic`: only
      deterministic algorithms, an error where there is none.
    - `workers`: processes that load images, per training process.
    - `on_corrupt`: `"error"` stops at an image that cannot be read; `"skip"` takes the next one
      instead and counts it.
    - `timeout`: seconds that a process waits for another before it gives up.

    **Raises:** `FxscaleError` for values that make no sense.
    """

    model: str
    data: str
    target_size: int
    pretrain_sizes: tuple[int, ...] = ()
    kernels: str | Mapping[str, Any] = "paper"
    keep: tuple[str, ...] = ()
    progressive_sizes: tuple[int, ...] = ()
    preset: str | None = None
    epochs: int = 90
    learning_rate: float = 0.1
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    weight_decay: float = 1e-4
    resize_at: str = "auto"
    extra_training: int = 0
    warmup_after_resize: float = 0.0
    raised_epochs: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    batch_size: int = 128
    accumulate: int = 1
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    auxiliary_weight: float = 0.3
    average: float = 0.0
    batchnorm_batches: int = 20
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    sync_batchnorm: bool = False
    seed: int = 0
    deterministic: bool = False
    workers: int = 0
    on_corrupt: Literal["error", "skip"] = "error"
    checkpoint_every: str = "1 epoch"
    log_every: int = 20
    timeout: float = 600.0

    def __post_init__(self) -> None:
        sizes, small = self.sizes, len(self.pretrain_sizes)
        pairs = [*pairwise((*sizes[:small], self.target_size)), *pairwise(sizes[small:])]
        # The target may begin with the images of the last pre-train network.
        if list(sizes) != sorted(sizes) or sizes[0] < 1 or any(a == b for a, b in pairs):
            raise FxscaleError(
                f"image sizes must grow from phase to phase; found {[*sizes]}, the target's last"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise FxscaleError(
                    f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}"
                )
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) < high:
                limits = f"{low:g} or more" if high == _ANY else f"from {low:g} to below {high:g}"
                raise FxscaleError(f"{name} must be {limits}; found {getattr(self, name)}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise FxscaleError(f"clip_norm must be positive; found {self.clip_norm}")
        if self.batch_size % self.accumulate:
            raise FxscaleError(
                f"a batch of {self.batch_size} images cannot be accumulated from "
                f"{self.accumulate} equal parts"
            )
        _ = self.schedule, self.interval  # checked where they are made

    @property
    def schedule(self) -> Schedule:
        """Of the phases: pre-train networks, the target on small images, the target."""
        if self.preset is not None:
            rules = rules_of(self.preset)
        else:
            rules = LearningRules.drops(
                self.epochs,
                self.learning_rate,
                self.milestones,
                gamma=self.gamma,
                weight_decay=self.weight_decay,
            )
        return Schedule(
            rules,
            len(self.sizes),
            parse_resize_rule(self.resize_at, kernels=len(self.pretrain_sizes)),
            ExtraTraining(self.extra_training) if self.extra_training else None,
            self.warmup_after_resize,
            self.raised_epochs,
        )

    @property
    def interval(self) -> Interval:
        """Of checkpoints."""
        return Interval.parse(self.checkpoint_every)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the images of every phase."""
        return (*self.pretrain_sizes, *self.progressive_sizes, self.target_size)

    def size(self, phase: int) -> int:
        """Of the images of a phase."""
        return self.sizes[phase]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, so that what was read from a file compares equal: tuples are lists."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Names of the settings in which a run with `other` would give another result."""
        mine = self.to_dict()
        names = {field.name for field in fields(self)} - _WITHOUT_EFFECT
        # A run of an older version knows nothing of settings that came later.
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        theirs = json.loads(json.dumps(defaults)) | dict(other)
        gone = {name for name, value in other.items() if name not in mine and value}
        return sorted(gone | {name for name in names if mine[name] != theirs[name]})


_ANY = float("inf")
_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "precision": ("fp32", "bf16"),
    "on_corrupt": ("error", "skip"),
}
_RANGES = {
    "momentum": (0, 1),
    "batch_size": (1, _ANY),
    "accumulate": (1, _ANY),
    "label_smoothing": (0, 1),
    "mixup": (0, _ANY),
    "auxiliary_weight": (0, _ANY),
    "average": (0, 1),
    "batchnorm_batches": (0, _ANY),
    "seed": (0, _ANY),
    "workers": (0, _ANY),
    "extra_training": (0, _ANY),
    "log_every": (1, _ANY),
    "timeout": (1, _ANY),
}
_WITHOUT_EFFECT = frozenset({"workers", "checkpoint_every", "timeout", "data"})
"""May change when a run is resumed. `data`, because folders move; its classes are compared."""
