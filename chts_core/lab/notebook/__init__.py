"""Run the notebooks of the stages, and the modules that they need."""
