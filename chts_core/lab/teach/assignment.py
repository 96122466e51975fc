"""Random numbers for an assignment. They depend on the student, and grading uses the numbers of the same student."""

import hashlib
import os

import torch

GRADED = "CHTS_STUDENT"  # set in a grader's kernels to the id of the student who handed the notebook in


def generator_of(student: str, question: str) -> torch.Generator:
    """Return a random generator that depends only on the student and the question.

    The same student always gets the same numbers for the same question. During grading, `student` is ignored, and the
    person who handed the notebook in counts as the student.

    Args:
        student: the id of a student; blanks around it are ignored, and "Anna7" equals "anna7".
        question: any text that identifies the question.

    Raises:
        ValueError: if `student` is empty.
    """
    named = student.strip().casefold()
    handed_in_by = os.environ.get(GRADED, named).strip().casefold()
    if not handed_in_by:
        raise ValueError('there is no id yet; write yours between the quotes of student = "" and run that cell.')
    if named != handed_in_by:
        print(f"This notebook has the id {student!r}, but uses the numbers for {handed_in_by!r}, who handed it in.")
    digest = hashlib.sha256(f"{handed_in_by}\n{question}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
