"""Training as a plain script does it: what ``asr bench train --compare`` measures beside our own.

Float32, torch's recurrent layers on padded batches through autograd, batches in random order, features made on the fly
in the training thread, torch's own dropout. The network has the same shapes; with ``model.norm`` its batch norms stand
before each recurrent layer and see padding, as is common.

Axes: b batch, t frames, s steps, f bins, i inputs, h units, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import Batch, extract, load_wave, pad
from asr.config import ModelConfig
from asr.ctc import consistency_loss
from asr.data import audio
from asr.data.tokenizer import BLANK_ID
from asr.errors import ConfigError
from asr.model.network import DeepSpeech2, Network
from asr.model.recurrent import RecurrentLayer
from asr.training.augment import Features, spec_augment
from asr.training.data import TrainingData


class PlainNetwork(nn.Module):
    """The shapes of ``asr.model.network.DeepSpeech2`` in torch's own layers.

    Raises:
        ConfigError: the config has another encoder, or parts that torch has no layer for.
    """

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__()
        if cfg.encoder != "recurrent" or cfg.lookahead_steps or cfg.residual:
            raise ConfigError("--compare knows recurrent networks without lookahead and residual connections only")
        self.cfg = cfg
        self.convs, self.conv_norms = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for layer in cfg.conv:
            padding = (layer.kernel_tf[0] // 2, layer.kernel_tf[1] // 2)
            self.convs.append(
                nn.Conv2d(channels, layer.channels, layer.kernel_tf, layer.stride_tf, padding, bias=not cfg.norm)
            )
            self.conv_norms.append(nn.BatchNorm2d(layer.channels) if cfg.norm else nn.Identity())
            channels, bins = layer.channels, -(-bins // layer.stride_tf[1])
        kind = {"gru": nn.GRU, "lstm": nn.LSTM, "tanh": nn.RNN}[cfg.cell]
        self.norms, self.layers = nn.ModuleList(), nn.ModuleList()
        size = channels * bins
        for _ in range(cfg.layers):
            self.norms.append(nn.BatchNorm1d(size) if cfg.norm else nn.Identity())
            self.layers.append(kind(size, cfg.hidden, batch_first=True, bidirectional=cfg.bidirectional))
            size = 2 * cfg.hidden if cfg.bidirectional and cfg.merge == "concat" else cfg.hidden
        self.dropout = nn.Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)

    def forward(self, features_btf: Tensor) -> Tensor:
        """Log-probabilities. Shapes: (b, t, f) -> (b, s, v)."""
        x_bcsf = features_btf[:, None]
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            x_bcsf = F.hardtanh(norm(conv(x_bcsf)), 0.0, self.cfg.relu_clip)
        x_bsi = x_bcsf.permute(0, 2, 3, 1).flatten(2)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x_bsi, _ = layer(norm(self.dropout(x_bsi).flatten(0, 1)).view_as(x_bsi))
            if self.cfg.bidirectional and self.cfg.merge == "sum":
                x_bsi = x_bsi[..., : self.cfg.hidden] + x_bsi[..., self.cfg.hidden :]
        return self.output(self.dropout(x_bsi)).log_softmax(-1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def copy_from(self, network: DeepSpeech2) -> None:
        """Takes over the weights of our network, which has no batch norm."""
        self.convs.load_state_dict(network.front_end.convs.state_dict())
        self.output.load_state_dict(network.output.state_dict())
        for layer, ours in zip(self.layers, network.layers, strict=True):
            assert isinstance(ours, RecurrentLayer)
            for suffix, way in zip(("", "_reverse"), ours.directions, strict=False):
                second = torch.zeros_like(way.bias_g) if way.bias_hidden_g is None else way.bias_hidden_g
                values = (way.w_input_gi, way.w_hidden_gh, way.bias_g, second)
                for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), values, strict=True):
                    getattr(layer, f"{name}_l0{suffix}").copy_(value)


class PlainTrainer:
    """The training loop of a plain script."""

    def __init__(self, data: TrainingData, ours: Network, device: torch.device) -> None:
        self.data, self.cfg, self.device, self.num_steps = data, data.cfg, device, ours.num_steps
        torch.manual_seed(self.cfg.train.seed)
        self.network = PlainNetwork(self.cfg.model, ours.bins, ours.vocabulary_size).to(device).train()
        optim = self.cfg.optim
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), optim.lr, optim.betas, weight_decay=optim.weight_decay
        )  # fmt: skip
        self.random = np.random.default_rng(self.cfg.train.seed)
        self._batches = self._forever()

    def step(self) -> tuple[float, float]:
        """One update of the weights; seconds of audio, and the loss in nats an utterance."""
        batch = next(self._batches)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.optim.clip_norm or 1e9)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return batch.duration_s, loss.item()

    def loss(self, batch: Batch) -> Tensor:
        num_steps_b = self.num_steps(batch.num_frames_b)
        views = [batch.features_btf] if batch.twin_btf is None else [batch.features_btf, batch.twin_btf]
        outputs = self.network(torch.cat(views).to(self.device)).chunk(len(views))
        losses = [
            F.ctc_loss(
                log_probs_bsv.transpose(0, 1), batch.targets_bu.to(self.device), num_steps_b, batch.num_targets_b,
                blank=BLANK_ID, reduction="none",
            )
            for log_probs_bsv in outputs
        ]  # fmt: skip
        loss = torch.stack(losses).mean()
        if len(views) == 2:
            apart_b = consistency_loss(outputs[0], outputs[1], num_steps_b.to(self.device))
            loss = loss + self.cfg.train.consistency * apart_b.mean()
        return loss

    def _forever(self) -> Iterator[Batch]:
        size = self.cfg.batch.max_utterances
        while True:
            order = self.random.permutation(self.data.kept)
            for first in range(0, len(order), size):
                yield self._load(order[first : first + size].tolist())

    def _load(self, indices: list[int]) -> Batch:
        cfg, data = self.cfg, self.data
        features: list[Features] = []
        twins: list[Features] = []
        rows, duration_s = [], 0.0
        for index in indices:
            utterance = data.manifest.utterances[index]
            speed = 1.0 if index in data.unhurried else float(self.random.choice(cfg.augment.speeds))
            wave_n = load_wave(data.manifest, utterance, cfg.audio.sample_rate_hz, cfg.audio.resample)
            if speed != 1.0:
                wave_n = audio.change_speed(wave_n, speed, cfg.audio.sample_rate_hz)
            features_tf = extract(data.extractor, wave_n)
            for views in (features, twins) if cfg.train.consistency else (features,):
                views.append(spec_augment(features_tf, cfg.augment.spec, cfg.features.hop_s, self.random))
            rows.append(torch.tensor(data.targets[index]))
            duration_s += utterance.duration_s / speed
        features_btf, num_frames_b = pad(features)
        targets_bu = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ids = tuple(data.manifest.utterances[index].id for index in indices)
        twin_btf = pad(twins)[0] if twins else None
        num_targets_b = torch.tensor([len(r) for r in rows])
        return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, ids, duration_s, twin_btf)
