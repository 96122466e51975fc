"""Fast versions of functions of the core: loops that Numba compiles, and NumPy code. No method is defined here."""
