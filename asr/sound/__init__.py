"""Sound files of any kind, read one way: ``reader`` opens them, the other modules know their formats."""
