"""Networks with a convolutional front-end, an encoder and one linear output; here what they share, and Deep Speech 2.

Axes: b batch, t frames, s steps, f bins, i inputs, h units, v vocabulary.

Source: Amodei et al. 2015, "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from asr.config import ModelConfig
from asr.model.conv import ConvFrontEnd, step_mask
from asr.model.cpu.dropout import Dropout
from asr.model.parts import conv_parts, recurrent_parts
from asr.model.recurrent import Chunks, Lookahead, RecurrentLayer, reversal
from asr.model.trainable import TrainableNetwork
from asr.runtime import to_device


class Network(TrainableNetwork):
    """Convolutions, an encoder and one linear output.

    A kind of network makes its layers in ``add_layers`` and runs them in ``encode``.
    """

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__(cfg, bins, vocabulary_size)
        self.front_end = ConvFrontEnd(cfg.conv, bins, cfg.relu_clip, cfg.norm)
        size = self.add_layers(self.front_end.output_size)
        self.dropout = Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def add_layers(self, inputs: int) -> int:
        """Build the encoder for this many inputs per step; return its output size."""
        raise NotImplementedError

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        """Run the encoder on the front-end's output. Shapes: (b, s, i), (b,) -> (b, s', h), (b,).

        The lengths are on the CPU.
        """
        raise NotImplementedError

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (part, shape, parameters) of each layer of the encoder, for ``describe``."""
        raise NotImplementedError

    def set_dropout(self, p: float) -> None:
        self.dropout.p = p

    @property
    def has_checkpointing(self) -> bool:
        return bool(self.cfg.conv)

    def set_checkpointing(self, on: bool) -> None:
        self.front_end.is_checkpointed = on

    def part_rows(self) -> Iterator[tuple[str, str, int]]:
        yield from conv_parts(self.cfg, self.bins)
        yield from self.layer_rows()

    def log_probs(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        x_bsi, num_steps_b = features_btf, num_frames_b
        if self.cfg.conv:
            x_bsi, num_steps_b = self.front_end(features_btf, num_frames_b)
        x_bsh, num_steps_b = self.encode(x_bsi, num_steps_b)
        logits_bsv = self.output(self.dropout(x_bsh))
        return logits_bsv.float().log_softmax(-1), num_steps_b


class DeepSpeech2(Network):
    """The paper's network, each of its choices a config field: recurrent layers, and a lookahead in one direction."""

    def add_layers(self, inputs: int) -> int:
        cfg = self.cfg
        assert cfg.encoder == "recurrent", "asr.model.build.build_network makes the network that a config asks for"
        self.layers = nn.ModuleList()
        for _ in range(cfg.layers):
            layer = RecurrentLayer(
                cfg.cell, inputs, cfg.hidden, bidirectional=cfg.bidirectional, merge=cfg.merge, norm=cfg.norm
            )
            self.layers.append(layer)
            inputs = layer.output_size
        # Without convolutions there is no faster network for use, which would see to that.
        self.is_alone_on_cpu = not cfg.conv
        self.lookahead = Lookahead(inputs, cfg.lookahead_steps) if cfg.lookahead_steps else None
        return inputs

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and self.chunk_steps:
            chunks = Chunks(num_steps_b, x_bsi.shape[1], self.chunk_steps)
            x_bsi = chunks.join(self._run_layers(chunks.cut(x_bsi), chunks.num_steps_c))
        else:
            x_bsi = self._run_layers(x_bsi, num_steps_b)
        if self.lookahead is not None:
            x_bsi = self.lookahead(x_bsi)
        return x_bsi, num_steps_b

    def _run_layers(self, x_bsi: Tensor, num_steps_b: Tensor) -> Tensor:
        num_on_device_b = to_device(num_steps_b, x_bsi.device)
        mask_bs = step_mask(num_on_device_b, x_bsi.shape[1])
        reversal_bs = reversal(num_on_device_b, x_bsi.shape[1])
        for i, layer in enumerate(self.layers):
            out_bsh = layer(self.dropout(x_bsi), mask_bs, reversal_bs)
            # From the second layer on input and output have one size. What is added is the input without dropout.
            x_bsi = x_bsi + out_bsh if self.cfg.residual and i else out_bsh
        return x_bsi

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        return recurrent_parts(self.cfg, self.bins)
