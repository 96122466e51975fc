"""Material for a class: assignments, grading, slides and plans."""
