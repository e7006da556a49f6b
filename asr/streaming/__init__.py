"""Live recognition: samples in as they come, text out while somebody speaks."""
