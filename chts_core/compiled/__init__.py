"""Fast versions of functions of the core: loops that Numba compiles, and NumPy code. Nothing here defines a method."""
