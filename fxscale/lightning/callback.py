"""`Transition`: a Lightning callback that goes over to the target network inside `Trainer.fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fxscale.batchnorm import reestimate_batchnorm
from fxscale.errors import FxscaleError, PlanMismatchError
from fxscale.lightning.module_tree import outermost, replace_child
from fxscale.lightning.running import (
    batches_of,
    begin_again,
    prepare,
    reload_loaders,
    require_whole_parameters,
)
from fxscale.optimizer import bare_optimizer, upscale_optimizer
from fxscale.plan import ScalePlan, Size
from fxscale.plan_layout import layout_of
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation
from fxscale.scheduler import move_scheduler
from fxscale.schedules import At, LearningRules, OnPlateau, Progress, ResizeRule
from fxscale.transition import transition
from fxscale.upscale import plan_of, upscale_state
from fxscale.wrappers import unwrap

_NO_LIMIT = 10**9
"""Epochs of a `Trainer` that counts steps alone."""


class Transition(Callback):
    """Trains a `LightningModule` with its pre-train network first, then with the target network.

    The module is built with the network that `fxscale.downscale` returned. Before the epoch that is
    due, the target takes its place, with its weights, and everything goes on: optimizers and
    learning-rate schedulers (`upscale_optimizer`, `move_scheduler`), the scale of a `GradScaler`,
    other parameters of the module, and moving averages, which are mapped as the weights are: every
    copy of the network in the module or in another callback (`EMAWeightAveraging`). The loaders are
    asked for anew, at the new resolution, and BatchNorm is re-estimated over their batches.

        model = resnet34()
        small = fxscale.downscale(model, 160)
        over = Transition(model, at=28, resolution="size")  # data.size: (160, 160), (224, 224)
        Trainer(max_epochs=90, callbacks=[over]).fit(Classifier(small), datamodule=data)

    Checkpoints say which network they hold: one from before the transition and one from after it
    are both resumed by the same program, which builds the module with the pre-train network. Runs
    on one device or by DDP, where all processes change at the same epoch, with equal weights.

    **Arguments:**

    - `target`: the network that the module's was compiled from; or, for several stages, larger
      pre-train networks of it and the target, in the order in which they train. `torch.compile`
      them as the first one is.
    - `at`: completed epochs before the transition, or a rule of `fxscale.schedules`.
    - `resolution`: gets the input size of the network in training, one int per axis, when it begins
      and at every transition: a function, or the name of an attribute of the datamodule (of the
      module, where there is none). None: nothing is told, and no loader made anew.
    - `network`: the attribute of the module that holds the network, say `"network"` or
      `"net.body"`. By default it is looked for.
    - `rules`: the learning rules that `at` is asked with; `BeforeDrop` needs them. By default a
      rate that never drops, over the trainer's epochs.
    - `monitor`, `mode`: what is logged as figure of merit, once per epoch, for `OnPlateau`, and
      whether it rises (`"max"`) or falls (`"min"`).
    - `batchnorm_batches`: training batches per process to re-estimate BatchNorm over; 0: it is not.
    - `inputs`: what of a batch goes into the network, see `reestimate_batchnorm`; by default the
      batch itself, of which a tuple's first entry counts.
    - `interpolation`: as for `upscale_state`.

    **Raises:**

    - `PlanMismatchError`: the module holds no pre-train network of `target`, or a checkpoint was
      made with other stages.
    - `FxscaleError`: a strategy that shards parameters (FSDP, DeepSpeed); a rule that does not fit;
      a `monitor` that was not logged; an optimizer that cannot be carried, or that does not hold
      the network's parameters: make it in `configure_optimizers`.
    """

    def __init__(
        self,
        target: nn.Module | Sequence[nn.Module],
        at: int | ResizeRule,
        *,
        resolution: str | Callable[[Size], None] | None,
        network: str | None = None,
        rules: LearningRules | None = None,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        batchnorm_batches: int = 20,
        inputs: Callable[[Any], Any] | None = None,
        interpolation: Interpolation = DEFAULT_INTERPOLATION,
    ) -> None:
        self.later = [target] if isinstance(target, nn.Module) else list(target)
        self.rule: ResizeRule = At((at,)) if isinstance(at, int) else at
        if isinstance(self.rule, OnPlateau) and monitor is None:
            raise FxscaleError("OnPlateau follows a figure: name what the module logs as `monitor`")
        self.resolution = resolution
        self.network = network
        self.rules = rules
        self.monitor = monitor
        self.sign = 1.0 if mode == "max" else -1.0
        self.batchnorm_batches = batchnorm_batches
        self.inputs = inputs
        self.interpolation = interpolation
        self.phase = 0
        self.networks: list[nn.Module] = []
        """Of all phases, once `setup` has found the first one."""
        self._figures: dict[int, float] = {}
        self._copies: list[nn.Module] = []

    # Lightning's hooks, in the order in which it calls them.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._find(pl_module)
        if stage == "fit":
            require_whole_parameters(trainer)
            self.rule.check(self._rules(trainer), len(self.later))
        self._tell_resolution(trainer)

        def load(checkpoint: dict[str, Any]) -> None:
            """The network changes before Lightning loads weights into it."""
            saved = checkpoint.get("callbacks", {}).get(self.state_key)
            if saved is not None:
                self._enter_saved(trainer, pl_module, saved["phase"])
                self._refuse_other_layout(saved.get("layout"))
            type(pl_module).on_load_checkpoint(pl_module, checkpoint)

        pl_module.on_load_checkpoint = load  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = set(self.networks[self.phase].parameters())
        if not any(own & _parameters(optimizer) for optimizer in trainer.optimizers):
            raise FxscaleError(
                f"no optimizer of {type(pl_module).__name__} holds parameters of the network in "
                f"training: make optimizers in configure_optimizers, from the module's parameters"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.phase < len(self.later) and trainer.strategy.broadcast(self._due(trainer)):
            self._change(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer)
        if self.monitor is not None and trainer.current_epoch not in self._figures:
            raise FxscaleError(
                f"expected the module to log {self.monitor!r} in every epoch, found "
                f"{sorted(trainer.callback_metrics)}"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vars(pl_module).pop("on_load_checkpoint", None)

    def state_dict(self) -> dict[str, Any]:
        return {"phase": self.phase, "figures": dict(self._figures), "layout": self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._figures = dict(state_dict["figures"])

    # When

    def _rules(self, trainer: Trainer) -> LearningRules:
        if self.rules is not None:
            return self.rules
        epochs = trainer.max_epochs
        return LearningRules.drops(_NO_LIMIT if epochs is None or epochs < 1 else epochs, 1.0)

    def _due(self, trainer: Trainer) -> bool:
        figures = [figure for _, figure in sorted(self._figures.items())]
        position = Progress(self.phase, len(self.later), trainer.current_epoch, figures)
        return self.rule.due(self._rules(trainer), position)

    def _note(self, trainer: Trainer) -> None:
        """The figure of this epoch; the last one counts, where it is validated several times."""
        if self.monitor is not None and self.monitor in trainer.callback_metrics:
            figure = self.sign * float(trainer.callback_metrics[self.monitor])
            self._figures[trainer.current_epoch] = figure

    # Which network

    def _find(self, pl_module: LightningModule) -> None:
        """Sets `networks` and `phase` by what the module holds."""
        if self.networks and self.phase and outermost(pl_module, self._is_present):
            return  # fitted before
        fingerprints = {getattr(plan, "fingerprint", None) for plan in map(_plan, self.later)}

        def is_pretrain(module: nn.Module) -> bool:
            plan = _plan(module)
            if plan is None or any(unwrap(module) is unwrap(larger) for larger in self.later):
                return False
            return len(self.later) == 1 or plan.fingerprint in fingerprints

        if self.network is not None:
            found = [pl_module.get_submodule(self.network)]
            found = [module for module in found if is_pretrain(module)]
        else:
            found = outermost(pl_module, is_pretrain, averages=False)
        if len(found) != 1:
            raise PlanMismatchError(
                f"expected one pre-train network in {type(pl_module).__name__}"
                f"{f' at {self.network!r}' if self.network else ''}, found {len(found)}. Build the "
                f"module, in its __init__, with what fxscale.downscale returned; where it holds "
                f"several, name one: network='...'"
            )
        self.networks, self.phase = [found[0], *self.later], 0

    def _is_present(self, module: nn.Module) -> bool:
        return unwrap(module) is unwrap(self.networks[self.phase])

    def _enter_saved(self, trainer: Trainer, pl_module: LightningModule, phase: int) -> None:
        """Goes to the phase of a checkpoint whose weights are loaded next."""
        if not 0 <= phase < len(self.networks):
            raise PlanMismatchError(
                f"the checkpoint holds the network of stage {phase}, counted from 0, but there are "
                f"{len(self.networks)}: give the target networks that it was trained with"
            )
        if phase != self.phase:
            copies = self._averages(trainer, pl_module)
            self._put(pl_module, phase)
            for root, copy in copies:
                self._put_copy(root, copy, deepcopy(unwrap(self.networks[phase])))
            self._tell_resolution(trainer)

    def _layout(self) -> str | None:
        return layout_of(unwrap(self.networks[self.phase])) if self.networks else None

    def _refuse_other_layout(self, saved: str | None) -> None:
        if saved != self._layout():
            raise PlanMismatchError(
                "the checkpoint is of a pre-train network with other paddings or map sizes than "
                "the one in the module, which its weights would fit: compile that for the same "
                "input size, with the version of fxscale that the checkpoint was made with"
            )

    def _put(self, pl_module: LightningModule, phase: int) -> None:
        replace_child(pl_module, self.networks[self.phase], self.networks[phase])
        self.phase = phase

    def _averages(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> list[tuple[nn.Module, nn.Module]]:
        """Copies of the present network, each with the module that holds it."""
        plan = _plan(self.networks[self.phase])

        def is_copy(module: nn.Module) -> bool:
            if self._is_present(module):
                return False
            if any(unwrap(module) is copy for copy in self._copies):
                return True
            return plan is not None and _plan(module) == plan

        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set elsewhere
        held = (value for callback in callbacks for value in vars(callback).values())
        others = (v for v in held if isinstance(v, nn.Module) and v not in self.networks)
        roots = dict.fromkeys((pl_module, *others))
        return [(root, copy) for root in roots for copy in outermost(root, is_copy)]

    def _put_copy(self, root: nn.Module, copy: nn.Module, larger: nn.Module) -> None:
        like = next(copy.parameters())
        larger.to(like.device).requires_grad_(like.requires_grad).train(copy.training)
        replace_child(root, copy, larger)
        self._copies = [c for c in self._copies if c is not unwrap(copy)] + [larger]

    # The change

    def _change(self, trainer: Trainer, pl_module: LightningModule) -> None:
        old, new = self.networks[self.phase], self.networks[self.phase + 1]
        prepare(new, old, trainer, pl_module)
        own = set(old.parameters())
        others = [parameter for parameter in pl_module.parameters() if parameter not in own]
        optimizers = {
            optimizer: upscale_optimizer(
                optimizer, old, new, others=others, interpolation=self.interpolation
            )
            for optimizer in trainer.optimizers
            if own & _parameters(optimizer)
        }
        averages = self._averages(trainer, pl_module)
        report = transition(old, new, interpolation=self.interpolation)
        for root, average in averages:
            self._put_copy(root, average, self._mapped(average, old, new))
        self._put(pl_module, self.phase + 1)
        self._figures = {}

        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            strategy.model = pl_module
            strategy.configure_ddp()
        trainer.optimizers = [optimizers.get(o, o) for o in trainer.optimizers]
        for config in trainer.lr_scheduler_configs:
            owner = bare_optimizer(config.scheduler.optimizer)
            if owner in optimizers:
                move_scheduler(config.scheduler, optimizers[owner])

        self._tell_resolution(trainer)
        if self.resolution is not None:
            reload_loaders(trainer)
        for network in (new, *(copy for _, copy in self._averages(trainer, pl_module))):
            self._reestimate(trainer, pl_module, network)
        size = "x".join(map(str, self._size()))
        rank_zero_info(f"{report}; after {trainer.current_epoch} epochs, images of {size}")

    def _mapped(self, average: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
        larger = deepcopy(unwrap(new))
        into = larger if _plan(new) is not None else None
        larger.load_state_dict(
            upscale_state(
                plan_of(old), average.state_dict(), into=into, interpolation=self.interpolation
            )
        )
        return larger

    def _reestimate(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module) -> None:
        if not self.batchnorm_batches:
            return
        batches = batches_of(trainer, pl_module, self.batchnorm_batches)
        inputs = batches if self.inputs is None else map(self.inputs, batches)
        group = dist.group.WORLD if trainer.world_size > 1 else None
        with trainer.precision_plugin.forward_context():
            reestimate_batchnorm(network, inputs, group=group)
        begin_again(trainer)

    def _size(self) -> Size:
        plan = _plan(self.networks[self.phase])
        return plan_of(self.networks[0]).target_size if plan is None else plan.pretrain_size

    def _tell_resolution(self, trainer: Trainer) -> None:
        if callable(self.resolution):
            self.resolution(self._size())
        elif self.resolution is not None:
            data = getattr(trainer, "datamodule", None) or trainer.lightning_module
            if not hasattr(data, self.resolution):
                raise FxscaleError(
                    f"{type(data).__name__} has no attribute {self.resolution!r} for the input "
                    f"size: name the one that its transforms read, or give a function"
                )
            setattr(data, self.resolution, self._size())


def _plan(module: nn.Module) -> ScalePlan | None:
    plan = getattr(unwrap(module), "plan", None)
    return plan if isinstance(plan, ScalePlan) else None


def _parameters(optimizer: Any) -> set[Any]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}
