"""The beam search of ``asr.decode.beam``, compiled by numba."""
