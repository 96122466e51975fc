"""The state that an optimizer keeps for each element of a weight, whatever the optimizer calls it."""

import copy
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def check_elementwise(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that does not treat every element of a weight separately.

    Such an optimizer needs more than the vector of the links' weights.

    To find out, the function takes some steps with a copy of the optimizer, on small matrices and on vectors with the
    same values. Muon and Shampoo need matrices. Adafactor and LARS treat matrices and vectors differently. LBFGS keeps
    one state for all parameters together. If the steps on the matrices fail, the function accepts the optimizer.

    Raises:
        ValueError: for such an optimizer. The message contains the optimizer's name.
    """
    if type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return
    try:
        by_matrix = _trial(optimizer, flat=False)
    except Exception:  # the optimizer needs something that this trial does not provide
        return
    try:
        by_vector = _trial(optimizer, flat=True)
        same = by_matrix is not None and by_vector is not None and torch.allclose(by_matrix, by_vector, 1e-3, 1e-6)
    except Exception:  # the optimizer does not work with vectors
        same = False
    if not same:
        raise ValueError(
            f"{type(optimizer).__name__} does not treat every element of a weight separately, so it cannot train "
            "layers that store only their links. Choose execution='masked', or an optimizer such as AdamW or SGD."
        )


def _trial(optimizer: torch.optim.Optimizer, flat: bool) -> Tensor | None:
    """Train two matrices, or vectors with the same values, with a copy of an optimizer.

    The result is None if the optimizer has one state for both matrices.
    """
    sizes = [(4, 6), (3, 5)]
    first = optimizer.param_groups[0]["params"][0]
    device = first.device
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator).to(device, first.dtype) for size in sizes]
    trial = [nn.Parameter(tensor.flatten() if flat else tensor) for tensor in tensors]
    stands_in = {id(held): trial[0] for group in optimizer.param_groups for held in group["params"]}
    left_out = {"state", "param_groups", "step"}  # a scheduler has set `step` to a method of the original
    own = {key: value for key, value in vars(optimizer).items() if key not in left_out and "hook" not in key}
    hooks = {key: type(value)() for key, value in vars(optimizer).items() if "hook" in key and isinstance(value, dict)}
    copied = type(optimizer).__new__(type(optimizer))
    vars(copied).update(copy.deepcopy(own, memo=dict(stands_in)), **hooks)
    for key, value in vars(copied).items():
        if isinstance(value, list) and any(element is trial[0] for element in value):
            vars(copied)[key] = list(trial)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    if "lr" in group:  # a warm-up may start from 0
        group["lr"] = torch.full_like(group["lr"], 0.01) if isinstance(group["lr"], Tensor) else 0.01
    copied.state = defaultdict(dict)
    copied.param_groups = [{**group, "params": trial}]

    def closure() -> float:
        for parameter in trial:
            parameter.grad = 2 * (parameter.detach() - 0.5)
        return sum(float((parameter.detach() - 0.5).square().sum()) for parameter in trial)

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for _ in range(12):
            closure()
            copied.step(closure)
    spans = sum(tensor.numel() for tensor in tensors)
    for state in copied.state.values():
        if any(isinstance(value, Tensor) and value.shape == (spans,) for value in state.values()):
            return None
    return torch.cat([parameter.detach().flatten() for parameter in trial])


def first_value(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, key: str) -> float:
    """The initial value of an optimizer's state for each element of a parameter; zero for most optimizers."""
    for kind, settings in _FIRST_VALUES.items():
        if isinstance(optimizer, kind) and key in settings:
            for group in optimizer.param_groups:
                if any(parameter is held for held in group["params"]):
                    return float(group[settings[key]])
    return 0.0


# For each type of optimizer: a state, and the setting of the parameter group that gives the state's first value.
_FIRST_VALUES: Mapping[type, Mapping[str, str]] = {
    torch.optim.Adagrad: {"sum": "initial_accumulator_value"},
    torch.optim.Rprop: {"step_size": "lr"},
}


def check_moments(optimizer: torch.optim.Optimizer, name: str, parameter: nn.Parameter) -> None:
    """Refuse an optimizer's state if chts does not know how the state's dtype stores a zero.

    Raises:
        TypeError: if a state is not floating-point. The message contains the names of the optimizer and the state.
    """
    for key, tensor in moments(optimizer, parameter):
        if not tensor.is_floating_point():
            raise TypeError(
                f"the optimizer {type(optimizer).__name__} keeps {key!r} of {name} as {tensor.dtype}; expected "
                "floating-point numbers. The state of a new link must be zero, and chts does not know how this type "
                "stores a zero. Use the floating-point version of the optimizer."
            )


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
    """The state that an optimizer keeps for each element of a parameter, whatever the optimizer calls it."""
    state: Mapping[str, object] = optimizer.state.get(parameter, {})
    return [
        (key, value) for key, value in state.items() if isinstance(value, Tensor) and value.shape == parameter.shape
    ]
