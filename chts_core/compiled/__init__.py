"""Loops that Numba compiles: the fast twins of what stands above. Nothing here defines a method."""
