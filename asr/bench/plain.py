"""Training as a plain script does it: what ``asr bench train --compare`` measures beside our own.

Float32, torch's recurrent layers on padded batches through autograd, batches in random order, features made on the fly
in the training thread, torch's own dropout. The network has the same shapes; with ``model.norm`` its batch norms stand
before each recurrent layer and see padding, as is common. A better script sorts its batches by length and casts to the
precision that the machine multiplies fastest (``torch.autocast``): it is measured as well.

Axes: b batch, t frames, s steps, f bins, i inputs, h units, v vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import Batch
from asr.config import ModelConfig
from asr.data.tokenizer import BLANK_ID
from asr.errors import ConfigError
from asr.model.trainable import TrainableNetwork
from asr.runtime import autocast
from asr.training.data import TrainingData
from asr.training.feature_loader import FeatureLoader
from asr.training.penalties import consistency_loss
from asr.training.plan import BatchPlan


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
        self.convs = nn.ModuleList()
        self.conv_norms = nn.ModuleList()
        channels = 1
        for layer in cfg.conv:
            padding = (layer.kernel_tf[0] // 2, layer.kernel_tf[1] // 2)
            conv = nn.Conv2d(channels, layer.channels, layer.kernel_tf, layer.stride_tf, padding, bias=not cfg.norm)
            self.convs.append(conv)
            self.conv_norms.append(nn.BatchNorm2d(layer.channels) if cfg.norm else nn.Identity())
            channels = layer.channels
            bins = -(-bins // layer.stride_tf[1])

        kind = {"gru": nn.GRU, "lstm": nn.LSTM, "tanh": nn.RNN}[cfg.cell]
        self.norms = nn.ModuleList()
        self.layers = nn.ModuleList()
        size = channels * bins
        for _ in range(cfg.layers):
            self.norms.append(nn.BatchNorm1d(size) if cfg.norm else nn.Identity())
            self.layers.append(kind(size, cfg.hidden, batch_first=True, bidirectional=cfg.bidirectional))
            size = 2 * cfg.hidden if cfg.bidirectional and cfg.merge == "concat" else cfg.hidden
        self.dropout = nn.Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)

    def forward(self, features_btf: Tensor) -> Tensor:
        """Return log-probabilities. Shapes: (b, t, f) -> (b, s, v)."""
        x_bcsf = features_btf[:, None]
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            x_bcsf = F.hardtanh(norm(conv(x_bcsf)), 0.0, self.cfg.relu_clip)
        x_bsi = x_bcsf.permute(0, 2, 3, 1).flatten(2)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x_bsi, _ = layer(norm(self.dropout(x_bsi).flatten(0, 1)).view_as(x_bsi))
            if self.cfg.bidirectional and self.cfg.merge == "sum":
                x_bsi = x_bsi[..., : self.cfg.hidden] + x_bsi[..., self.cfg.hidden :]
        return self.output(self.dropout(x_bsi)).log_softmax(-1)  # type: ignore[no-any-return]


class PlainTrainer:
    """The training loop of a plain script, on the training set of ours.

    Args:
        precision: of products, by ``torch.autocast``; ``fp32`` does without.
        by_length: train on our own batches, of utterances of like length.
    """

    def __init__(
        self,
        data: TrainingData,
        ours: TrainableNetwork,
        device: torch.device,
        *,
        precision: str = "fp32",
        by_length: bool = False,
    ) -> None:
        self.cfg = cfg = data.cfg
        self.device = device
        self.precision = precision
        self.by_length = by_length
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.num_steps = ours.num_steps
        # The same data without a cache: a plain script computes features in every epoch.
        self.data = copy.copy(data)
        uncached = cfg.batch.model_copy(update={"feature_cache_mib": 0, "feature_folder": None})
        self.data.loader = FeatureLoader(data.manifest, data.extractor, cfg.model_copy(update={"batch": uncached}))

        torch.manual_seed(cfg.train.seed)
        self.network = PlainNetwork(cfg.model, ours.bins, ours.vocabulary_size).to(device).train()
        optim = cfg.optim
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), optim.lr, optim.betas, weight_decay=optim.weight_decay
        )
        self._batches = self._forever()

    def step(self) -> tuple[float, float]:
        """Update the weights once; return the seconds of audio, and the loss in nats per utterance."""
        batch = next(self._batches)
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.optim.clip_norm or 1e9)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return batch.duration_s, loss.item()

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch in nats."""
        num_steps_b = self.num_steps(batch.num_frames_b)
        targets_bu = batch.targets_bu.to(self.device)
        views = [batch.features_btf] if batch.twin_btf is None else [batch.features_btf, batch.twin_btf]
        with autocast(self.precision, self.device):
            outputs = self.network(torch.cat(views).to(self.device)).float().chunk(len(views))

        lengths = (num_steps_b, batch.num_targets_b)
        losses = [
            F.ctc_loss(log_probs_bsv.transpose(0, 1), targets_bu, *lengths, blank=BLANK_ID, reduction="none")
            for log_probs_bsv in outputs
        ]
        loss = torch.stack(losses).mean()
        if len(views) == 2:
            apart_b = consistency_loss(outputs[0], outputs[1], num_steps_b)
            loss = loss + self.cfg.train.consistency * apart_b.mean()
        return loss

    def _forever(self) -> Iterator[Batch]:
        """Yield batches of all epochs."""
        epoch = 0
        while self.by_length:
            yield from map(self.data.load, self.data.plan(epoch))
            epoch += 1
        yield from self._in_random_order()

    def _in_random_order(self) -> Iterator[Batch]:
        """Yield batches of utterances in random order, whatever their lengths."""
        random = np.random.default_rng(self.cfg.train.seed)
        size = self.cfg.batch.max_utterances
        epoch = 0
        while True:
            order = random.permutation(self.data.kept).tolist()
            speeds = random.choice(self.cfg.augment.speeds, len(order)).tolist()
            items = [(i, 1.0 if i in self.data.unhurried else speed) for i, speed in zip(order, speeds, strict=True)]
            for first in range(0, len(items), size):
                yield self.data.load(BatchPlan.alone(items[first : first + size], epoch))
            epoch += 1
