"""`ScalePlan` as a table: in colour for `rich`, in plain ASCII for `str` and pipes."""

from __future__ import annotations

import io
import shutil

from rich.box import Box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fxscale.plan import ConvCall, ConvPlan, Padding, PoolPlan, ScalePlan, Size

NARROWEST, WIDEST = 80, 120

_LEGEND = """\
Eq. 4: s^2 <= ratio < s^4 where a map shrinks by its kernel's own s = k / k'.
"<": it saves less, its map shrinks too little. ">": it saves more, as do 1x1
convolutions (s = 1) on maps that shrink with the input."""

_BOX = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
"""One rule under the head and nothing else: the rows carry enough ink."""

_NAMED_OPERATORS = 6
"""So many pad operators and max pools are named in the table; the plan itself names all."""


def plan_as_text(plan: ScalePlan, width: int | None = None) -> str:
    """The plan's table in plain text, lines at most `width` columns wide.

    `width` defaults to the terminal's, between 80 and 120; to 100 where there is no terminal.
    """
    if width is None:
        width = shutil.get_terminal_size(fallback=(100, 24)).columns
        width = min(max(width, NARROWEST), WIDEST)
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render_plan(plan))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def render_plan(plan: ScalePlan) -> RenderableType:
    """The table of convolutions, the fully connected interfaces, and the summary."""
    notes = []
    if any(_verdict(conv).strip() for conv in plan.convs):
        notes.append(_LEGEND)
    if any(call.pad_operator for conv in plan.convs for call in conv.calls):
        notes.append("*: needs a pad operator of its own.")
    parts: list[RenderableType] = [_Convolutions(plan), Text()]
    if notes:
        parts += [Text("\n".join(notes), style="dim"), Text()]
    parts.append(_summary(plan))
    return Group(*parts)


class _Convolutions:
    """The table of convolutions; closer in a narrow terminal, and without `s = k / k'`."""

    def __init__(self, plan: ScalePlan) -> None:
        self.plan = plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table(roomy=True)
        if Measurement.get(console, options.update_width(1000), table).maximum > options.max_width:
            table = self._table(roomy=False)
        yield table

    def _table(self, *, roomy: bool) -> Table:
        gap = (0, 1 if roomy else 0, 0, 0)
        table = Table(box=_BOX, padding=gap, pad_edge=False, show_edge=False)
        table.add_column("convolution", overflow="fold")
        stride = "stride" if roomy else "str"
        for heading in ("kernel", stride, "output", "padding"):
            table.add_column(heading, no_wrap=True)
        for heading in ("s", "s^2", "ratio", "s^4", "MACs"):
            if heading != "s" or roomy:
                table.add_column(heading, no_wrap=True, justify="right")
        for conv in self.plan.convs:
            _add_rows(table, conv, with_s=roomy)
        return table


def _add_rows(table: Table, conv: ConvPlan, *, with_s: bool) -> None:
    """One row per call; what belongs to the convolution stands in the first."""
    style = "dim" if conv.kernel_size == conv.pretrain_kernel_size else ""
    head = (
        Text(conv.name),
        _change(format_size(conv.kernel_size), format_size(conv.pretrain_kernel_size)),
        format_size(conv.stride),
    )
    tail = (
        *(("x".join(dict.fromkeys(f"{s:.2f}" for s in conv.s)),) if with_s else ()),
        f"{conv.s2:.2f}",
        f"{conv.mac_ratio:.2f}{_verdict(conv)}",
        f"{conv.s4:.2f}",
        _change(format_count(conv.target_macs), format_count(conv.pretrain_macs)),
    )
    for i, call in enumerate(conv.calls):
        maps = _call_cells(call)
        if i == 0:
            table.add_row(*head, *maps, *tail, style=style)
        else:
            table.add_row(f"  call {i + 1}", "", "", *maps, style=style)
    if not conv.calls:
        table.add_row(*head, "unused", "", *tail, style=style)


def _call_cells(call: ConvCall) -> tuple[str, str]:
    star = "*" if call.pad_operator else ""
    return (
        _change(format_size(call.target_output), format_size(call.pretrain_output)),
        _change(format_padding(call.target_padding), format_padding(call.pretrain_padding)) + star,
    )


def _verdict(conv: ConvPlan) -> str:
    """How the ratio lies to the bounds printed beside it, at the precision printed."""
    ratio, least, most = (round(x, 2) for x in (conv.mac_ratio, conv.s2, conv.s4))
    return "<" if ratio < least else ">" if ratio > most else " "


def _summary(plan: ScalePlan) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    add = table.add_row
    add("model", Text(plan.model))
    add("input size", f"{format_size(plan.target_size)} -> {format_size(plan.pretrain_size)}")
    add("target size from", Text(plan.target_size_source))
    add("kernels", f"{plan.kernels}, {_scaled(plan)} of {len(plan.convs)} convolutions scaled")
    for interface in plan.interfaces:
        add(
            "FC interface",
            Text(
                f"{interface.name}: "
                f"{_interface(interface.channels, interface.target_size)} -> "
                f"{_interface(interface.channels, interface.pretrain_size)}, "
                f"{interface.out_features} outputs"
            ),
        )
    convolved = {conv.weight for conv in plan.convs}
    for entry in plan.state:
        if entry.kind == "unflattened" and entry.key not in convolved:
            views = (entry.target_view, entry.pretrain_view)
            before, after = (_interface(view[0], view[1:-1]) for view in views)
            add("made map", Text(f"{entry.key.removesuffix('.weight')}: {before} -> {after}"))
    if plan.pools:
        add("max pools", Text(_counted(tuple(map(_pool, plan.pools)))))
    add("pad operators", Text(_counted(plan.pad_operators)))
    add("largest drift", Text(_drift(plan)))
    add("MACs per sample", _compare(plan.target_macs, plan.pretrain_macs))
    add("  convolutions", _compare(*plan.conv_macs) + _total_bounds(plan))
    add("  linear layers", _compare(*plan.dense_macs))
    add(
        "  resizing alone",
        f"{_compare(plan.target_macs, plan.progressive_resizing_macs)} (the target's kernels)",
    )
    add("activations", f"{_compare(*plan.activations)} (outputs of convolutions)")
    return table


def format_size(size: Size) -> str:
    """`(3, 3)` as `3`, `(1, 7)` as `1x7`: equal sides are written once."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))


def format_padding(padding: Padding) -> str:
    """`((1, 1), (1, 1))` as `1`, `((0, 1), (0, 1))` as `0/1`; axes that differ joined by `x`."""
    axes = [str(a) if a == b else f"{a}/{b}" for a, b in padding]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)


def format_count(count: int) -> str:
    """Three significant digits and a unit: `115605504` as `116M`."""
    if count < 1000:
        return str(count)
    value, units = count / 1000, iter("kMGTP")
    unit = next(units)
    # 999.5 would round to 1000 and take four digits.
    while value >= 999.5 and unit != "P":
        value, unit = value / 1000, next(units)
    digits = f"{value:#.3g}" if value < 999.5 else f"{value:.0f}"
    return digits.rstrip(".") + unit


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before}->{after}"


def _compare(target: int, pretrain: int) -> str:
    change = f"{format_count(target)} -> {format_count(pretrain)}"
    return f"{change}, ratio {target / pretrain:.2f}" if pretrain else change


def _total_bounds(plan: ScalePlan) -> str:
    target, bounds = plan.conv_macs[0], plan.eq4_bounds
    if not target:
        return ""
    return f" (Eq. 4: {target / bounds.high:.2f} to {target / bounds.low:.2f})"


def _interface(channels: int, size: Size) -> str:
    return f"({', '.join(map(str, (channels, *size)))})"


def _scaled(plan: ScalePlan) -> int:
    return sum(conv.kernel_size != conv.pretrain_kernel_size for conv in plan.convs)


def _counted(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = len(names) - _NAMED_OPERATORS
    rest = f" and {more} more" if more > 0 else ""
    return f"{len(names)}: {', '.join(names[:_NAMED_OPERATORS])}{rest}"


def _pool(pool: PoolPlan) -> str:
    change = _change(format_padding(pool.target_padding), format_padding(pool.pretrain_padding))
    return f"{pool.module or pool.node} padding {change}"


def _drift(plan: ScalePlan) -> str:
    worst = plan.most_drifted
    if worst is None or worst.max_drift == 0:
        return "0, all sampling grids are aligned"
    where = f" in {worst.module}" if worst.module else ""
    sides = "x".join(map(str, worst.pretrain_size))
    return f"{worst.max_drift:.3g} pixels of the {sides} map at node {worst.node}{where}"
