"""wav2vec 2.0, HuBERT and WavLM from the Hugging Face hub under our contract.

Axes: b batch, t frames (samples here), s steps, h units, v tokens, o outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr.config.networks import Wav2Vec2Shape
from asr.model.hf.config import HfConfig
from asr.model.padded import PaddedNetwork
from asr.model.tensor_files import planned
from asr.model.wav2vec2.body import Wav2Vec2Body


class BodyAndHead(nn.Module):
    """Hold all that a file of the hub has weights for."""

    def __init__(self, shape: Wav2Vec2Shape, outputs: int) -> None:
        super().__init__()
        self.body = Wav2Vec2Body(shape)
        self.lm_head = nn.Linear(shape.hidden_size, outputs)


def plan(config: HfConfig, outputs: int) -> BodyAndHead:
    """Build a network of waves to logits without memory for its weights."""
    shape = config.shape
    assert shape is not None, "a network of another family has no plan"
    return planned(lambda: BodyAndHead(shape, outputs))


class HfNetwork(PaddedNetwork):
    """A network of the hub: its outputs in the order of our tokens, blank first."""

    is_alone_on_cpu = True
    cfg: HfConfig
    columns: Tensor
    blanks: Tensor

    def __init__(self, cfg: HfConfig, model: BodyAndHead, columns: Sequence[int], silent: Sequence[int] = ()) -> None:
        """Take a loaded network.

        Args:
            columns: the head's output of each of our ids, the blank's first.
            silent: outputs that write nothing; their probability is added to the blank's.
        """
        super().__init__()
        self.cfg = cfg
        self.body, self.lm_head = model.body, model.lm_head
        self.vocabulary_size = len(columns)
        self.register_buffer("columns", torch.tensor(list(columns)), persistent=False)
        self.register_buffer("blanks", torch.tensor([columns[0], *silent]), persistent=False)
        # The norm of this convolution's weights is the same every time.
        parametrize.remove_parametrizations(self.body.encoder.pos_conv_embed.conv, "weight")

    @property
    def stride(self) -> int:
        """Frames per step."""
        return self.body.stride

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the output steps of utterances. Shapes: (b,) -> (b,)."""
        return self.body.num_steps(num_frames_b)

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and the number of valid steps. Shapes: (b, t, 1), (b,) -> (b, s, v), (b,)."""
        values_bsh, num_steps_b = self.body(features_btf[:, :, 0], num_frames_b)
        return self.answers(values_bsh), num_steps_b

    def answers(self, values_bsh: Tensor) -> Tensor:
        """Return the log-probabilities for what the body gave. Shapes: (b, s, h) -> (b, s, v)."""
        log_probs_bso = self.lm_head(values_bsh).float().log_softmax(-1)
        return in_our_order(log_probs_bso, self.columns, self.blanks)


def in_our_order(log_probs_bso: Tensor, columns: Tensor, blanks: Tensor) -> Tensor:
    """Bring log-probabilities of the head into the order of our tokens, with those of ``blanks`` as one.

    Shapes: (b, s, o) -> (b, s, v).
    """
    log_probs_bsv = log_probs_bso[:, :, columns]
    if len(blanks) > 1:
        log_probs_bsv[:, :, 0] = log_probs_bso[:, :, blanks].logsumexp(-1)
    return log_probs_bsv
