"""Language models: back-off n-grams in flat arrays (``ngram``), and what estimates, reads and writes them."""
