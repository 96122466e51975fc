"""Sparse training in a Lightning `Trainer`: `Trainer(..., callbacks=[SparsifierCallback("chts", 0.9)])`.

The callback works with version 2 of the package `lightning` or `pytorch_lightning`.
"""

from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer

from chts_core.methods import Method
from chts_core.sparsifier import Sparsifier
from chts_core.tools import callbacks


class SparsifierCallback(Callback):  # type: ignore[misc]
    """Attaches a :class:`chts_core.Sparsifier` when training begins, calls its `step()`, and saves and restores it.

    Every checkpoint contains the Sparsifier's state. `fit(..., ckpt_path=...)` continues from this state with the same
    masks. If the Trainer trains for more steps than the run that saved the checkpoint, the new run follows the schedule
    for its own number of steps. Even then, the number of links of a layer never grows
    (:meth:`chts_core.Sparsifier.load_state_dict`). To keep the old schedule, pass the old number of steps as
    `total_steps`. A second `fit` of the same module starts a new schedule from the current links.

    With `ckpt_path="best"`, `validate` and `test` also load the masks of the best checkpoint. The callback warns if, at
    the best or last step, the density is still above the requested density.

    At the end of each epoch, the callback logs the `density`, the share of active neurons (`anp`) and the share of
    links that were ever active (`itop`).

    With `execution="csr"` or `"auto"`, layers may store only their links. For these layers, a checkpoint contains the
    links and their values, but no dense weight. A Trainer with this callback can load such a checkpoint into a new
    model, but `load_from_checkpoint` cannot. Before you save a model for programs without `chts_core`,
    call :func:`chts_core.engine.linear.to_dense`.

    Args:
        method, sparsity, settings: as in the Sparsifier; by default, `total_steps` is the Trainer's number of steps.
            The name of a layer begins with the name of an attribute of the module, as in "model.0.weight".
        rescale: whether to call `rescale_weights()` before a fresh model is trained; do not use it for pretrained
            weights.

    Raises:
        ValueError: if the module uses manual optimization, if neither the Trainer nor `total_steps` sets a last step,
            or if training resumes from a checkpoint that was saved without this callback. Training then does not begin.

    Attributes:
        sparsifier: the Sparsifier, once training has begun.
    """

    def __init__(
        self, method: str | Method = "chts", sparsity: float = 0.9, *, rescale: bool = False, **settings: Any
    ) -> None:
        self.sparsifier: Sparsifier | None = None
        self._settings = {"method": method, "sparsity": sparsity, **settings}
        self._rescale = rescale
        self._saved: dict[str, Any] | None = None
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the last checkpoint, and let a dense model load a checkpoint with layers that store only their
        links."""
        if stage == "fit" and not pl_module.automatic_optimization:
            raise ValueError(
                "automatic_optimization is False; expected True, because the callback calls the Sparsifier's step() "
                "after each optimizer step of the Trainer. Build a Sparsifier in your module instead, and call its "
                "step() after each step of the optimizer."
            )
        self._saved = None
        self._loads = pl_module.register_load_state_dict_pre_hook(callbacks.fit_checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo `setup`."""
        self._loads.remove()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the Sparsifier's state until training begins. Outside training, load this state immediately."""
        self._saved = checkpoint["callbacks"].get(self.state_key)
        sparsifier = self.sparsifier
        if (
            self._saved is not None
            and not trainer.training
            and sparsifier is not None
            and sparsifier.network.model is pl_module
        ):
            callbacks.follow(sparsifier, self._saved)
            callbacks.warn_if_dense(sparsifier, "this checkpoint was saved")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach a Sparsifier to the module and its optimizer, which have loaded the checkpoint if there is one."""
        begun = self.sparsifier is not None and self.sparsifier.network.model is pl_module
        if trainer.global_step > 0 and self._saved is None and not begun:
            raise ValueError(
                f"training resumes at step {trainer.global_step} but the checkpoint has no state of this callback; "
                "resume from a checkpoint that was saved with this callback."
            )
        total_steps = trainer.estimated_stepping_batches
        if "total_steps" not in self._settings and not 0 < total_steps < float("inf"):
            raise ValueError(
                "the Trainer has no last step, so the schedule has no end; pass max_steps to the Trainer, or "
                "total_steps to the callback."
            )
        self._seen = trainer.global_step
        self.sparsifier = callbacks.begin(
            pl_module,
            trainer.optimizers[0],
            self._settings,
            total_steps,
            trainer.global_step,
            self.sparsifier,
            self._saved,
            rescale=self._rescale,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call the Sparsifier's `step()` after each optimizer step, while the gradients still exist."""
        if self.sparsifier is not None and trainer.global_step > self._seen:
            self._seen = trainer.global_step
            self.sparsifier.step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the density, `anp` and `itop`."""
        if self.sparsifier is not None:
            pl_module.log_dict(callbacks.measures(self.sparsifier))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if training ended before the final sparsity was reached."""
        if self.sparsifier is not None:
            callbacks.warn_if_dense(self.sparsifier, "training ended")

    def state_dict(self) -> dict[str, Any]:
        """The Sparsifier's state, which the Trainer saves in its checkpoints."""
        return {} if self.sparsifier is None else self.sparsifier.state_dict()
