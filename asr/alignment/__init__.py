"""Forced alignment: the best path of a given text, and the words that it leaves out."""
