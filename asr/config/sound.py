"""The keys of what a model hears and writes: the stages of a configuration that use needs, beside the network's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from asr.config.stage import Stage
from asr.data.text import AS_PREPARED, NORMALIZATIONS
from asr.errors import nearest


def _check_normalization(value: str) -> str:
    known = (AS_PREPARED, *NORMALIZATIONS)
    if value not in known:
        raise ValueError(f"must be one of {', '.join(known)}{nearest(value, known)}")
    return value


class AudioConfig(Stage):
    """The sample rate of the model."""

    sample_rate_hz: int = Field(16000, ge=1000, le=192000)
    #: false: audio at another rate is an error that names the file; true: it is resampled (soxr), and logged
    resample: bool = False


class TextConfig(Stage):
    """The normalisation and the tokens of transcripts."""

    #: applied to transcripts before they become tokens and before scoring; data: the profile that the data folder's
    #: prepared.json names, or none where there is none
    normalization: Annotated[str, AfterValidator(_check_normalization)] = AS_PREPARED
    #: data: the tokenizer that the data folder's prepared.json names, or is there without one, or characters; char:
    #: characters of the training texts; init: that of the model that train.init names; init+: the same, and behind its
    #: tokens the characters of the training texts that it lacks
    tokenizer: Literal["data", "char", "init", "init+"] = "data"


class FeatureConfig(Stage):
    """The features that the network sees."""

    #: wave: the samples; hf: what a layer of a published network gives; parakeet: log-mel as NeMo makes it
    kind: Literal["spectrogram", "log_mel", "mfcc", "wave", "hf", "parakeet"] = "log_mel"
    window_s: float = Field(0.025, gt=0, le=0.5)
    hop_s: float = Field(0.010, gt=0, le=0.5)
    #: FFT length in samples; null: the next power of two that holds the window (131,072: half a second at 192 kHz)
    fft_samples: int | None = Field(None, ge=16, le=131_072)
    window: Literal["hann", "hamming"] = "hann"
    #: mel filters (log_mel, mfcc)
    num_mels: int = Field(80, ge=4, le=512)
    low_hz: float = Field(20.0, ge=0)
    #: null: half the sample rate
    high_hz: float | None = Field(None, gt=0)
    #: cepstral coefficients (mfcc), the zeroth included
    num_ceps: int = Field(13, ge=2, le=128)
    #: y[n] = x[n] - c x[n-1]; 0.97 in the classic front-end, 0 switches it off
    preemphasis: float = Field(0.0, ge=0, lt=1)
    #: power below this is raised to it before the log; 1e-8 is about what rounding to int16 puts into one bin
    power_floor: float = Field(1e-8, gt=0, le=1)
    #: orders of time derivatives appended: 0, 1 (delta) or 2 (delta and delta-delta)
    deltas: int = Field(0, ge=0, le=2)
    #: frames stacked on each side (HTK-style context window); 0 for none
    context_frames: int = Field(0, ge=0, le=20)
    #: utterance: each bin to mean 0, variance 1 over the utterance; corpus: by statistics of the training set, stored
    #: with the model; none: as computed
    normalization: Literal["utterance", "corpus", "none"] = "utterance"
    #: standard deviation of the noise added to the samples in training, full scale = 1; 0 switches it off
    dither: float = Field(0.0, ge=0, le=0.1)
    #: hf: the published network, hf:FOLDER_OR_NAME, whose weights stay as they are
    hf: str | None = None
    #: hf: which layer's output, from 1; null: the last one's
    hf_layer: int | None = Field(None, ge=1, le=256)
