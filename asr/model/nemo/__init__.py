"""Models of NVIDIA NeMo as they are published: one archive of a config, weights and a tokenizer."""
