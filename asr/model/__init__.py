"""The acoustic model: convolutions, a recurrent stack, a linear output; log-probabilities out."""

from asr.model.network import DeepSpeech2, describe

__all__ = ["DeepSpeech2", "describe"]
