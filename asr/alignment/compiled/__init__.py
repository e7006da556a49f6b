"""The loops of forced alignment, compiled by numba."""
