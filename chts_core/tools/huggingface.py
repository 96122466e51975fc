"""Sparse training in a Hugging Face `Trainer`: `Trainer(..., callbacks=[SparsifierCallback("chts", 0.9)])`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from chts_core.checks import warn
from chts_core.engine.layers import unwrap
from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier
from chts_core.tools import callbacks

FILE_NAME = "sparsifier.pt"

# The key of a checkpoint's folder in the Trainer's state. The Trainer saves and loads this state.
_PLACE = "chts"


class SparsifierCallback(TrainerCallback):
    """Attaches a :class:`chts_core.Sparsifier` when training begins, calls its `step()`, and saves and restores it.

    Every checkpoint of the Trainer contains the Sparsifier's state, in `sparsifier.pt`. `resume_from_checkpoint`
    continues from this state with the same masks. If the Trainer trains for more steps than the run that saved the
    checkpoint, the new run follows the schedule for its own number of steps. Even then, the number of links of a layer
    never grows (:meth:`chts_core.Sparsifier.load_state_dict`). To keep the old schedule, pass the old number of steps
    as `total_steps`.

    Training may begin again on the same model: in a second call of `train()`, and in each new try of
    `auto_find_batch_size`. Then a new schedule starts from the current links. The links are not drawn again, and the
    weights are not rescaled again.

    With `load_best_model_at_end`, the run ends with the masks of the best checkpoint. The callback warns if, at the
    best or last step, the density is still above the requested density.

    Each row of the Trainer's `log_history` contains the `density`, the share of active neurons (`anp`) and the share of
    links that were ever active (`itop`).

    With `execution="csr"` or `"auto"`, a checkpoint of a Hugging Face model contains dense weights with zeros, because
    `save_pretrained` writes the checkpoint. For the layers that store only their links, a checkpoint of any other model
    contains the links and their values, but no dense weight. To be able to resume, build the Trainer with the model
    itself (not with `model_init`) and with this callback. After the best checkpoint is loaded, the optimizer has no
    state for the layers that store only their links. Before you save a state dict for programs without `chts_core`,
    call :func:`chts_core.engine.linear.to_dense`.

    Args:
        method, sparsity, settings: as in the Sparsifier; by default, `total_steps` is the Trainer's number of steps.
        rescale: whether to call `rescale_weights()` before a fresh model is trained; do not use it for pretrained
            weights.
        checkpoint: the folder that training resumes from, if it was moved out of the Trainer's `output_dir`.

    Raises:
        ValueError: if training resumes with layers that store only their links, but the Trainer has built or loaded
            the model without this callback, for example with `model_init`.

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
        self.sparsifier: Sparsifier | None = None
        self._settings = {"method": method, "sparsity": sparsity, **settings}
        self._rescale = rescale
        self._checkpoint = checkpoint
        self._known: nn.Module | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let a dense model load a checkpoint with layers that store only their links."""
        self._known = kwargs["model"]
        self._known.register_load_state_dict_pre_hook(callbacks.fit_checkpoint)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach a Sparsifier. If training resumes, load the Sparsifier's state from the checkpoint."""
        model: nn.Module = kwargs["model"]
        # Accelerate's wrapper hides the type of the optimizer.
        optimizer: torch.optim.Optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        saved = torch.load(self._find(args, state), weights_only=True) if state.global_step > 0 else None
        stored = saved is not None and any(isinstance(mask, Mapping) for mask in saved["masks"].values())
        seen = self._known, self.sparsifier and self.sparsifier.network.model
        if stored and not any(unwrap(model) is one for one in seen):
            raise ValueError(
                "training resumes with layers that store only their links, but the Trainer has built or loaded the "
                "model without this callback; expected Trainer(model, callbacks=[SparsifierCallback(...)]). Use this "
                "instead of model_init or add_callback()."
            )
        self.sparsifier = callbacks.begin(
            model,
            optimizer,
            self._settings,
            state.max_steps,
            state.global_step,
            self.sparsifier,
            saved,
            rescale=self._rescale,
        )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the Sparsifier's `step()` after the optimizer's step, while the gradients still exist."""
        if self.sparsifier is not None:
            self.sparsifier.step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record where a checkpoint of this step would be saved."""
        _places(state)[_PLACE] = {"folder": str(_folder(args, state).resolve())}

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add `density`, `anp` and `itop` to the row that the Trainer has just written."""
        if self.sparsifier is not None and state.log_history:
            state.log_history[-1] |= callbacks.measures(self.sparsifier)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the Sparsifier's state next to the model and the optimizer."""
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
                warn(
                    f"the Trainer has loaded the weights of its best checkpoint, but {path} does not exist, so the "
                    "masks are from the last step. Save all checkpoints with this callback.",
                    RuntimeWarning,
                )
                return
            callbacks.follow(sparsifier, torch.load(path, weights_only=True))
            for layer in sparsifier.network.stored().values():
                sparsifier.optimizer.state.pop(layer.values, None)  # this state belongs to the links of the last step
            which = "the best checkpoint was saved"
        callbacks.warn_if_dense(sparsifier, which)

    def _find(self, args: TrainingArguments, state: TrainerState) -> Path:
        """Find the Sparsifier's file in the checkpoint to resume from. The Trainer does not pass the path."""
        named = (self._checkpoint, args.resume_from_checkpoint, _places(state).get(_PLACE, {}).get("folder"))
        folders = [*(Path(folder) for folder in named if isinstance(folder, str | Path)), _folder(args, state)]
        for folder in folders:
            if (folder / FILE_NAME).exists():
                return folder / FILE_NAME
        raise FileNotFoundError(
            f"training resumes at step {state.global_step} but {folders[-1] / FILE_NAME} does not exist; resume from a "
            "checkpoint that was saved with this callback. If you have moved that checkpoint, pass its "
            "folder as SparsifierCallback(checkpoint=...)."
        )


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _places(state: TrainerState) -> dict[str, Any]:
    """The callbacks' data in the Trainer's state. `transformers` annotates it as a list, but it is a dictionary."""
    kept: Any = state.stateful_callbacks
    return cast(dict[str, Any], kept)
