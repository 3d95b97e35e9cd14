from __future__ import annotations

import torch
from torch import Tensor

import fxscale
from fxscale.training.average import average_after_transition, averaged
from fxscale.upscale import upscale_state
from tests.fxscale.training.small_runs import Tiny


def test_the_average_goes_through_the_same_maps() -> None:
    target = Tiny(2)
    small = fxscale.downscale(target, 17, target_size=24)
    average = averaged(small, 0.75)
    states: list[dict[str, Tensor]] = []
    for _ in range(3):
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.add_(torch.randn_like(parameter))
        states.append({k: v.clone() for k, v in small.state_dict().items()})
        average.update_parameters(small)
    mean = {k: v.clone() for k, v in states[0].items()}
    for state in states[1:]:
        for key, value in state.items():
            if value.is_floating_point():
                mean[key] = 0.75 * mean[key] + 0.25 * value

    larger = average_after_transition(average, small, target, 0.75)

    # The map is linear: the average of mapped weights is the mapped average.
    expected = upscale_state(small.plan, mean)
    found = larger.module.state_dict()
    for key in ("conv1.weight", "fc.weight", "norm.weight"):
        torch.testing.assert_close(found[key], expected[key])
    assert int(larger.n_averaged) == 3
    before = target.conv1.weight.detach().clone()
    larger.update_parameters(target)
    torch.testing.assert_close(
        larger.module.state_dict()["conv1.weight"], 0.75 * expected["conv1.weight"] + 0.25 * before
    )
