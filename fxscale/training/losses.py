"""What networks are trained for: the cross entropy of their classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fxscale.errors import FxscaleError


@dataclass(frozen=True)
class Loss:
    """Cross entropy of class scores, `(N, classes)`: of a network's own and its auxiliary ones.

    A network may answer with a tuple in train mode, its class scores first, those of auxiliary
    classifiers (or `None`) behind them, as torchvision's GoogLeNet and Inception do. The cross
    entropy of each of these is added, weighted by `auxiliary_weight` (Szegedy et al., "Going deeper
    with convolutions", 2015, section 5).
    """

    classes: int
    label_smoothing: float
    auxiliary_weight: float

    def __call__(self, output: Any, labels: Tensor) -> Tensor:
        """Mean over a batch. `labels`: numbers `(N,)`, or shares `(N, classes)` as of mix-up.

        **Raises:** `FxscaleError` where `output` holds no class scores.
        """
        main, *auxiliary = (self._cross_entropy(s, labels) for s in self._classifiers(output))
        return main + self.auxiliary_weight * sum(auxiliary)

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:  # outputs beyond the classes, which a network may have, get no share
            labels = F.pad(labels, (0, scores.shape[1] - labels.shape[1]))
        return F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)

    def scores(self, output: Any) -> Tensor:
        """Those that the network is judged by."""
        return self._classifiers(output)[0]

    def _classifiers(self, output: Any) -> list[Tensor]:
        own, *auxiliary = output if isinstance(output, tuple | list) and output else [output]
        classifiers = [own, *(part for part in auxiliary if part is not None)]
        if not all(map(self._are_scores, classifiers)):
            raise FxscaleError(
                f"the network answers with {_described(output)}, but there are {self.classes} "
                f"classes: expected (N, {self.classes}), or a tuple of such with those of "
                "auxiliary classifiers behind the first"
            )
        return classifiers

    def _are_scores(self, part: Any) -> bool:
        return isinstance(part, Tensor) and part.ndim == 2 and part.shape[1] >= self.classes


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    if isinstance(output, tuple | list):
        return f"({', '.join(map(_described, output))})"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(repr, output))}"
    return f"a {type(output).__name__}"
