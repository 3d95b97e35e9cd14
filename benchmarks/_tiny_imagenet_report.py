"""The tables of `tiny_imagenet`: accuracy and time like the paper's Table 2, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from benchmarks._table import bullet_list, markdown_table
from fxscale.training.runs import Run, of_changes, percent, seconds

EXPLANATION = """\
Figures are mean ± sample standard deviation over the seeds. Accuracy is after the last epoch, on
the test images. *Total time* is the training time measured while training, changes of network
included, evaluations left out; runs of one seed that begin alike share their beginning and its
measured times. Other load on the machine shows in it. *At median steps* is computed: the median
time of a training step of each network, measured taking turns in one process, times the number of
steps, plus the changes of network; it is the fairer ratio on a shared machine."""
KEPT = """\
Accuracy kept is the accuracy right after the change, not one step trained, as a share of the
accuracy right before it (the small network on small images): with BatchNorm's running statistics
as they were, and re-estimated on 20 training batches."""


class RunNames:
    """What the runs are called, in the journal and in the tables."""

    TARGET = "target alone"
    PRETRAIN = "pre-train alone"

    @staticmethod
    def resized(epoch: int) -> str:
        return f"resized at epoch {epoch}"

    @staticmethod
    def progressive(epoch: int) -> str:
        return f"progressive resizing, epoch {epoch}"

    @staticmethod
    def both(transition: int, enlarged: int) -> str:
        return f"resized at epoch {transition}, small images until {enlarged}"

    @staticmethod
    def ramp(transition: int, grown: int, size: int, enlarged: int) -> str:
        before = RunNames.both(transition, grown) if transition else RunNames.progressive(grown)
        return f"{before}, {size} px until {enlarged}"

    @staticmethod
    def grown(grown: int, size: int, transition: int) -> str:
        return f"small kernels, {size} px from epoch {grown}, resized at epoch {transition}"


def report(
    runs: Sequence[Run],
    names: Sequence[str],
    step_seconds: Mapping[str, float],
    steps_per_epoch: int,
    facts: Mapping[str, str],
) -> str:
    """The whole document.

    `names`: of the runs in the tables, the target's among them; `step_seconds`: per phase, the
    median seconds of a training step.
    """
    by_name = {name: _of(runs, name) for name in names}
    return "\n\n".join(
        [
            "# Tiny ImageNet",
            bullet_list(facts),
            EXPLANATION,
            _accuracy_table(by_name, step_seconds, steps_per_epoch),
            "Median training step: "
            + ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in step_seconds.items())
            + f"; {steps_per_epoch} steps per epoch.",
            KEPT,
            _kept_table(by_name),
            "",
        ]
    )


def _of(runs: Sequence[Run], name: str) -> list[Run]:
    return sorted((run for run in runs if run.name == name), key=lambda run: run.seed)


def computed_seconds(run: Run, step_seconds: Mapping[str, float], steps_per_epoch: int) -> float:
    """Training time at the median step times, with the change of network as measured."""
    steps = sum(step_seconds[record.phase] for record in run.records) * steps_per_epoch
    return steps + (run.change.seconds if run.change else 0.0)


def mean_computed_seconds(
    runs: Sequence[Run], step_seconds: Mapping[str, float], steps_per_epoch: int
) -> float:
    return mean(computed_seconds(run, step_seconds, steps_per_epoch) for run in runs)


def _accuracy_table(
    by_name: Mapping[str, list[Run]], step_seconds: Mapping[str, float], steps_per_epoch: int
) -> str:
    target = by_name[RunNames.TARGET]

    def computed(run: Run) -> float:
        return computed_seconds(run, step_seconds, steps_per_epoch)

    rows = []
    for name, runs in by_name.items():
        saved = [1 - run.seconds / alone.seconds for run, alone in zip(runs, target, strict=True)]
        saved_computed = 1 - mean(map(computed, runs)) / mean(map(computed, target))
        differences = [
            run.accuracy - alone.accuracy for run, alone in zip(runs, target, strict=True)
        ]
        is_target = name == RunNames.TARGET
        rows.append(
            [
                name,
                percent(run.accuracy for run in runs),
                "" if is_target else f"{100 * mean(differences):+.1f}",
                seconds(run.seconds for run in runs),
                "" if is_target else percent(saved),
                seconds([mean(map(computed, runs))]),
                "" if is_target else percent([saved_computed]),
            ]
        )
    header = (
        "network",
        "final accuracy",
        "to target (points)",
        "total time",
        "saved",
        "at median steps",
        "saved",
    )
    return markdown_table(header, rows)


def _kept_table(by_name: Mapping[str, list[Run]]) -> str:
    rows = []
    for name, runs in by_name.items():
        if runs[0].change is None:
            continue
        rows.append(
            [
                name,
                percent(of_changes(runs, lambda c: c.before)),
                percent(of_changes(runs, lambda c: c.after)),
                percent(of_changes(runs, lambda c: c.after / c.before)),
                percent(of_changes(runs, lambda c: c.reestimated)),
                percent(of_changes(runs, lambda c: c.reestimated / c.before)),
            ]
        )
    header = ("change", "before", "right after", "kept", "BatchNorm re-estimated", "kept")
    return markdown_table(header, rows)
