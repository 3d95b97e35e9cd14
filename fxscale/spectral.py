"""A spectral norm (old style, a hook) whose weight has another amplitude."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm


class RescaledSpectralNorm(SpectralNorm):
    """`torch.nn.utils.spectral_norm`'s hook; the weight that it computes is `factor` times larger.

    A spectral norm of one bounds what a kernel does to one patch. A smaller kernel looks at fewer
    pixels, so that its taps must be larger for the same response to an image: `factor` is
    `sqrt(product(k / k'))`.
    """

    def __init__(self, hook: SpectralNorm, factor: float) -> None:
        super().__init__(hook.name, hook.n_power_iterations, hook.dim, hook.eps)
        self.factor = factor

    def compute_weight(self, module: nn.Module, do_power_iteration: bool) -> Tensor:
        return super().compute_weight(module, do_power_iteration) * self.factor
