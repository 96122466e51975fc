"""Logs for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path


class Log:
    """Writes numbers for TensorBoard if a folder is given, and nothing otherwise.

    Raises:
        ValueError: if a folder is given but TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    f"log_to is {folder}, but TensorBoard is not installed; run `pip install tensorboard`, or leave "
                    "out log_to."
                ) from error
            self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step, each under its name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write all pending values, and close the log."""
        if self._writer is not None:
            self._writer.close()
