"""Decoder settings chosen by the error rate on a dev set."""
