"""Downloads: what a host offers, how it is checked, and resumable transfers."""
