"""What an assignment stands on: numbers of its own for each student, the same for whoever grades it."""

import hashlib
import os

import torch

GRADED = "CHTS_STUDENT"  # in a grader's kernels: who handed the notebook in


def generator_of(student: str, question: str) -> torch.Generator:
    """A generator that depends on the student and the question alone; two calls give the same numbers.

    While a notebook is graded, the student is who handed it in, whatever the notebook says.

    Args:
        student: an id; blanks around it and upper case do not matter.
        question: any text.

    Raises:
        ValueError: if there is no id.
    """
    named = student.strip().casefold()
    handed_in_by = os.environ.get(GRADED, named).strip().casefold()
    if not handed_in_by:
        raise ValueError('there is no id yet; write yours between the quotes of student = "" and run that cell.')
    if named != handed_in_by:
        print(f"This notebook names student {student!r}, but {handed_in_by!r} handed it in: their numbers are used.")
    digest = hashlib.sha256(f"{handed_in_by}\n{question}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
