"""Spectra, their logarithms and their normalisation, compiled by numba."""
