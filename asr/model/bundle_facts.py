"""What torchaudio's documentation and the papers say of its CTC bundles.

Source: Baevski et al. 2020, "wav2vec 2.0"; Hsu et al. 2021, "HuBERT"; Wang et al. 2021, "VoxPopuli".
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "torchaudio:"


@dataclass(frozen=True)
class BundleFacts:
    """The making of a bundle, and what it expects."""

    language: str
    corpus: str
    #: of audio with transcripts
    hours: float
    pretrained_on: str
    licence: str
    #: the profile that brings a reference to the letters that the model writes
    normalization: str
    #: about the longest utterances of its fine-tuning; longer audio is cut
    longest_s: float


def _librispeech(corpus: str, hours: float, pretrained_on: str) -> BundleFacts:
    return BundleFacts("English", corpus, hours, pretrained_on, "MIT", "librispeech", 24.0)


def _voxpopuli(language: str, hours: float) -> BundleFacts:
    # Segments end at 20 s (Wang et al. 2021, section 3).
    pretrained_on = "VoxPopuli, 10,000 hours of 23 languages"
    return BundleFacts(language, "VoxPopuli", hours, pretrained_on, "CC BY-NC 4.0", "lower-nopunct", 20.0)


_960H = "LibriSpeech, 960 hours"
_60KH = "Libri-Light, 60,000 hours"
_10M = ("Libri-Light train-10min", 0.167)
_100H = ("LibriSpeech train-clean-100", 100.0)
_ALL = ("LibriSpeech", 960.0)

BUNDLE_FACTS = {
    "WAV2VEC2_ASR_BASE_10M": _librispeech(*_10M, _960H),
    "WAV2VEC2_ASR_BASE_100H": _librispeech(*_100H, _960H),
    "WAV2VEC2_ASR_BASE_960H": _librispeech(*_ALL, _960H),
    "WAV2VEC2_ASR_LARGE_10M": _librispeech(*_10M, _960H),
    "WAV2VEC2_ASR_LARGE_100H": _librispeech(*_100H, _960H),
    "WAV2VEC2_ASR_LARGE_960H": _librispeech(*_ALL, _960H),
    "WAV2VEC2_ASR_LARGE_LV60K_10M": _librispeech(*_10M, _60KH),
    "WAV2VEC2_ASR_LARGE_LV60K_100H": _librispeech(*_100H, _60KH),
    "WAV2VEC2_ASR_LARGE_LV60K_960H": _librispeech(*_ALL, _60KH),
    "HUBERT_ASR_LARGE": _librispeech(*_ALL, _60KH),
    "HUBERT_ASR_XLARGE": _librispeech(*_ALL, _60KH),
    "VOXPOPULI_ASR_BASE_10K_DE": _voxpopuli("German", 282.0),
    "VOXPOPULI_ASR_BASE_10K_EN": _voxpopuli("English", 543.0),
    "VOXPOPULI_ASR_BASE_10K_ES": _voxpopuli("Spanish", 166.0),
    "VOXPOPULI_ASR_BASE_10K_FR": _voxpopuli("French", 211.0),
    "VOXPOPULI_ASR_BASE_10K_IT": _voxpopuli("Italian", 91.0),
}
