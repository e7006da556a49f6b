"""Features: from samples to what a network sees."""
