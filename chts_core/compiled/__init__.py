"""Fast twins of functions in the core: loops that Numba compiles, and NumPy code. Nothing here defines a method."""
