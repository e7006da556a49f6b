"""The weights of published FastConformers in our network. The names are those of Hugging Face's ``ParakeetForCTC``.

Axes: v tokens of ours, o outputs of the file, h units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asr.config import ModelConfig
from asr.errors import CheckpointError
from asr.features.parakeet import ParakeetExtractor
from asr.model.build import build_network
from asr.model.model_files import check_alike
from asr.model.steps import steps_of
from asr.model.tensor_files import fill, planned
from asr.model.trainable import TrainableNetwork

HEAD = "ctc_head."
#: the head of our networks
_OUTPUT = "output."
#: counts batches of training; not needed, and not in every file
_COUNTER = ".num_batches_tracked"
#: types that are float32 in use
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class SampleSteps:
    """Count the steps of a network for numbers of samples."""

    extractor: ParakeetExtractor
    cfg: ModelConfig

    @property
    def stride(self) -> int:
        """Samples per step."""
        return self.extractor.hop * math.prod(self.cfg.time_strides)

    def __call__(self, num_samples_b: Tensor) -> Tensor:
        """Count the steps of waves. Shapes: (b,) -> (b,)."""
        return steps_of(self.cfg, torch.from_numpy(self.extractor.num_frames(num_samples_b.numpy())))


def plan_network(cfg: ModelConfig, bins: int, tokens: int) -> TrainableNetwork:
    """Build a network without memory for its weights."""
    return planned(lambda: build_network(cfg, bins, tokens))


def outputs_of(tensors: Mapping[str, Tensor], path: Path) -> int:
    """Count the outputs of the head, which its weights say.

    Raises:
        CheckpointError: there is no head.
    """
    head = tensors.get(f"{HEAD}weight")
    if head is None or head.ndim != 3 or len(head) < 2:
        shape = "none" if head is None else f"shape {list(head.shape)}"
        raise CheckpointError(f"expected a CTC head of shape (outputs, units, 1), got {shape}", path)
    return len(head)


def check_weights(network: TrainableNetwork, tensors: Mapping[str, Tensor], path: Path, config: str) -> None:
    """Compare names and shapes of a file's tensors, which may be without values, with a planned network.

    Args:
        config: the name of the file that asks for the network.

    Raises:
        CheckpointError: a tensor is missing, foreign, or of another shape or type.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and not name.endswith(_COUNTER):
            raise CheckpointError(f"tensor '{name}' has type {tensor.dtype}, expected a float", path)
    outputs, units = outputs_of(tensors, path), network.output.in_features
    expected = {
        name: torch.empty(tensor.shape, device="meta")
        for name, tensor in network.state_dict().items()
        if not name.startswith(_OUTPUT) and not name.endswith(_COUNTER)
    }
    expected[f"{HEAD}weight"] = torch.empty(outputs, units, 1, device="meta")
    expected[f"{HEAD}bias"] = torch.empty(outputs, device="meta")
    given = {name: torch.empty(t.shape, device="meta") for name, t in tensors.items() if not name.endswith(_COUNTER)}
    check_alike(given, expected, path, config)


def fill_network(network: TrainableNetwork, tensors: Mapping[str, Tensor], columns: Sequence[int]) -> None:
    """Give a planned network the tensors, which ``check_weights`` must have compared with it, as float32.

    Args:
        columns: the output of the file of each of our tokens, the blank first; other outputs are left out, and the
            probability that they have is shared by these.
    """
    own = {name: tensor.float() for name, tensor in tensors.items() if not name.startswith(HEAD)}
    own = {name: tensor for name, tensor in own.items() if not name.endswith(_COUNTER)}
    rows = torch.tensor(list(columns))
    own[f"{_OUTPUT}weight"] = tensors[f"{HEAD}weight"][rows, :, 0].float()
    own[f"{_OUTPUT}bias"] = tensors[f"{HEAD}bias"][rows].float()
    counters = [name for name in network.state_dict() if name.endswith(_COUNTER)]
    fill(network, own | {name: torch.tensor(0) for name in counters})
