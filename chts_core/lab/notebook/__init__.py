"""Tools that run the notebooks of the stages, and modules that these notebooks import."""
