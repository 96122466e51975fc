"""What a student reads in feedback: the points, and what each failed test says, but not how it tests."""

from typing import Any

from nbconvert.preprocessors import Preprocessor
from traitlets import Bool


class OnlyMessages(Preprocessor):
    """Leaves only the message of an error; its traceback would show the hidden tests around the line that failed."""

    enabled = Bool(True)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:  # noqa: ARG002
        """See nbconvert."""
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
        return cell, resources
