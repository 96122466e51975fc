"""Feedback for a student: the points and the message of each failed test, without the test itself."""

from typing import Any

from nbconvert.preprocessors import Preprocessor
from traitlets import Bool


class OnlyMessages(Preprocessor):
    """Keep only the message of an error, because the traceback would show hidden tests around the failed line."""

    enabled = Bool(True)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:  # noqa: ARG002
        """See nbconvert."""
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
        return cell, resources
