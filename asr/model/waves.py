"""Networks of torchaudio's bundles, which take the samples themselves, and the extractor of samples.

Axes: b batch, n samples (the frames here), s steps, v vocabulary.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from asr.config import Stage
from asr.errors import AsrError
from asr.features.samples import describe_waves, standardized_wave
from asr.machine import package_version
from asr.model.contract import Floats, Longs
from asr.model.padded import PaddedNetwork
from asr.model.steps import unpadded_steps
from asr.model.trainable import count
from asr.runtime import to_device

#: The two pairs that are tested. Forced, since builds for a CPU and for CUDA do not fit each other either.
INSTALL_PAIR = "pip install --force-reinstall torch==2.14.1 torchaudio==2.11.1 (or torch==2.11.0 torchaudio==2.11.0)"


def load_torchaudio() -> ModuleType:
    """Import torchaudio, which only its own published models need.

    Raises:
        AsrError: it is not installed, or does not load with the installed torch; with the command that mends it.
    """
    try:
        import torchaudio.pipelines
    except ModuleNotFoundError as error:
        if error.name != "torchaudio":
            raise
        install = "pip install 'asr-ctc[bundles]'"
        raise AsrError(f"torchaudio:NAME needs torchaudio, which is not installed: {install}") from error
    # A library that does not fit raises OSError; a build for another version of CUDA RuntimeError.
    except (ImportError, OSError, RuntimeError) as error:
        pair = f"torchaudio {package_version('torchaudio')} does not load with torch {torch.__version__}"
        raise AsrError(f"{pair} ({_root_cause(error)}); install a pair that does: {INSTALL_PAIR}") from error
    module: ModuleType = torchaudio
    return module


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


class WaveConfig(Stage):
    """Settings of a ``WaveExtractor``."""

    #: bring each utterance to mean 0 and variance 1
    normalize: bool = False
    #: what is added to the variance; torchaudio's is that of layer norm
    eps: float = Field(1e-5, gt=0, le=1)


class WaveExtractor:
    """The samples themselves as features, one per frame."""

    hop = 1
    num_bins = 1

    def __init__(self, cfg: WaveConfig, sample_rate_hz: int) -> None:
        self.cfg = cfg
        self.sample_rate_hz = sample_rate_hz

    @property
    def hop_s(self) -> float:
        """Seconds per frame."""
        return 1 / self.sample_rate_hz

    def describe(self) -> str:
        """Describe the input in a few words, for people."""
        return describe_waves(is_normalized=self.cfg.normalize)

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        """Return nothing: it has none."""
        return {}

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        return np.asarray(num_samples)

    def __call__(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Return the samples, normalised if the network asks for it. Shapes: (n,) -> (n, 1)."""
        return (standardized_wave(wave_n, self.cfg.eps) if self.cfg.normalize else wave_n)[:, None]


class WaveNetwork(PaddedNetwork):
    """A published network under our contract: each utterance gets exactly what it gets alone.

    Padding would change the answers: the first normalisation of the base networks is over all samples, padding included
    (and the attention masks of the others round otherwise). So only utterances of one length go together.
    """

    cfg: Stage
    #: of the output
    vocabulary_size: int
    #: the convolutions over the samples, as (kernel, stride)
    layers: Sequence[tuple[int, int]]

    @abstractmethod
    def outputs(self, waves_bn: Tensor) -> Tensor:
        """Compute the log-probabilities of waves of one length. Shapes: (b, n) -> (b, s, v)."""

    @property
    def stride(self) -> int:
        """Frames per step."""
        return math.prod(stride for _, stride in self.layers)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the output steps of utterances. Shapes: (b,) -> (b,)."""
        return unpadded_steps(self.layers, num_frames_b)

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and the number of valid steps. Shapes: (b, n, 1), (b,) -> (b, s, v), (b,)."""
        waves_bn = features_btf[:, :, 0]
        num_steps_b = self.num_steps(num_frames_b)
        most = int(num_steps_b.max()) if len(num_steps_b) else 0
        log_probs_bsv = waves_bn.new_zeros(len(waves_bn), most, self.vocabulary_size, dtype=torch.float32)
        for length in sorted(set(num_frames_b.tolist())):
            rows = (num_frames_b == length).nonzero()[:, 0]
            steps = int(num_steps_b[rows[0]])
            if steps:
                rows = to_device(rows, waves_bn.device)
                log_probs_bsv[rows, :steps] = self.outputs(waves_bn[rows, :length])
        return log_probs_bsv, num_steps_b


def parts_of(network: Any) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of one of torchaudio's networks in order, for people; it may be a planned one."""
    rows = []
    for i, layer in enumerate(network.feature_extractor.conv_layers, start=1):
        shape = f"{layer.conv.out_channels} channels, kernel {layer.kernel_size}, stride {layer.stride}"
        rows.append((f"conv {i}", shape, count(layer)))
    encoder = network.encoder
    transformer = encoder.transformer
    convolution = transformer.pos_conv_embed
    width = convolution.embed_dim
    rows.append(("projection", f"{width} units", count(encoder.feature_projection)))

    position = count(convolution) + count(transformer.layer_norm)
    rows.append(("position", f"convolution of {convolution.kernel_size} steps", position))
    for i, layer in enumerate(transformer.layers, start=1):
        inside = layer.feed_forward.intermediate_dense.out_features
        shape = f"{width} units, {layer.attention.num_heads} heads, {inside} inside"
        rows.append((f"transformer {i}", shape, count(layer)))
    rows.append(("output", f"{network.aux.out_features} tokens, blank first", count(network.aux)))
    return rows
