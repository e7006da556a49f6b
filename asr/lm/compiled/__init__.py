"""The loops of n-gram models, compiled by numba."""
