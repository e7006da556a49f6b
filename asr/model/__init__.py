"""The acoustic model: convolutions, an encoder, a linear output; log-probabilities out."""
