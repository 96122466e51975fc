"""Plan a run: show how many links each layer will have at every step, and what the run costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from chts_core.balance import BalancedRegrowth
from chts_core.budget import Budget
from chts_core.choices import Cubic, Sigmoid
from chts_core.distributions import Shares
from chts_core.engine.coverage import Coverage, coverage
from chts_core.engine.graph import find_layers, kind_of, label_of
from chts_core.engine.guard import check_conversion
from chts_core.engine.kinds import Layer, convertible
from chts_core.engine.layers import Selection, all_layers, unwrap
from chts_core.engine.linear import Execution
from chts_core.engine.warm_start import Start, method_from
from chts_core.link_prediction import PREDICTORS, WALKED
from chts_core.methods import Method
from chts_core.percolation import LayerGraph, check_graph
from chts_core.sampling import BLOCK
from chts_core.schedules import Timeline

# Tables longer than this have one line for all layers of a kind.
_LONG_TABLE = 12

# Bytes that an update needs. An update keeps several lists of the links of all layers: 8 bytes per link, or a byte per
# weight if that is less. Six lists are an upper bound for the resident memory, which was measured with 12 and 24 layers
# of 768×768 at 50 and 95 % sparsity. The rest is needed for the work on one layer: bytes for each candidate of a draw
# (score, key, noise, temporaries), and for each weight if missing links are scored (masks). The peak memory that torch
# allocated was measured, in bytes per weight of a 1000×1000 layer at 50 and 90 % sparsity: SET 22 and 7, MEST 29 and 7,
# RigL 25 and 28, CHTs 37 and 7. The numbers here are upper bounds from 50 % sparsity on, and up to twice the measured
# numbers.
_LISTS = 6
_BYTES_PER_SOFT_CANDIDATE = 62
_BYTES_PER_HARD_CANDIDATE = 44
_BYTES_PER_SCORED_WEIGHT = 3
# A balanced draw also sorts the candidates by block. At 1000×1000 it took 89 bytes per link and 83 per missing link.
_BYTES_PER_BALANCED_CANDIDATE = 90
# Walks need the neighbours of every node, and two bits per weight.
_BYTES_PER_LINK_WALKED = 20
# A random draw reads its numbers one block at a time.
_BYTES_OF_A_DRAW = 11
# A step searches each dense weight for nonzero values outside the mask.
_BYTES_PER_MASKED_WEIGHT = 8
# A layer that stores only its links sorts them in two orders: by output and by input. For each link, it stores the
# input, the output, and the index that connects the two orders; for each neuron, it stores the place of the first link.
_BYTES_OF_A_LINK = 12
_BYTES_OF_A_NEURON = 4
# A link predictor uses square float32 matrices, whose side is the longer side of the layer. At 200×4000 and 50 %
# sparsity, CH2-L3n took 266 bytes per weight, and CH3-L3p took 416. CH3-L3p also works in batches of 2²² numbers.
# CH3-L3p needs half the memory if the network is so sparse that paths are walked.
_SQUARES_NODE_BASED = 4
_SQUARES_PATH_BASED = 5
_BYTES_OF_A_BATCH = 3 * 4 * 2**22


@dataclass(frozen=True)
class Plan:
    """What a run will do, as computed by `chts.plan` without running it. `print` shows the plan as text.

    budget: the number of links of each layer at each step.
    graph: which layer feeds which, for percolation.
    milestones: the steps that the text shows.
    exchanged: for each layer, the number of links that all updates together remove and regrow. Links that are pruned or
        that percolation removes do not count. If layers may stop early, the number is an upper bound. If removed links
        may return because of their weights, it is a lower bound.
    flops: training FLOPs of all layers, divided by the FLOPs of the same layers without sparsity. The number assumes
        that absent links cost nothing and that all weights are used equally often. In truth, convolutions use their
        weights more often than linear layers, and experts use them less often.
    memory: the bytes for each purpose, for example "optimizer", on the device of the model. Activations do not count,
        and past weights of links that percolation removes do not count either.
    coverage: the share of the model that is in its sparse layers; the text also names layers that stay dense.
    advice: which layers percolation leaves out, and what you may want to change.
    """

    budget: Budget
    graph: LayerGraph
    coverage: Coverage
    milestones: list[int]
    exchanged: dict[str, int]
    flops: float
    memory: dict[str, int]
    advice: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer: name, shape, density at each milestone, links at the end, links exchanged."""
        links = {step: self.budget.links(step) for step in self.milestones}
        final = self.budget.links(self.budget.timeline.total_steps)
        return [
            {
                "layer": name,
                "shape": "×".join(map(str, shape)),
                **{f"step {step}": links[step][name] / math.prod(shape) for step in self.milestones},
                "links": final[name],
                "exchanged": self.exchanged[name],
            }
            for name, shape in self.budget.shapes.items()
        ]

    def __str__(self) -> str:
        budget, timeline = self.budget, self.budget.timeline
        rows = self._table_rows()
        final, size = sum(row["links"] for row in rows), sum(row["size"] for row in rows)
        table = [["layer", "shape", *(f"step {step:,}" for step in self.milestones), "links", "exchanged"]]
        for row in rows:
            densities = [f"{row[step] / row['size']:.2%}" for step in self.milestones]
            table.append([row["layer"], row["shape"], *densities, f"{row['links']:,}", f"{row['exchanged']:,}"])
        memory = [[name, _readable(size)] for name, size in self.memory.items()]
        exchanged = sum(self.exchanged.values())
        if budget.changes():
            every = timeline.update_every
            updates = (
                f"{len(budget.updates()):,}, {'' if isinstance(every, Sequence) else f'every {every:,} steps, '}"
                f"the last at step {timeline.last_update:,} of {timeline.total_steps:,}"
            )
        else:
            updates = "no update changes a link"
        method = budget.method
        bound = (
            "at most " if method.turnover.early_stop is not None else "at least " if method.removal.returning else ""
        )
        uneven = any(len(shape) > 2 or "experts" in name for name, shape in budget.shapes.items())
        equally = " and all weights are used equally often" if uneven else ""
        return "\n".join(
            [
                "Density",
                *_aligned(table, left=2),
                "",
                f"Final links:     {final:,} of {size:,}, density {final / size:.4%}",
                f"Coverage:        {self.coverage}",
                f"Updates:         {updates}",
                f"Links exchanged: {bound}{exchanged:,}",
                f"Training FLOPs:  {self.flops:.1%} of the dense layers' FLOPs, if absent links cost nothing{equally}",
                "",
                f"Memory without activations: {_readable(sum(self.memory.values()))}",
                *_aligned(memory, left=1),
                *([""] if self.advice else []),
                *self.advice,
            ]
        )

    def _table_rows(self) -> list[dict[Any, Any]]:
        """One row per layer, or per kind if there are many layers, with numbers of links instead of densities."""
        shapes = self.budget.shapes
        kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for name, shape in shapes.items():
            kind = kind_of(name) if len(shapes) > _LONG_TABLE else name
            kinds.setdefault((kind, shape), []).append(name)
        links = {step: self.budget.links(step) for step in self.milestones}
        return [
            {
                "layer": label_of(names),
                "shape": "×".join(map(str, shape)),
                "size": len(names) * math.prod(shape),
                **{step: sum(links[step][name] for name in names) for step in self.milestones},
                "links": sum(links[self.milestones[-1]][name] for name in names),
                "exchanged": sum(self.exchanged[name] for name in names),
            }
            for (_, shape), names in kinds.items()
        ]


def _aligned(table: Iterable[list[str]], left: int) -> list[str]:
    """The lines of a table with aligned columns; the first `left` columns are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def plan(
    model: nn.Module,
    method: str | Method = "chts",
    sparsity: float = 0.9,
    *,
    total_steps: int,
    update_every: int | Sequence[int] = 100,
    include: Selection | None = None,
    exclude: Selection | None = None,
    graph: LayerGraph | None = None,
    per_head: bool = False,
    distribution: Shares = "uniform",
    execution: Execution = "masked",
    start: Start = "method",
    moments: int = 2,
) -> Plan:
    """Compute what a run with these settings would do, without running it. Use `print` to show the result.

    The function takes the settings of :class:`chts_core.Sparsifier` and refuses the same invalid settings, as far as
    this is possible without an optimizer and without drawing the initial network. The model may be on the meta
    device, where it needs no memory.

    Args:
        execution: as in the Sparsifier; with "auto", the plan counts the memory of "csr".
        moments: number of state tensors that the optimizer keeps per weight: 2 for Adam and AdamW, 1 for SGD with
            momentum.
    """
    method = method_from(start, method)
    timeline = Timeline(total_steps, update_every, method.turnover.stop)
    model = unwrap(model)
    chosen, parts, graph, notes = find_layers(model, method, include, exclude, graph, per_head)
    budget = Budget(method, sparsity, timeline, {name: part.full_shape for name, part in parts.items()}, distribution)
    check_conversion(execution, model, [part.parameter for part in parts.values()])
    check_graph({name: layer.full_shape for name, layer in chosen.layers.items()}, graph)
    updates = budget.updates()
    exchanged, flops = _costs({**all_layers(model), **chosen.layers}, budget)
    return Plan(
        budget=budget,
        graph=graph,
        coverage=coverage(model, chosen),
        milestones=sorted({0, *(updates[len(updates) * part // 4] for part in (1, 2, 3) if updates), total_steps}),
        exchanged=exchanged,
        flops=flops,
        memory=_memory(model, parts, budget, exchanged, execution, moments),
        advice=notes + _advice(budget),
    )


def _costs(layers: Mapping[str, Layer], budget: Budget) -> tuple[dict[str, int], float]:
    """The number of links that each sparse layer exchanges, and the training FLOPs of all `layers` relative to the
    dense model.

    The forward pass, the gradient of the input and the gradient of the weight cost the same per link. A method that
    regrows by gradient needs the gradient of all weights, with or without a link, at every update.
    """
    size = sum(map(math.prod, budget.shapes.values()))
    everything = sum(math.prod(layer.shape) for layer in layers.values())
    exchanged = dict.fromkeys(budget.shapes, 0)
    flops, done, absent = 0, 0, size - sum(budget.links(0).values())
    for step in budget.updates():  # an update comes after the step's backward pass
        flops += 3 * (step - done) * (everything - absent)
        flops += absent if budget.method.regrowth.needs_gradient else 0
        for name, links in budget.exchanged(step).items():
            exchanged[name] += links
        done, absent = step, size - sum(budget.links(step).values())
    total_steps = budget.timeline.total_steps
    flops += 3 * (total_steps - done) * (everything - absent)
    return exchanged, flops / (3 * total_steps * everything)


def _memory(
    model: nn.Module,
    parts: Mapping[str, Layer],
    budget: Budget,
    exchanged: Mapping[str, int],
    execution: Execution,
    moments: int,
) -> dict[str, int]:
    method, (_, links) = budget.method, budget.bounds()
    parameters = dict(model.named_parameters())
    own = {part.parameter: parameters[part.parameter] for part in parts.values()}
    # The weights of layers that store only their links.
    sparse = dict.fromkeys(parts[name].parameter for name in budget.sparse_parts())
    stored = [name for name in sparse if execution != "masked" and convertible(model, name)]
    saved, structure = 0, 0
    for name in stored:
        count = sum(links[part.name] for part in parts.values() if part.parameter == name)
        saved += (own[name].numel() - count) * own[name].itemsize
        structure += _BYTES_OF_A_LINK * count + _BYTES_OF_A_NEURON * (sum(own[name].shape) + 2)
    weights = sum(parameter.nbytes for parameter in parameters.values()) - saved
    gradients = sum(parameter.nbytes for parameter in parameters.values() if parameter.requires_grad) - saved
    masked = sum(weight.numel() for name, weight in own.items() if name not in stored)
    memory = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": moments * gradients,
        "masks": masked
        + sum(
            math.ceil(weight.numel() / 8) for weight in own.values()
        ),  # the current mask, and all links that were ever active, as bits
    }
    if stored:
        memory["links"] = structure
    if method.regrowth.needs_gradient:
        memory["dense gradient"] = 4 * sum(map(math.prod, budget.shapes.values()))
    if method.regrowth.history:
        # A position and a value for each link that is ever removed. It is not known in advance which links percolation
        # will remove.
        gone = dict.fromkeys(own, 0)
        for name, part in parts.items():
            gone[part.parameter] += exchanged[name] + links[name]
        memory["past weights"] = sum(
            min(gone[name], weight.numel()) * (8 + weight.itemsize) for name, weight in own.items()
        )
    if budget.changes():
        workspace = max(_update_workspace(shape, links[name], method) for name, shape in budget.shapes.items())
        kept = sum(min(8 * links[name], math.prod(shape)) for name, shape in budget.shapes.items())
        dense = max((weight.numel() for name, weight in own.items() if name not in stored), default=0)
        memory["one update"] = max(_LISTS * kept + workspace, _BYTES_PER_MASKED_WEIGHT * dense)
    return memory


def _update_workspace(shape: tuple[int, ...], links: int, method: Method) -> int:
    """An upper bound on the bytes that removal and regrowth need in one layer with `links` links at the start."""
    size = math.prod(shape)
    longer = max(shape[0], size // shape[0])
    removal = (_BYTES_PER_HARD_CANDIDATE if method.removal.temperature is None else _BYTES_PER_SOFT_CANDIDATE) * links
    score, soft = method.regrowth.score, method.regrowth.soft
    balanced = isinstance(method.regrowth, BalancedRegrowth)  # scores all missing links and sorts them by block
    if score == "random" and not balanced:
        return max(removal, _BYTES_OF_A_DRAW * min(size, BLOCK))
    if soft and score in WALKED and not balanced:
        return max(removal, _BYTES_PER_LINK_WALKED * links + size // 4)
    regrowth = (_BYTES_PER_SOFT_CANDIDATE if soft else _BYTES_PER_HARD_CANDIDATE) * (size - links)
    if balanced:
        removal, regrowth = _BYTES_PER_BALANCED_CANDIDATE * links, _BYTES_PER_BALANCED_CANDIDATE * (size - links)
    prediction = 0
    if isinstance(score, str) and score in PREDICTORS:
        path_based = score.endswith("p")
        squares = _SQUARES_PATH_BASED if path_based else _SQUARES_NODE_BASED
        prediction = 4 * squares * longer**2 + (_BYTES_OF_A_BATCH if path_based else 0)
    return max(removal, _BYTES_PER_SCORED_WEIGHT * size + max(regrowth, prediction))


def _advice(budget: Budget) -> list[str]:
    method, timeline = budget.method, budget.timeline
    sparsity, last = method.sparsity, timeline.last_update
    advice = []
    if isinstance(sparsity, Sigmoid) and (end := 2 * sparsity.end - sparsity.start) <= method.turnover.stop:
        advice.append(
            f"The sigmoid decay over {sparsity.end - sparsity.start:.3g} of the run costs the same training FLOPs as a "
            f"cubic decay over twice this window (end={end:.3g}): compare these two."
        )
    if isinstance(sparsity, Cubic):
        end = (sparsity.start + sparsity.end) / 2
        advice.append(
            f"The cubic decay over {sparsity.end - sparsity.start:.3g} of the run costs the same training FLOPs as a "
            f"sigmoid decay over half this window (end={end:.3g}): compare these two."
        )
    if last > 0 and timeline.total_steps - last < timeline.shortest_gap:
        advice.append(
            f"The last update comes {timeline.total_steps - last} steps before the end, so its regrown links "
            "are hardly trained."
        )
    return advice
