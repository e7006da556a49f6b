"""Networks in use that take their utterances padded to one batch: ours, and published ones.

Axes: b batch, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from asr.model.contract import Floats
from asr.runtime import autocast, to_device


class TorchNetwork(nn.Module):
    """A module of torch that says of itself what use needs to know of a network (``asr.model.contract``)."""

    #: of ``each``: fp32, bf16 or fp16
    precision = "fp32"

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def on_gpu(self) -> bool:
        """Return true if it computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def num_parameters(self) -> int:
        """Return the number of its weights."""
        return sum(p.numel() for p in self.parameters())

    def fingerprint(self) -> str:
        """Return a name for everything that its answers depend on: weights, precision, device."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.precision} {self.device.type}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


class PaddedNetwork(TorchNetwork):
    """A network that takes utterances padded to one batch."""

    #: on a CPU every utterance goes through alone, so that it gets the same bits in any batch
    is_alone_on_cpu = False

    @torch.inference_mode()
    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances as one padded batch. Shapes: b times (t, f) -> b times (s, v)."""
        device = self.device
        if self.is_alone_on_cpu and device.type == "cpu" and len(features) > 1:
            return [self.each([features_tf])[0] for features_tf in features]
        features_btf = pad_sequence([torch.from_numpy(features_tf) for features_tf in features], batch_first=True)
        num_frames_b = torch.tensor([len(features_tf) for features_tf in features])
        # A thread has a current CUDA device of its own, on which pinned memory, streams and kernels are made.
        there = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with there, autocast(self.precision, device):
            log_probs_bsv, num_steps_b = self(to_device(features_btf, device), num_frames_b)
            all_bsv = log_probs_bsv.float().cpu().numpy()
        return [all_bsv[i, :steps] for i, steps in enumerate(num_steps_b.tolist())]
