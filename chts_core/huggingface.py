"""Sparse training in a Hugging Face `Trainer`: `Trainer(..., callbacks=[SparsifierCallback("chts", 0.9)])`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier

FILE_NAME = "sparsifier.pt"


class SparsifierCallback(TrainerCallback):
    """Attaches a :class:`chts_core.Sparsifier` when training begins, steps it, saves and resumes it.

    Every checkpoint of the Trainer holds the Sparsifier's state, in `sparsifier.pt`; `resume_from_checkpoint` goes on
    from it to the same masks.

    Args:
        method, sparsity, settings: of the Sparsifier; `total_steps` is the Trainer's unless given.
        rescale: call `rescale_weights()` before a fresh model is trained; not for pretrained weights.

    Raises:
        ValueError: for an execution other than "masked".

    Attributes:
        sparsifier: once training has begun.
    """

    def __init__(
        self, method: str | Method = "chts", sparsity: float = 0.9, *, rescale: bool = False, **settings: Any
    ) -> None:
        if settings.get("execution", "masked") != "masked":
            raise ValueError(
                f"execution is {settings['execution']!r}; the Trainer loads its checkpoints before layers that store "
                "their links alone are there, so that only 'masked' works with it."
            )
        self.sparsifier: Sparsifier | None = None
        self._settings = {"method": method, "sparsity": sparsity, **settings}
        self._rescale = rescale

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach to the model and the optimizer, and load the state of the checkpoint that training resumes from."""
        model: nn.Module = kwargs["model"]
        # Accelerate's wrapper hides which optimizer it is.
        optimizer: torch.optim.Optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        settings = {"total_steps": state.max_steps} | self._settings
        if state.global_step > 0:
            path = self._checkpoint(args, state) / FILE_NAME
            if not path.exists():
                raise FileNotFoundError(
                    f"training resumes at step {state.global_step} but {path} does not exist; resume from a checkpoint "
                    "that was saved with this callback, in the output_dir that it was saved to."
                )
            settings["resume_from"] = torch.load(path, weights_only=True)
        self.sparsifier = Sparsifier(model, optimizer, **settings)
        if self._rescale and state.global_step == 0:
            self.sparsifier.rescale_weights()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step after the optimizer, while the gradients are still there."""
        if self.sparsifier is not None:
            self.sparsifier.step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save beside the model and the optimizer."""
        if self.sparsifier is not None and state.is_world_process_zero:
            torch.save(self.sparsifier.state_dict(), self._checkpoint(args, state) / FILE_NAME)

    @staticmethod
    def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
        return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
