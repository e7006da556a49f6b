"""Build a new network of the kind that a config names."""

from __future__ import annotations

from asr.config import ModelConfig
from asr.model.conformer.network import ConformerNetwork
from asr.model.mlp import WindowMlp
from asr.model.network import DeepSpeech2
from asr.model.tdnn import TimeDelayNetwork
from asr.model.trainable import TrainableNetwork
from asr.model.wav2vec2.network import Wav2Vec2Network

_KINDS: dict[str, type[TrainableNetwork]] = {
    "recurrent": DeepSpeech2,
    "tdnn": TimeDelayNetwork,
    "mlp": WindowMlp,
    "conformer": ConformerNetwork,
    "wav2vec2": Wav2Vec2Network,
}


def build_network(cfg: ModelConfig, bins: int, vocabulary_size: int) -> TrainableNetwork:
    """Build a network of the kind that ``cfg.encoder`` names, with random weights drawn from torch's generator."""
    return _KINDS[cfg.encoder](cfg, bins, vocabulary_size)
