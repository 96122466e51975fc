"""Sparse training in a Hugging Face `Trainer`: `Trainer(..., callbacks=[SparsifierCallback("chts", 0.9)])`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from chts_core.engine.layers import unwrap
from chts_core.engine.sharding import full_tensor
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier

FILE_NAME = "sparsifier.pt"

# The Trainer's state has the folder of a checkpoint under this name. The Trainer saves and loads this state.
_PLACE = "chts"


class SparsifierCallback(TrainerCallback):
    """Attaches a :class:`chts_core.Sparsifier` when training begins, calls its `step()`, and saves and resumes it.

    Every checkpoint of the Trainer has the Sparsifier's state, in `sparsifier.pt`. `resume_from_checkpoint` continues
    from it with the same masks. If the Trainer has more steps than the run that saved it, for example more epochs, the
    schedule from there on covers all steps, but no layer gains links (:meth:`chts_core.Sparsifier.load_state_dict`). To
    keep the old schedule, pass the old number as `total_steps`.

    Training may begin again on the same model: in a second call of `train()`, and after each try of
    `auto_find_batch_size`. Then a new schedule starts from the current links. They are not drawn or rescaled again.

    With `load_best_model_at_end`, the run ends with the masks of the best checkpoint. The callback warns if the density
    is above the requested density, because the best or last step came before the end of the schedule.

    Each row of the Trainer's `log_history` has the `density`, the share of active neurons (`anp`) and the share of
    links that were ever active (`itop`).

    Args:
        method, sparsity, settings: as in the Sparsifier; by default, `total_steps` is the Trainer's number of steps.
        rescale: whether to call `rescale_weights()` before a fresh model is trained; do not use it for pretrained
            weights.
        checkpoint: the folder that training resumes from, if it was moved out of the Trainer's `output_dir`.

    Raises:
        ValueError: for an execution other than "masked".

    Attributes:
        sparsifier: the Sparsifier, once training has begun.
    """

    def __init__(
        self,
        method: str | Method = "chts",
        sparsity: float = 0.9,
        *,
        rescale: bool = False,
        checkpoint: str | Path | None = None,
        **settings: Any,
    ) -> None:
        if settings.get("execution", "masked") != "masked":
            raise ValueError(
                f"execution is {settings['execution']!r}; expected 'masked'. The Trainer loads its checkpoints before "
                "there are layers that store only their links."
            )
        self.sparsifier: Sparsifier | None = None
        self._settings = {"method": method, "sparsity": sparsity, **settings}
        self._rescale = rescale
        self._checkpoint = checkpoint

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach to the model and the optimizer, and load the state of the checkpoint that training resumes from."""
        model: nn.Module = kwargs["model"]
        # Accelerate's wrapper hides the type of the optimizer.
        optimizer: torch.optim.Optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        settings = {"total_steps": state.max_steps} | self._settings
        ours = self.sparsifier is not None and self.sparsifier.network.model is unwrap(model)
        begun = self.sparsifier if ours else None
        saved = torch.load(self._find(args, state), weights_only=True) if state.global_step > 0 else None
        # A new try after running out of memory begins from the start, but has the weights of the previous try.
        if begun is not None and not (saved is not None and _fit(model, saved["masks"])):
            anew = {"steps": state.global_step, "stopped": [], "postponed": []}
            history = [row for row in begun.history if row["step"] <= state.global_step]
            settings |= {"resume_from": begun.state_dict() | anew | {"history": history}, "reschedule": True}
        elif saved is not None:
            longer = saved["total_steps"] != settings["total_steps"]
            if longer and "total_steps" not in self._settings:
                warnings.warn(
                    f"training resumes from a run of {saved['total_steps']} steps but has {state.max_steps} steps. "
                    f"From step {state.global_step} on, the schedule covers {state.max_steps} steps, but no layer "
                    f"gains links. To keep the old schedule, pass total_steps={saved['total_steps']} to the callback.",
                    UserWarning,
                    stacklevel=2,
                )
            settings |= {"resume_from": saved, "reschedule": longer}
        self.sparsifier = Sparsifier(model, optimizer, **settings)
        if self._rescale and state.global_step == 0 and begun is None:
            self.sparsifier.rescale_weights()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the Sparsifier's `step()` after the optimizer's step, while the gradients still exist."""
        if self.sparsifier is not None:
            self.sparsifier.step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record where a checkpoint of this step would be."""
        _places(state)[_PLACE] = {"folder": str(_folder(args, state).resolve())}

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add `density`, `anp` and `itop` to the row that the Trainer has just written."""
        if self.sparsifier is not None and state.log_history:
            state.log_history[-1] |= {
                "density": self.sparsifier.density(),
                "anp": self.sparsifier.active_neurons(),
                "itop": self.sparsifier.itop_rate(),
            }

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the state next to the model and the optimizer."""
        if self.sparsifier is not None and state.is_world_process_zero:
            torch.save(self.sparsifier.state_dict(), _folder(args, state) / FILE_NAME)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load the masks of the best checkpoint if the Trainer has loaded its weights."""
        sparsifier = self.sparsifier
        if sparsifier is None:
            return
        which = "training ended"
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            path = Path(state.best_model_checkpoint) / FILE_NAME
            if not path.exists():
                warnings.warn(
                    f"the Trainer has loaded the weights of its best checkpoint, but {path} does not exist, so the "
                    "masks are from the last step. Save all checkpoints with this callback.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return
            saved = torch.load(path, weights_only=True)
            sparsifier.load_state_dict(saved, reschedule=saved["total_steps"] != sparsifier.timeline.total_steps)
            which = "the best checkpoint was saved"
        final = sum(sparsifier.progress.budget.links(sparsifier.timeline.total_steps).values())
        found = sum(int(mask.count_nonzero()) for mask in sparsifier.network.by_part(sparsifier.masks).values())
        if found > final:
            warnings.warn(
                f"{which} at step {sparsifier.steps}, before the final sparsity was reached: the density is "
                f"{sparsifier.density():.4g} but {sparsifier.density() * final / found:.4g} was requested. Train to "
                f"step {sparsifier.timeline.last_update}, and choose the best checkpoint from there on.",
                UserWarning,
                stacklevel=2,
            )

    def _find(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The file of the checkpoint that training resumes from. The Trainer itself does not provide it."""
        named = (self._checkpoint, args.resume_from_checkpoint, _places(state).get(_PLACE, {}).get("folder"))
        folders = [*(Path(folder) for folder in named if isinstance(folder, str | Path)), _folder(args, state)]
        for folder in folders:
            if (folder / FILE_NAME).exists():
                return folder / FILE_NAME
        raise FileNotFoundError(
            f"training resumes at step {state.global_step} but {folders[-1] / FILE_NAME} does not exist; resume from a "
            "checkpoint that was saved with this callback. If it was moved, pass its folder as "
            "SparsifierCallback(checkpoint=...) too."
        )


def _fit(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> bool:
    """Whether a model has no weight outside the masks that fit its layers."""
    weights = {name: full_tensor(parameter.detach()).cpu() for name, parameter in unwrap(model).named_parameters()}
    return not any(
        bool((weights[name] * ~mask).count_nonzero())
        for name, mask in masks.items()
        if name in weights and weights[name].shape == mask.shape
    )


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _places(state: TrainerState) -> dict[str, Any]:
    """The data of callbacks in the Trainer's state, which declares them as a list."""
    kept: Any = state.stateful_callbacks
    return cast(dict[str, Any], kept)
