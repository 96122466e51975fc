"""The fast twins of what stands above: loops that Numba compiles, and answers from NumPy. Nothing defines a method."""
