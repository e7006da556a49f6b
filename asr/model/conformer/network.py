"""``model.encoder: conformer``: a Conformer with CTC behind its last layer, and behind others where so configured.

Its parts have the names of Hugging Face's Parakeet, but for the output.

Axes: b batch, t frames, f bins, s steps, r rows (valid steps), h units, p distances, v vocabulary.

Source: Rekesh et al. 2023, "Fast Conformer with linearly scalable attention for efficient speech recognition"; Nozaki &
Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based ASR by conditioning on intermediate
predictions".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from asr.config import ModelConfig
from asr.model.conformer.attention import positions
from asr.model.conformer.layers import ConformerLayer
from asr.model.conformer.rows import Rows
from asr.model.conformer.subsampling import Subsampling
from asr.model.contract import Floats
from asr.model.cpu.dropout import Dropout
from asr.model.recompute import computed_twice
from asr.model.trainable import TrainableNetwork, count
from asr.runtime import to_device


class Encoder(nn.Module):
    """The subsampling and the layers."""

    def __init__(self, cfg: ModelConfig, bins: int) -> None:
        super().__init__()
        self.subsampling = Subsampling(bins, cfg.conformer, cfg.hidden, len(cfg.time_strides))
        self.layers = nn.ModuleList(ConformerLayer(cfg.conformer, cfg.hidden, cfg.dropout) for _ in range(cfg.layers))


class ConformerNetwork(TrainableNetwork):
    """A Conformer; padding never changes a result.

    In training it returns, after the batch's rows of log-probabilities, those of each layer in ``inter_layers``.
    """

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__(cfg, bins, vocabulary_size)
        self.encoder = Encoder(cfg, bins)
        self.dropout = Dropout(cfg.dropout)
        self.conditioning = nn.Linear(vocabulary_size, cfg.hidden) if cfg.conformer.self_conditioning else None
        self.output = nn.Linear(cfg.hidden, vocabulary_size)
        self.is_checkpointed = False

    def set_dropout(self, p: float) -> None:
        """Set the share of values that is dropped from now on, in training."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.p = p

    def set_checkpointing(self, on: bool) -> None:
        """Set whether the backward pass computes each layer again, instead of its values being kept."""
        self.is_checkpointed = on

    def part_rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (part, shape, parameters) of each part but the output, in order, for people."""
        own, subsampling = self.cfg.conformer, self.encoder.subsampling
        channels = f"{own.subsampling_channels} channels, stride {self.stride}"
        channels += ", full convolutions" if own.subsampling_kind == "full" else ""
        yield "subsampling", channels, count(subsampling)
        shape = f"{self.cfg.hidden} units, {own.heads} heads, kernel {own.kernel}"
        for number, layer in enumerate(self.encoder.layers, start=1):
            ctc = ", CTC" if number in own.inter_layers else ""
            yield f"conformer {number}", shape + ctc, count(layer)
        if self.conditioning is not None:
            yield "conditioning", f"{self.vocabulary_size} tokens", count(self.conditioning)

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances. Shapes: b times (t, f) -> b times (s, v).

        On a CPU one after the other, so that each gets the same bits in any batch; on a GPU as one padded batch.
        """
        if next(self.parameters()).device.type != "cpu":
            return super().each(features)
        return [super(ConformerNetwork, self).each([features_tf])[0] for features_tf in features]

    def log_probs(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what ``forward`` returns, of at least one frame."""
        x_bsh, rows, num_steps_b = self._begun(features_btf, num_frames_b)
        scale = math.sqrt(self.cfg.hidden) if self.cfg.conformer.scale_input else 1.0
        # What runs through the layers stays float32 at every precision.
        x_rh = self.dropout(rows.taken(x_bsh).to(features_btf.dtype) * scale)
        positions_ph = positions(rows.steps, self.cfg.hidden, x_rh.device).to(x_rh.dtype)

        early: list[Tensor] = []
        for number, layer in enumerate(self.encoder.layers, start=1):
            x_rh = self._through(layer, number, x_rh, positions_ph, rows)
            if number in self.cfg.conformer.inter_layers and (self.training or self.conditioning is not None):
                log_probs_rv = self._predicted(x_rh)
                early.append(log_probs_rv)
                if self.conditioning is not None:
                    x_rh = x_rh + self.conditioning(log_probs_rv.exp())

        outputs = [self._predicted(x_rh), *(early if self.training else [])]
        return torch.cat([rows.padded(one_rv) for one_rv in outputs]), num_steps_b.repeat(len(outputs))

    def _begun(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Rows, Tensor]:
        """Return what the subsampling gives, its rows, and the steps of each utterance."""
        num_steps_b = self.num_steps(num_frames_b)
        x_bsh = self.encoder.subsampling(features_btf, num_frames_b)
        return x_bsh, Rows(num_steps_b, x_bsh.shape[1], x_bsh.device), num_steps_b

    def _predicted(self, x_rh: Tensor) -> Tensor:
        """Return log-probabilities. Shapes: (r, h) -> (r, v)."""
        logits_rv: Tensor = self.output(x_rh)
        return logits_rv.to(torch.promote_types(logits_rv.dtype, torch.float32)).log_softmax(-1)

    def _through(self, layer: nn.Module, number: int, x_rh: Tensor, positions_ph: Tensor, rows: Rows) -> Tensor:
        """Return what a layer, counted from 1, makes of rows; in training it may leave out utterances.

        Source: Huang et al. 2016, "Deep networks with stochastic depth", section 3. Utterances are drawn one by one, so
        that a layer always has gradients and statistics, in all processes of a run.
        """
        out_rh: Tensor
        if self.is_checkpointed and self.training:
            out_rh = computed_twice(layer, partial(layer, rows=rows), x_rh, positions_ph, draws=True)
        else:
            out_rh = layer(x_rh, positions_ph, rows)

        dropped = self.cfg.conformer.layer_drop * number / self.cfg.layers if self.training else 0.0
        if not dropped:
            return out_rh
        kept_b = (torch.rand(len(rows.num_steps_b)) >= dropped) / (1.0 - dropped)
        kept_r = to_device(kept_b.repeat_interleave(rows.num_steps_b), x_rh.device)
        return x_rh + kept_r[:, None] * (out_rh - x_rh)
