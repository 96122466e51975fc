"""The basis of an assignment: each student gets different numbers, and a grader gets the student's numbers."""

import hashlib
import os

import torch

GRADED = "CHTS_STUDENT"  # set in a grader's kernels: the student who handed the notebook in


def generator_of(student: str, question: str) -> torch.Generator:
    """A generator that depends only on the student and the question; two calls give the same numbers.

    During grading, the student is the person who handed the notebook in, whatever name the notebook has.

    Args:
        student: an id; surrounding blanks and upper case do not matter.
        question: any text.

    Raises:
        ValueError: if there is no id.
    """
    named = student.strip().casefold()
    handed_in_by = os.environ.get(GRADED, named).strip().casefold()
    if not handed_in_by:
        raise ValueError('there is no id yet; write yours between the quotes of student = "" and run that cell.')
    if named != handed_in_by:
        print(f"This notebook names student {student!r}, but {handed_in_by!r} handed it in, so it uses their numbers.")
    digest = hashlib.sha256(f"{handed_in_by}\n{question}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
