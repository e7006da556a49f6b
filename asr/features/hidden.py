"""What a layer of a published network gives as features; the network stays as it is.

Axes: n samples, t frames (steps of the published network), f bins (its values of a step).

Source: Baevski et al. 2020, "wav2vec 2.0"; Yang et al. 2021, "SUPERB", who train small networks on frozen ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asr.config import FeatureConfig
from asr.errors import CheckpointError, ConfigError
from asr.features.extractor import Floats, Longs, NormalizedExtractor, Statistics, check_keys
from asr.features.samples import NORMALIZE_EPS, standardized_wave
from asr.model.hf.body import load_body
from asr.model.hf.config import read_config
from asr.model.hf.folder import locate
from asr.model.hf.names import is_hf, parse
from asr.model.steps import unpadded_steps
from asr.model.wav2vec2.body import Wav2Vec2Body

_KEYS = {"hf", "hf_layer", "normalization"}


class HiddenExtractor(NormalizedExtractor):
    """Turns waves into the values of a layer of a published network.

    Its weights are no part of the model: they are read from their own folder when the first features are made. Their
    checksum is saved with the model, so that other weights are noticed.
    """

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        """Find the network, and read its config.

        Raises:
            ConfigError: the settings do not go with it.
            CheckpointError: there is no such network here.
            AsrError: it cannot be fetched.
        """
        super().__init__(cfg, sample_rate_hz)
        check_keys(cfg, _KEYS)
        if cfg.hf is None:
            raise ConfigError("features.kind: hf needs features.hf, the published network", key="features.hf")
        if not is_hf(cfg.hf):
            raise ConfigError(f"features.hf must be hf:FOLDER_OR_NAME, got {cfg.hf!r}", key="features.hf")
        self._name = parse(cfg.hf)
        try:
            self._folder = locate(self._name)
            self._config = read_config(self._folder, any_head=True)
        except CheckpointError as error:
            raise CheckpointError(f"features.hf: {error}") from error

        shape, rate_hz = self._config.shape, self._config.sample_rate_hz
        if shape is None:
            raise ConfigError(
                f"features.hf: {cfg.hf}: {self._config.why_other}; features can be those of a wav2vec 2.0, HuBERT or "
                "WavLM",
                key="features.hf",
            )
        if rate_hz != sample_rate_hz:
            raise ConfigError(
                f"features.hf: {cfg.hf} takes sound of {rate_hz} Hz, and audio.sample_rate_hz is {sample_rate_hz}: set "
                f"audio.sample_rate_hz={rate_hz} (and audio.resample=true for recordings of another rate)",
                key="audio.sample_rate_hz",
            )
        self.layer = cfg.hf_layer or shape.num_hidden_layers
        if self.layer > shape.num_hidden_layers:
            raise ConfigError(
                f"features.hf_layer is {self.layer}, and {cfg.hf} has {shape.num_hidden_layers} layers",
                key="features.hf_layer",
            )
        self._convs = [(conv.kernel, conv.stride) for conv in shape.convs]
        self.hop = math.prod(stride for _, stride in self._convs)
        self.add_statistics(shape.hidden_size)
        self.weights_sha256 = np.zeros(32, np.uint8)
        self.device = torch.device("cpu")
        self._body: Wav2Vec2Body | None = None
        self._loading = Lock()

    def use_device(self, device: object) -> None:
        """Compute on the device of the network from now on."""
        self.device = torch.device(str(device))
        if self._body is not None:
            self._body.to(self.device)

    def statistics(self) -> Statistics:
        """Return what is saved with the model: mean, deviation, and the checksum of the published network's weights."""
        return {**super().statistics(), "weights_sha256": self.weights_sha256}

    def set_statistics(self, statistics: Mapping[str, npt.NDArray[Any]]) -> None:
        super().set_statistics(statistics)
        self.weights_sha256 = np.array(statistics["weights_sha256"])

    def describe(self) -> str:
        """Describe the features in a few words, for people."""
        return f"{super().describe()}, from layer {self.layer} of {self._name}"

    def fingerprint(self) -> list[str]:
        """Return all that decides what comes out, as texts: of the network its weights, not its place."""
        self._loaded()
        settings = self.cfg.model_copy(update={"hf": str(self._config.shape), "hf_layer": self.layer})
        return [settings.model_dump_json(), str(self._config.normalize), *super().fingerprint()[1:]]

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        return unpadded_steps(self._convs, np.asarray(num_samples))

    @torch.no_grad()
    def raw(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute what the layer gives. Shapes: (n,) -> (t, f).

        Raises:
            CheckpointError: the weights are damaged, or not those of before.
        """
        body = self._loaded()
        if not int(self.num_frames(len(wave_n))):
            return np.zeros((0, self.num_bins), np.float32)
        if self._config.normalize:
            wave_n = standardized_wave(wave_n, NORMALIZE_EPS)
        waves_1n = torch.from_numpy(wave_n)[None].to(self.device)
        features_tf: Floats = body(waves_1n, torch.tensor([len(wave_n)]))[0][0].cpu().numpy()
        return features_tf

    def _loaded(self) -> Wav2Vec2Body:
        """Return the network, which is read the first time."""
        with self._loading:
            if self._body is None:
                body, digest = load_body(self._folder, self._config, self._name.language, self.layer)
                self._compare(np.array(list(digest), np.uint8))
                self._body = body.to(self.device)
            return self._body

    def _compare(self, checksum: npt.NDArray[np.uint8]) -> None:
        """Compare the checksum of the weights with the one that was saved, if there is one."""
        if self.weights_sha256.any() and not np.array_equal(self.weights_sha256, checksum):
            raise CheckpointError(
                "features.hf: its weights are not those that this model was trained on; get the same ones again, or "
                "train anew",
                self._folder,
            )
        self.weights_sha256 = checksum
