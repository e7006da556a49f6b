"""What a layer of a published network gives as features; the network stays as it is.

Axes: b batch, n samples, t frames (steps of the published network), f bins (its values of a step).

Source: Baevski et al. 2020, "wav2vec 2.0"; Yang et al. 2021, "SUPERB", who train small networks on frozen ones.
"""

from __future__ import annotations

import math
from threading import Lock

import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import CheckpointError, ConfigError
from asr.features.extractor import NormalizedExtractor, check_keys
from asr.features.samples import NORMALIZE_EPS, as_frames
from asr.model.hf.body import load_body
from asr.model.hf.config import read_config
from asr.model.hf.folder import locate
from asr.model.hf.names import is_hf, parse
from asr.model.trainable import unpadded_steps
from asr.model.wav2vec2.body import Wav2Vec2Body

_KEYS = {"hf", "hf_layer", "normalization"}


class HiddenExtractor(NormalizedExtractor):
    """Turns waves into the values of a layer of a published network.

    Its weights are no part of the model: they are read from their own folder when the first features are made. Their
    checksum is saved with the model, so that other weights are noticed.
    """

    weights_sha256: Tensor

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
        self.register_buffer("weights_sha256", torch.zeros(32, dtype=torch.uint8))
        #: in a list, so that it is no part of this module: it is neither saved nor moved with it
        self._bodies: list[Wav2Vec2Body] = []
        self._loading = Lock()

    def use_device(self, device: torch.device | str) -> None:
        """Compute on the device of the network from now on."""
        self.to(device)
        for body in self._bodies:
            body.to(device)

    def describe(self) -> str:
        """Describe the features in a few words, for people."""
        return f"{super().describe()}, from layer {self.layer} of {self._name}"

    def fingerprint(self) -> list[str]:
        """Return all that decides what comes out, as texts: of the network its weights, not its place."""
        self._body()
        settings = self.cfg.model_copy(update={"hf": str(self._config.shape), "hf_layer": self.layer})
        return [settings.model_dump_json(), str(self._config.normalize), *super().fingerprint()[1:]]

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        return unpadded_steps(self._convs, num_samples_b)

    def raw(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute what the layer gives; frames beyond an utterance are zero. Shapes: (b, n), (b,) -> (b, t, f), (b,).

        Raises:
            CheckpointError: the weights are damaged, or not those of before.
        """
        num_frames_b = self.num_frames(num_samples_b)
        features_btf = waves_bn.new_zeros(len(waves_bn), int(num_frames_b.max()), self.num_bins)
        body = self._body()
        eps = NORMALIZE_EPS if self._config.normalize else None
        # One after the other: no padding, and the same bits in any batch.
        for i, (samples, frames) in enumerate(zip(num_samples_b.tolist(), num_frames_b.tolist(), strict=True)):
            if frames:
                wave_1n = as_frames(waves_bn[i : i + 1, :samples], torch.tensor([samples]), eps)[:, :, 0]
                features_btf[i, :frames] = body(wave_1n, torch.tensor([samples]))[0][0]
        return features_btf, num_frames_b

    def _body(self) -> Wav2Vec2Body:
        """Return the network, which is read the first time."""
        with self._loading:
            if not self._bodies:
                body, digest = load_body(self._folder, self._config, self._name.language, self.layer)
                self._compare(torch.tensor(list(digest), dtype=torch.uint8))
                self._bodies.append(body.to(self.device))
            return self._bodies[0]

    def _compare(self, checksum: Tensor) -> None:
        """Compare the checksum of the weights with the one that was saved, if there is one."""
        if self.weights_sha256.any() and not torch.equal(self.weights_sha256.cpu(), checksum):
            raise CheckpointError(
                "features.hf: its weights are not those that this model was trained on; get the same ones again, or "
                "train anew",
                self._folder,
            )
        self.weights_sha256.copy_(checksum)
