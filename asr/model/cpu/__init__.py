"""Code that exists for speed on CPU: fused layers, compiled loops and the inference network."""
