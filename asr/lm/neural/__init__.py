"""Neural language models: network, text, training, folder, perplexity."""
