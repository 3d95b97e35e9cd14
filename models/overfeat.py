"""OverFeat-fast, the first of the paper's two networks (section 4; Sermanet et al., 2014)."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from torch import Tensor, nn


class OverFeat(nn.Module):
    """Five convolutions and three fully connected layers, ReLU after all but the last.

    | layer | output at 231 × 231 |
    |---|---|
    | conv1 96 @ 11 × 11, stride 4 | 56 |
    | pool1 2 × 2 | 28 |
    | conv2 256 @ 5 × 5 | 24 |
    | pool2 2 × 2 | 12 |
    | conv3 512 @ 3 × 3, padding 1 | 12 |
    | conv4 1024 @ 3 × 3, padding 1 | 12 |
    | conv5 1024 @ 3 × 3, padding 1 | 12 |
    | pool5 2 × 2 | 6 |
    | fc6 3072, fc7 4096, fc8 1000 | |

    Calling it maps images `(N, 3, 231, 231)` to logits `(N, num_classes)`. The fully connected
    interface `(1024, 6, 6)` fixes the size of the input.

    **Arguments:** those of `overfeat_fast`.
    """

    def __init__(
        self, *, num_classes: int, dropout: float, init: Literal["paper", "he"], width: float
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, f6, f7 = (
            max(1, round(width * features)) for features in (96, 256, 512, 1024, 3072, 4096)
        )
        self.conv1 = nn.Conv2d(3, c1, kernel_size=11, stride=4)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(c1, c2, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(c2, c3, kernel_size=3, padding=1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(c3, c4, kernel_size=3, padding=1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(c4, c4, kernel_size=3, padding=1)
        self.relu5 = nn.ReLU()
        self.pool5 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.dropout6 = nn.Dropout(dropout)
        self.fc6 = nn.Linear(c4 * 6 * 6, f6)
        self.relu6 = nn.ReLU()
        self.dropout7 = nn.Dropout(dropout)
        self.fc7 = nn.Linear(f6, f7)
        self.relu7 = nn.ReLU()
        self.fc8 = nn.Linear(f7, num_classes)
        _INITIALISERS[init](self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.conv3(x))
        x = self.relu4(self.conv4(x))
        x = self.flatten(self.pool5(self.relu5(self.conv5(x))))
        x = self.relu6(self.fc6(self.dropout6(x)))
        x = self.relu7(self.fc7(self.dropout7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]  # a module call is Any


def overfeat_fast(
    *,
    num_classes: int = 1000,
    dropout: float = 0.0,
    init: Literal["paper", "he"] = "paper",
    width: float = 1.0,
) -> OverFeat:
    """The fast variant of OverFeat, as the paper trains it on 231 × 231 images.

    **Arguments:**

    - `num_classes`: outputs of the last layer.
    - `dropout`: probability in front of `fc6` and `fc7`. The paper names none, so the default is
      0; Sermanet et al. (2014) use 0.5 there.
    - `init`: how the weights start.
        1. `"paper"`: weights and biases uniform in `[-1/sqrt(n), 1/sqrt(n)]` (section 4). The paper
           calls n "the layer's number of weights"; it is read here as the weights that feed one
           output unit, `C_in * k * k`, the rule of Torch7 and of PyTorch today. With all weights
           of a layer as n, signals would shrink by a factor of at least `sqrt(3 * C_out)` in each
           layer, below 1e-13 over all eight, and nothing could be learnt.
        2. `"he"`: normal with variance `2/n`, biases zero (He et al., 2015), which keeps the
           variance of the activations through the ReLUs.
    - `width`: factor on every layer's features, for small experiments; 1.0 is the paper's network.

    **Raises:** `ValueError` for a width that is not positive or an unknown `init`.
    """
    if width <= 0:
        raise ValueError(f"width must be positive, found {width}")
    if init not in _INITIALISERS:
        raise ValueError(f"init must be one of {sorted(_INITIALISERS)}, found {init!r}")
    return OverFeat(num_classes=num_classes, dropout=dropout, init=init, width=width)


def _initialise_paper(network: OverFeat) -> None:
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound)


def _initialise_he(network: OverFeat) -> None:
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


_INITIALISERS = {"paper": _initialise_paper, "he": _initialise_he}
