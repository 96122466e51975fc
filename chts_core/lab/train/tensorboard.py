"""Logs for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path


class Log:
    """Writes scalars, if a folder is given.

    Raises:
        ValueError: if it is, and TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    f"log_to is {folder}, but TensorBoard is not installed; `pip install tensorboard`, or leave it out."
                ) from error
            self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, by name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write all that is still to be written."""
        if self._writer is not None:
            self._writer.close()
