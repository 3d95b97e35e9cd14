"""Re-estimation of BatchNorm statistics: the cheapest gain of the transition.

After the transition the weights are the pre-train network's, but feature maps have other borders
and other detail, so running means and variances no longer fit. A few forward batches repair them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from fxscale.errors import FxscaleError
from fxscale.wrappers import process_group, unwrap


def reestimate_batchnorm(
    model: nn.Module, batches: Iterable[Any], *, group: ProcessGroup | None = None
) -> int:
    """Replace the running statistics of every BatchNorm by their average over `batches`.

    The average is cumulative: every batch counts the same, so give them one size. All other layers
    run in eval mode (no dropout, no stochastic depth), without gradients; the modes of all modules,
    the momentum of the BatchNorms and torch's random state are as before afterwards, and the
    statistics too if a batch fails. A BatchNorm that the forward pass never reaches keeps its own.
    Around 20 batches of training size are enough.

    Afterwards `num_batches_tracked` is the number of batches seen here (calls, for a layer used
    several times): it counts what the running statistics average, and they start anew.

    **Arguments:**

    - `model`: any network, on any device. Of a wrapped one (`DistributedDataParallel`,
      `torch.compile`) the network inside is run.
    - `batches`: what the training loop would feed: inputs `(N, C, *size)`, or tuples or lists that
      begin with the input, or dicts of keyword arguments. Tensors are moved to the model's device.
    - `group`: the processes to average over, each with batches of its own; all of them make this
      call and end with the same statistics. By default those of a `DistributedDataParallel` model.
      They need not have equally many batches, with `SyncBatchNorm` neither.

    **Returns:** the number of batches, those of all processes together; 0, with none consumed, if
    there is nothing to re-estimate.

    **Raises:** `FxscaleError` if there are no batches, or one is of another kind or cannot be run,
    on this process or another one.
    """
    group = group or process_group(model)
    network = unwrap(model)
    norms = batchnorms(network)
    if not norms:
        return 0
    device = _device(network)
    cuda = [device] if device.type == "cuda" else []
    count = 0
    # Iterating over a DataLoader draws from the random state, too.
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), _estimating(network, norms):
        try:
            for count, batch in enumerate(batches, start=1):
                _forward(network, batch, device, count)
        except Exception:
            # Whatever the user's loader or network raises: the other processes wait for this one's
            # exchange and are told first. Then it is raised again, as it was.
            if group is not None:
                _average_over(group, norms, count, failed=True)
            raise
        if group is not None:
            count = _average_over(group, norms, count)
        if count == 0:
            raise FxscaleError("no batches to re-estimate BatchNorm over: expected at least one")
    return count


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network that keep running statistics, `SyncBatchNorm` included."""
    return [
        m
        for m in module.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None
    ]


def _average_over(
    group: ProcessGroup, norms: list[_BatchNorm], count: int, failed: bool = False
) -> int:
    """Every batch of every process counts the same; returns how many there were.

    One exchange carries everything, so that processes that have failed cannot keep others waiting.
    """
    calls = [int(norm.num_batches_tracked or 0) for norm in norms]
    parts = [torch.tensor([float(failed), count, *calls])]
    for norm, weight in zip(norms, calls, strict=True):
        # Those of a layer that was not reached are no statistics yet: they count 0 times.
        parts += [buffer.flatten() * weight for buffer in _averages(norm)]
    total = torch.cat([part.to(_device(norms[0]), torch.float64) for part in parts])
    torch.distributed.all_reduce(total, group=group)
    if failed:  # the caller raises why
        return count
    if total[0] > 0:
        raise FxscaleError(
            f"BatchNorm cannot be re-estimated: batches failed on {int(total[0])} other processes, "
            f"whose own messages say why"
        )
    start = 2 + len(norms)
    for norm, weight in zip(norms, total[2:start], strict=True):
        for buffer in _averages(norm):
            if weight > 0:
                buffer.copy_(total[start : start + buffer.numel()] / weight)
            start += buffer.numel()
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(int(weight))
    return int(total[1])


def _averages(norm: _BatchNorm) -> list[Tensor]:
    return [buffer for buffer in (norm.running_mean, norm.running_var) if buffer is not None]


@contextmanager
def _estimating(network: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """BatchNorms accumulate anew, everything else is in eval mode; restores on the way out."""
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    statistics = [_statistics(norm) for norm in norms]
    synced = [norm for norm in norms if isinstance(norm, nn.SyncBatchNorm)]
    forwards = [norm.__dict__.get("forward") for norm in synced]
    done = False
    try:
        network.eval()
        for norm in norms:
            norm.training = True
            norm.momentum = None
            norm.reset_running_stats()
        for norm in synced:
            # Without an exchange in every batch, for which a process with fewer batches would keep
            # the others waiting; the averages are exchanged in the end.
            norm.forward = partial(_BatchNorm.forward, norm)  # type: ignore[method-assign]  # restored
        yield
        done = True
    finally:
        network.train(modes[0][1])  # `train` may do more than set the flags
        for module, mode in modes:
            module.training = mode
        for norm, forward in zip(synced, forwards, strict=True):
            norm.__dict__.pop("forward", None)
            if forward is not None:  # somebody's own
                norm.__dict__["forward"] = forward
        for norm, momentum, saved in zip(norms, momenta, statistics, strict=True):
            norm.momentum = momentum
            if not done or not int(norm.num_batches_tracked or 0):
                _restore(norm, saved)


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    kept = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return [buffer.clone() for buffer in kept if buffer is not None]


def _restore(norm: _BatchNorm, saved: list[Tensor]) -> None:
    kept = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    with torch.no_grad():
        for buffer, value in zip([b for b in kept if b is not None], saved, strict=True):
            buffer.copy_(value)


def _forward(network: nn.Module, batch: Any, device: torch.device, index: int) -> None:
    try:
        if isinstance(batch, Mapping):
            network(**{key: _moved(value, device) for key, value in batch.items()})
        else:
            network(_moved(_input_of(batch, index), device))
    except FxscaleError:
        raise
    except Exception as error:  # whatever the user's network raises
        raise FxscaleError(
            f"batch {index} cannot be run through {type(network).__name__} to re-estimate "
            f"BatchNorm: {error}"
        ) from error


def _input_of(batch: Any, index: int) -> Tensor:
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise FxscaleError(
            f"batch {index}: expected a tensor, a tuple or list that begins with one, or a dict of "
            f"keyword arguments, found {type(batch).__name__}"
        )
    return first


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def _device(network: nn.Module) -> torch.device:
    tensor = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
