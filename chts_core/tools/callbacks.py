"""Functions that the callbacks for Hugging Face's and Lightning's `Trainer` share."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chts_core.checks import warn
from chts_core.engine.kernels import compress, damage_of
from chts_core.engine.layers import unwrap
from chts_core.engine.linear import SparseLinear
from chts_core.engine.sharding import full_tensor
from chts_core.engine.watch import inner_optimizer
from chts_core.engine.weights import store_densely, unpack_bits
from chts_core.sparsifier import Sparsifier


def begin(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    given: Mapping[str, Any],
    total_steps: int,
    step: int,
    before: Sparsifier | None,
    saved: dict[str, Any] | None,
    *,
    rescale: bool,
) -> Sparsifier:
    """Attach a Sparsifier when training begins, begins again or resumes.

    Args:
        model, optimizer: the model and its optimizer, with the states from the checkpoint if training resumes.
        given: the user's settings, with or without `total_steps`.
        total_steps, step: the number of optimizer steps in the whole run, and the number of finished steps.
        before: the callback's Sparsifier from earlier training, or None if this is the first training.
        saved: the state of the Sparsifier in the checkpoint, if training resumes.
        rescale: whether to call `rescale_weights()` if this is a fresh model.
    """
    model = unwrap(model)
    settings = {"total_steps": total_steps, **given}
    begun = before if before is not None and before.network.model is model else None
    links = {} if saved is None else {name: _mask_of(mask) for name, mask in saved["masks"].items()}
    # If the memory runs out, the Trainer tries again from the first step, but with the weights of the last try.
    if begun is not None and not (saved is not None and _fit(model, links)):
        anew = {"steps": step, "stopped": [], "postponed": []}
        history = [row for row in begun.history if row["step"] <= step]
        settings |= {"resume_from": begun.state_dict() | anew | {"history": history}, "reschedule": True}
    elif saved is not None:
        longer = saved["total_steps"] != settings["total_steps"]
        if longer and "total_steps" not in given:
            warn(
                f"training resumes from a run of {saved['total_steps']} steps but has {total_steps} steps. From step "
                f"{step} on, the run follows the schedule of {total_steps} steps, but the number of links of a layer "
                f"never grows. To keep the old schedule, pass total_steps={saved['total_steps']} to the callback."
            )
        settings |= {"resume_from": saved, "reschedule": longer}
    if begun is not None or saved is not None:
        store_densely(model, inner_optimizer(optimizer), links)
    sparsifier = Sparsifier(model, optimizer, **settings)
    if rescale and step == 0 and begun is None:
        sparsifier.rescale_weights()
    return sparsifier


def follow(sparsifier: Sparsifier, saved: dict[str, Any]) -> None:
    """Load the state of a checkpoint, for example the best one, after its weights have been loaded."""
    sparsifier.load_state_dict(saved, reschedule=saved["total_steps"] != sparsifier.timeline.total_steps)


def warn_if_dense(sparsifier: Sparsifier, which: str) -> None:
    """Warn if there are more links than were requested for the end of the run.

    Args:
        which: the first words of the warning, for example "training ended".
    """
    final = sum(sparsifier.progress.budget.links(sparsifier.timeline.total_steps).values())
    found = sum(sparsifier.network.num_links().values())
    if found > final:
        warn(
            f"{which} at step {sparsifier.steps}, before the final sparsity was reached: the density is "
            f"{sparsifier.density():.4g} but {sparsifier.density() * final / found:.4g} was requested. Train to "
            f"step {sparsifier.timeline.last_update}, and choose the best checkpoint saved at that step or later."
        )


def measures(sparsifier: Sparsifier) -> dict[str, float]:
    """The density, the share of active neurons and the share of links that were ever active, for a log."""
    return {
        "density": sparsifier.density(),
        "anp": sparsifier.active_neurons(),
        "itop": sparsifier.itop_rate(),
    }


def fit_checkpoint(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A pre-hook of `load_state_dict`, which converts saved weights to the form in which each layer stores its weight.

    For a dense layer, it converts saved links and values to a dense weight. For a layer that stores only its links, it
    converts a saved dense weight to links and values. `save_pretrained` saves such a weight, with 0 for absent links.

    Raises:
        ValueError: if the saved links are incomplete or damaged, or do not fit the shape of the layer.
    """
    for path, layer in module.named_modules():
        names = [f"{prefix}{path}.{key}" for key in ("crow_indices", "col_indices", "values")]
        weight = state_dict.get(f"{prefix}{path}.weight")
        if isinstance(layer, SparseLinear) and weight is not None and bool((weight == 0).any()):
            links = compress(weight != 0)
            found = links.crow_indices, links.col_indices, weight[weight != 0]
            state_dict.update(zip(names, found, strict=True))
            del state_dict[f"{prefix}{path}.weight"]
            continue
        if type(layer) is not nn.Linear or not any(name in state_dict for name in names):
            continue
        missing = [name for name in names if name not in state_dict]
        if missing:
            raise ValueError(
                f"the checkpoint lacks {', '.join(missing)}; expected the links and values of a layer in one "
                "file. Save the model in one file."
            )
        crow, columns, values = (state_dict.pop(name) for name in names)
        damage = damage_of(crow, columns, values, (layer.out_features, layer.in_features))
        if damage:
            raise ValueError(
                f"the saved links of layer {prefix + path!r} {damage}. Load an undamaged checkpoint of a model with "
                "the same layers."
            )
        weight = values.new_zeros(layer.out_features, layer.in_features)
        weight[torch.repeat_interleave(crow.long().diff()), columns.long()] = values
        state_dict[f"{prefix}{path}.weight"] = weight


def _mask_of(saved: Tensor | Mapping[str, Any]) -> Tensor:
    """Return a mask from a saved state. Layers that store only their links save their masks as bits."""
    return saved if isinstance(saved, Tensor) else unpack_bits(saved["bits"].cpu(), tuple(saved["shape"]))


def _fit(model: nn.Module, masks: Mapping[str, Tensor]) -> bool:
    """Whether all nonzero weights of a model are inside the masks; masks whose shape does not fit are ignored."""
    for name, mask in masks.items():
        path, _, last = name.rpartition(".")
        weight = getattr(model.get_submodule(path), last)  # works for a layer that stores only its links, too
        if weight.shape == mask.shape and bool((full_tensor(weight.detach()).cpu() * ~mask.cpu()).count_nonzero()):
            return False
    return True
