"""Watch what the user does around a Sparsifier, and raise an error if the run cannot continue."""

import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from chts_core.checks import warn
from chts_core.engine.distributed import Ranks
from chts_core.engine.kernels import Links
from chts_core.engine.kinds import convertible
from chts_core.engine.linear import SparseLinear
from chts_core.engine.network import SparseNetwork
from chts_core.engine.optimizer_state import check_elementwise, check_moments
from chts_core.engine.sharding import local_shard
from chts_core.engine.watch import LostSteps, Watch
from chts_core.engine.weights import LinkWeight, MaskedWeight
from chts_core.methods import Method

# For each weight, the guard of the Sparsifier that controls it: the Sparsifier that was attached last.
_RULED_BY: MutableMapping[Tensor, "weakref.ref[Guard]"] = WeakIdKeyDictionary()

# Share of a step of the optimizer that may be lost without a warning.
_NOTEWORTHY_LOSS = 0.01
_UNCOUNTED = (
    "sparsifier.step() was called without a step of the optimizer since the last call. The call does not count. Call "
    "step() once after each step of the optimizer, or with skipped=True if that step was skipped."
)


class Guard:
    """Checks at every call of `Sparsifier.step()` what has happened since the last call.

    Args:
        network: the sparse layers.
        optimizer: the optimizer that trains the model.
        waiting: parameters that were frozen when the Sparsifier was attached, by name.

    Attributes:
        superseded: whether a newer Sparsifier has been attached to the model.
    """

    def __init__(
        self, network: SparseNetwork, optimizer: torch.optim.Optimizer, waiting: Mapping[str, nn.Parameter]
    ) -> None:
        self.superseded = False
        # These optimizers keep a zero state at zero if a link has no gradient. Other optimizers may not do this.
        self.keeps_zeros = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        self._network = network
        self._optimizer = optimizer
        self._waiting = waiting
        self._watch = Watch(network.model, optimizer, network.weights)
        self._links: dict[str, Links] = {}  # of the layers that store only their links
        self._lost: LostSteps | None = None
        # Whether the optimizer's hook has counted a step, the number of calls before it, and the warnings so far.
        self._counted, self._calls_before = False, 0
        self._complaints: set[str] = set()

    def listen(self, fresh: bool) -> None:
        """Watch the optimizer from now on, and take over from an older Sparsifier.

        Args:
            fresh: whether the run begins now. If so, the first steps of the optimizer show how much of a step the masks
                undo.
        """
        for weight in self._network.weights.values():
            before = _RULED_BY.get(weight.parameter)
            older = None if before is None else before()
            if older is not None and older is not self:
                older.superseded = True
            _RULED_BY[weight.parameter] = weakref.ref(self)
        self.superseded = False
        self.record_links()
        self._watch.listen()
        measured = fresh and not self.keeps_zeros and self._network.sparse
        self._lost = LostSteps(self._optimizer, self._network.weights) if measured else None

    def settle(self) -> None:
        """Record, at the beginning of a step, that all weights are correct now."""
        self._watch.settle()

    def record_links(self) -> None:
        """Record the present links of the layers that store only their links, to notice links that are loaded later."""
        stored = self._network.stored()
        self._links = {name: layer.links for name, layer in stored.items()}
        for layer in stored.values():
            layer.left_out = False

    def rules(self, parameter: Tensor) -> bool:
        """Whether this guard's Sparsifier was the last one attached to a parameter; False for a copied parameter."""
        ruled_by = _RULED_BY.get(parameter)
        return ruled_by is not None and ruled_by() is self

    def complain(self, kind: str, message: str) -> None:
        """Warn once for each kind of problem."""
        if kind not in self._complaints:
            self._complaints.add(kind)
            warn(message, RuntimeWarning)

    def after_optimizer(self) -> None:
        """Warn if the optimizer has made three steps without a call of `Sparsifier.step()`."""
        if self._watch.steps == 3 and not self.superseded:
            self.complain(
                "not stepped",
                "the optimizer has made three steps without a call of sparsifier.step(), so the topology does not "
                "change. Call sparsifier.step() once after each step of the optimizer.",
            )

    def calls_to_take_back(self, steps: int, updated_at: int) -> int:
        """How many calls of `Sparsifier.step()` were counted by mistake.

        This number is known at the optimizer's first step. Calls before that step were made during gradient
        accumulation. They do not count, unless one of them has already updated the topology.
        """
        if self._counted or not self._watch.steps:
            return 0
        calls, self._counted, self._calls_before = self._calls_before, True, 0
        if calls:
            self.complain("uncounted", _UNCOUNTED)
        return calls if updated_at <= steps - calls else 0

    def is_step(self, skipped: bool) -> bool:
        """Whether a call of `Sparsifier.step()` counts: the optimizer has made a step, or its step was skipped."""
        if not self._watch.counts or self._watch.steps or skipped or self._overflows():
            return True  # after an overflow, a gradient scaler has skipped the step
        if self._counted:
            self.complain("uncounted", _UNCOUNTED)
            return False
        self._calls_before += 1
        return True

    def check_optimizer(self) -> None:
        """Warn about an optimizer that changes weights without a gradient, as Muon does. Masks undo these changes."""
        if self._lost is None or not self._watch.steps:
            return
        share = self._lost.share()
        if share is None:  # not known yet
            return
        self._lost = None
        if share > _NOTEWORTHY_LOSS:
            self.complain(
                "lost",
                f"{share:.0%} of a step of {type(self._optimizer).__name__} (of its squared norm) is lost. This part "
                "changes weights of absent links, because the optimizer does not treat every element separately, and "
                "the masks undo these changes. AdamW and SGD lose nothing.",
            )

    def check_attached(self, update_due: bool) -> None:
        """Refuse to continue unless the run still trains the Sparsifier's model with the Sparsifier's optimizer."""
        replaced = self._watch.replaced()
        if replaced:
            raise RuntimeError(
                f"the model's parameters {few(replaced)} are not the ones that the Sparsifier was attached to, "
                "for example after load_state_dict(assign=True), or after a layer was tied or replaced. Load with "
                "assign=False, or build a new optimizer and a new Sparsifier for the current model."
            )
        unfrozen = [name for name, parameter in self._waiting.items() if parameter.requires_grad]
        if unfrozen:
            self.complain(
                f"unfrozen {unfrozen}",
                f"{few(unfrozen)} were frozen when the Sparsifier was attached but are trained now; they stay dense. "
                "To make them sparse, build a new Sparsifier; initial_masks=sparsifier.masks keeps the links of the "
                "other layers.",
            )
        if self.superseded:
            raise RuntimeError(
                "a newer Sparsifier has been attached to this model; call step() of the newer one, or build a "
                "new model."
            )
        if self._watch.other is not None and not self._watch.steps:
            raise RuntimeError(
                f"another optimizer, {self._watch.other}, has changed the model's weights, but the Sparsifier's "
                "optimizer has made no step, so removed links would keep their momentum. Build a new Sparsifier with "
                "the optimizer that trains the model, and pass resume_from=sparsifier.state_dict() to keep the links."
            )
        for name in self._network.sparse if update_due else ():
            check_moments(self._optimizer, name, self._network.weights[name].parameter)
        if update_due and not self._watch.held():
            raise RuntimeError(
                "the optimizer no longer holds all sparse weights of the model; add them to its parameter groups, or "
                "build a new Sparsifier with the optimizer that trains them."
            )

    def check_masks(self) -> None:
        """Raise an error if weights do not fit the masks."""
        changed = self._watch.changed() & set(self._network.sparse)
        strangers = [name for name in sorted(changed) if self._has_strangers(name)]
        if strangers:
            raise RuntimeError(
                f"the model has weights outside the masks, in {few(strangers)}: you loaded or wrote weights that do "
                "not fit these masks. If you saved sparsifier.state_dict() together with the weights, load it with "
                "sparsifier.load_state_dict(). Load pretrained weights before you build the Sparsifier. To keep the "
                "masks, multiply each weight by its mask in sparsifier.masks before you load it."
            )

    def check_weights(self, step: int) -> None:
        """Refuse an update on all ranks if any rank finds links with infinite or NaN weights."""
        diverged = self._of_any_rank(
            name for name in self._network.sparse if not self._network.weights[name].is_finite()
        )
        if diverged:
            raise RuntimeError(
                f"before the update of step {step}, links of {few(diverged)} have infinite or NaN weights: the run has "
                "diverged. Go back to a checkpoint and lower the learning rate or clip the gradient; "
                "chts_core.tools.numerics.find_nonfinite shows where these values begin."
            )

    def check_gradients(self, method: Method, dense: Mapping[str, Tensor]) -> None:
        """Refuse an update that needs gradients if there are none.

        Args:
            dense: the gradient of all links, by the name of the weight, for each weight that has one.
        """
        weights = self._network.weights
        training = [name for name in self._network.sparse if weights[name].parameter.requires_grad]
        without = [name for name in training if method.regrowth.needs_gradient and name not in dense]
        if without:
            raise RuntimeError(
                f"the method regrows by gradient, but no gradient was computed for {', '.join(without)} since the last "
                "step; call backward() before every step(), and exclude layers that the loss does not use."
            )
        without = [name for name in training if method.removal.needs_gradient and weights[name].parameter.grad is None]
        if without:
            raise RuntimeError(
                f"the method removes by gradient, but {', '.join(without)} has no gradient; "
                "call sparsifier.step() before optimizer.zero_grad(), and exclude layers that the loss does not use."
            )

    def not_finite(self, dense: Mapping[str, Tensor]) -> list[str]:
        """The weights with an infinite or NaN gradient on any rank. All ranks get the same list."""
        return self._of_any_rank(
            name
            for name in self._network.sparse
            for gradient in (dense.get(name), self._network.weights[name].parameter.grad)
            if gradient is not None and not local_shard(gradient).isfinite().all()
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, which must call `listen` again."""
        return {**self.__dict__, "_lost": None}

    def _has_strangers(self, name: str) -> bool:
        """Whether a dense weight is nonzero outside its mask, or what was loaded into a layer does not fit its links.

        A layer that stores only its links gets new links from a state dict with links. From a dense weight, it takes
        only the weights of its own links.
        """
        weight = self._network.weights[name]
        if isinstance(weight, LinkWeight):
            return weight.layer.left_out or not weight.layer.has(self._links[name])
        assert isinstance(weight, MaskedWeight)
        return bool((local_shard(weight.parameter.detach()).nan_to_num(nan=0.0) * ~weight.local_mask).count_nonzero())

    def _overflows(self) -> bool:
        """Whether the optimizer has an infinite or NaN gradient on any rank; a collective operation."""
        gradients = (held.grad for group in self._optimizer.param_groups for held in group["params"])
        here = any(gradient is not None and not local_shard(gradient).isfinite().all() for gradient in gradients)
        return any(self._network.ranks.gather(here))

    def _of_any_rank(self, names: Iterable[str]) -> list[str]:
        """The names that at least one rank has given, in the model's order; a collective operation."""
        found = {name for theirs in self._network.ranks.gather(list(names)) for name in theirs}
        return [name for name in self._network.sparse if name in found]


def is_ruled(parameter: Tensor) -> bool:
    """Whether a Sparsifier is attached to a parameter."""
    ruled_by = _RULED_BY.get(parameter)
    return ruled_by is not None and ruled_by() is not None


def check_dense(model: nn.Module) -> nn.Module:
    """Refuse a model with layers that already store only their links. Otherwise, return the model."""
    already = [path for path, module in model.named_modules() if isinstance(module, SparseLinear)]
    if already:
        raise ValueError(
            f"the layers {', '.join(already)} of the model already store only their links; call "
            "chts_core.engine.linear.to_dense(model) and build a new optimizer, or use a new model."
        )
    return model


def check_held(weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that does not hold the weights."""
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; expected one torch.optim.Optimizer. Build one optimizer that "
            "holds the weights of all sparse layers; it may have several parameter groups."
        )
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in owned]
    if missing:
        raise ValueError(
            f"the optimizer does not hold the model's weights {', '.join(missing)}; build it from model.parameters() "
            "of this model, after moving the model to its device."
        )


def warn_of_rounding(dtypes: Iterable[torch.dtype]) -> None:
    """Warn about weights in half precision. `dtypes` contains the dtypes of all weights."""
    low = sorted({str(dtype) for dtype in dtypes if dtype.itemsize < 4})
    if low:
        warn(
            f"the weights have the dtype {', '.join(low)}, so rounding loses small changes. Methods that regrow by "
            "gradient suffer most. Keep the weights in float32 and compute under torch.autocast."
        )


def check_conversion(execution: str, model: nn.Module, weights: Iterable[str]) -> None:
    """Refuse an unknown execution, or "csr" if the layer of one of these weights cannot store only its links."""
    if execution not in ("masked", "csr", "auto"):
        raise ValueError(f"execution is {execution!r}; expected 'masked', 'csr' or 'auto'.")
    stay = [name for name in dict.fromkeys(weights) if execution == "csr" and not convertible(model, name)]
    if stay:
        raise ValueError(
            f"execution is 'csr' but {', '.join(stay)} cannot store only their links; expected weights of plain "
            "nn.Linear layers inside the model. A plain layer is an nn.Linear itself, not a subclass. It is not part "
            "of nn.MultiheadAttention, and it has no parametrisation, pruning, state-dict hook or forward method of "
            "its own. Choose execution='auto', which leaves these weights masked, or exclude them."
        )


def check_execution(
    execution: str, model: nn.Module, weights: Iterable[str], optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Refuse an unknown execution, or one that does not work with this model, optimizer or number of processes."""
    check_conversion(execution, model, weights)
    if execution == "masked":
        return
    if ranks.size > 1:
        raise ValueError(
            f"execution is {execution!r} in {ranks.size} processes. Several processes exchange gradients of dense "
            "weights, so choose execution='masked', or train in one process."
        )
    check_elementwise(optimizer)


def few(names: list[str]) -> str:
    """Up to three names; if there are more, the first name and the number of the others."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"
