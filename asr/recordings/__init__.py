"""Recordings of any length and format: found, read as streams, cut at pauses, joined again."""
