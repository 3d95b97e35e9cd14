"""Pass 4, choose kernels: a pre-train kernel size for every convolution (section 3.2.1, Table 1).

Each axis of a kernel is chosen on its own: a 1x7 kernel becomes 1x5. Four things keep a kernel:

1. its name matches a pattern in `keep`;
2. it is a fixed filter (a buffer, such as a blur pool's), or runs over an axis that does not scale;
3. it is a transposed convolution with a stride, whose phases would get uneven numbers of taps;
4. a smaller one would be smaller than the stride and skip pixels, or lose its second tap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from fxscale.errors import UnsupportedModelError, first_line
from fxscale.passes.refusal import refusal
from fxscale.passes.sites import Convolution, Sites

TABLE_1 = {1: 1, 3: 2, 5: 3, 7: 5, 11: 7}

MEAN_RATIO = sum(k / TABLE_1[k] for k in (3, 5, 7, 11)) / 4
"""Mean of Table 1's factors, for the kernel sizes that the table does not list."""

KernelSize = tuple[int, ...]
KernelPolicy = str | Mapping[str, int | Sequence[int]] | Callable[[Convolution], int | KernelSize]


def choose_kernels(
    sites: Sites, policy: KernelPolicy, keep: Sequence[str], ratios: Sequence[float]
) -> dict[str, KernelSize]:
    """The pre-train kernel size of every convolution, by the key of its weight.

    `ratios` is the input ratio (pre-train / target) per spatial axis, which "nearest" follows.
    """
    _check_patterns(sites, policy, keep)
    return {
        convolution.weight: _choose(convolution, policy, keep, ratios)
        for convolution in sites.convolutions
    }


def paper_kernel(kernel_size: int) -> int:
    """Table 1; other sizes by the mean of its factors."""
    return TABLE_1.get(kernel_size, max(1, round(kernel_size / MEAN_RATIO)))


def nearest_kernel(kernel_size: int, ratio: float) -> int:
    """The kernel size closest to the target's times the input ratio."""
    return max(1, round(kernel_size * ratio))


def _choose(
    convolution: Convolution,
    policy: KernelPolicy,
    keep: Sequence[str],
    ratios: Sequence[float],
) -> KernelSize:
    target = convolution.kernel_size
    if any(fnmatchcase(convolution.name, pattern) for pattern in keep):
        return target
    if not convolution.learnable:
        return target
    chosen = _wanted(convolution, policy, ratios)
    if chosen != target and convolution.obstacle is not None:
        at = convolution.obstacle
        raise UnsupportedModelError(
            f"the kernel would become {chosen}, but its weight is computed in a way that cannot be "
            f"followed: at the node {at.node!r}, {at.reason}",
            node=convolution.first.node.name,
            module=convolution.name,
            remedy=f"name the layer in keep (keep=[{convolution.name!r}]), which leaves its kernel "
            "as it is, or register a handler for the module with fxscale.register",
        )
    return chosen


def _wanted(convolution: Convolution, policy: KernelPolicy, ratios: Sequence[float]) -> KernelSize:
    target = convolution.kernel_size
    if len(ratios) != len(target):  # a Conv1d over the channels of a 2-D network
        ratios = (max(ratios),) * len(target)
    if isinstance(policy, str):
        if convolution.first.transposed and max(convolution.stride) > 1:
            return target
        proposal = tuple(
            paper_kernel(k) if policy == "paper" else nearest_kernel(k, r)
            for k, r in zip(target, ratios, strict=True)
        )
        return tuple(
            max(k_small, min(k, stride), min(k, 2)) if _shrinks(convolution, position) else k
            for position, (k_small, k, stride) in enumerate(
                zip(proposal, target, convolution.stride, strict=True)
            )
        )
    return _explicit(convolution, policy)


def _shrinks(convolution: Convolution, position: int) -> bool:
    """A kernel that covers the whole map follows the map, which the geometry pass decides."""
    return convolution.scales(position) and not convolution.tied(position)


def _explicit(convolution: Convolution, policy: KernelPolicy) -> KernelSize:
    target = convolution.kernel_size
    chosen: object
    if isinstance(policy, Mapping):
        matches = [p for p in policy if fnmatchcase(convolution.name, p)]
        chosen = policy[matches[0]] if matches else target
    else:
        assert not isinstance(policy, str)
        try:
            chosen = policy(convolution)
        except Exception as error:  # whatever the user's function raises
            raise refusal(
                convolution.first.node,
                f"kernels raises {type(error).__name__}: {first_line(error)}",
                remedy="return an int, or one int per spatial axis, for every convolution",
                module=convolution.name,
            ) from error
    kernel = tuple(chosen) if isinstance(chosen, Sequence) else (chosen,) * len(target)
    if not all(isinstance(k, int) for k in kernel):
        raise refusal(
            convolution.first.node,
            f"kernels gives {chosen!r}, which is not a kernel size",
            remedy="give an int, or one int per spatial axis",
            module=convolution.name,
        )
    for position, (k_small, k, stride) in enumerate(
        zip(kernel, target, convolution.stride, strict=len(kernel) == len(target))
    ):
        if len(kernel) != len(target) or not min(k, stride) <= k_small <= k:
            raise refusal(
                convolution.first.node,
                f"kernels gives {kernel} for a kernel of {target} with stride {convolution.stride}",
                remedy="choose, per axis, a size from min(kernel_size, stride) to kernel_size",
                module=convolution.name,
            )
        if k_small != k and not _shrinks(convolution, position):
            raise refusal(
                convolution.first.node,
                f"kernels shrinks axis {position}, which does not run over a feature map, or "
                "covers it whole",
                remedy="leave this axis at its size",
                module=convolution.name,
            )
    return kernel


def _check_patterns(sites: Sites, policy: KernelPolicy, keep: Sequence[str]) -> None:
    named = policy in ("paper", "nearest") if isinstance(policy, str) else callable(policy)
    if not (named or isinstance(policy, Mapping)):
        raise UnsupportedModelError(
            f"kernels={policy!r} is not a known policy",
            remedy='use "paper", "nearest", a mapping of names to sizes, or a callable',
        )
    if isinstance(policy, Mapping) and not all(isinstance(key, str) for key in policy):
        raise UnsupportedModelError(
            f"kernels maps {next(key for key in policy if not isinstance(key, str))!r}, which is "
            "not a name",
            remedy='map names or patterns to sizes, such as {"layer1.*": 2}; for a rule by size '
            "pass a callable",
        )
    patterns = [*keep, *(policy if isinstance(policy, Mapping) else ())]
    names = [convolution.name for convolution in sites.convolutions]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnsupportedModelError(
                f"the pattern {pattern!r} matches no convolution",
                remedy=f"use names such as {', '.join(map(repr, names[:3]))}, or patterns such as "
                "'layer1.*'",
            )
