"""The parts of a training run; ``asr.train`` puts them together."""
