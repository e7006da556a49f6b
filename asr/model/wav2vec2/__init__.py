"""wav2vec 2.0 and its kin, HuBERT and WavLM: networks that take samples; in use and in training."""
