"""Read sound files of any kind in one way: ``reader`` opens them, the other modules know their formats."""
