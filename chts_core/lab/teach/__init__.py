"""For a class: assignments, grading, slides and plans."""
