"""A wav2vec 2.0, HuBERT or WavLM of the hub without its head, up to one of its layers, for use as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from asr.model.hf.config import HfConfig
from asr.model.hf.weights import read_file_tensors
from asr.model.tensor_files import check_alike, planned
from asr.model.wav2vec2.body import Wav2Vec2Body

#: what stands for masked steps; it is for training
_MASK = "masked_spec_embed"


def load_body(folder: Path, config: HfConfig, language: str | None, layers: int) -> tuple[Wav2Vec2Body, bytes]:
    """Load the first layers of a network, on the CPU and in evaluation mode, and return the SHA-256 of their weights.

    The values behind the last layer are those behind the norm that may follow it.

    Args:
        language: the one whose adapter is read, of a model that has them (MMS).
        layers: number of layers, at most those that the network has.

    Raises:
        CheckpointError: the weights are missing, damaged, ask for code, or are not those of the network that
            ``config.json`` describes.
    """
    shape = config.shape
    assert shape is not None, "a network of another family has no plan"
    body = planned(lambda: Wav2Vec2Body(shape.model_copy(update={"num_hidden_layers": layers})))
    if layers < shape.num_hidden_layers and shape.do_stable_layer_norm:
        body.encoder.layer_norm = nn.Identity()  # type: ignore[assignment]

    # The body's tensors alone: what else there is belongs to layers above, or to heads of any task.
    found, path = read_file_tensors(folder, config, language)
    has_family = any(name.startswith(f"{shape.family}.") for name in found)  # none if saved without a head
    wanted = body.state_dict()
    del wanted[_MASK]
    names = {name: f"{shape.family}.{name}" if has_family else name for name in wanted}
    expected = {its: torch.empty(wanted[name].shape, device="meta") for name, its in names.items()}
    given = {its: torch.empty(found[its].shape, device="meta") for its in expected if its in found}
    check_alike(given, expected, path)

    # Copies, as what is read is mapped from a file that may change.
    tensors = {name: found[its].to(torch.float32, copy=True) for name, its in names.items()}
    # Of what is in the file, as what is made of it below may be rounded differently elsewhere.
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)

    body.load_state_dict(tensors | {_MASK: torch.zeros(shape.hidden_size)}, assign=True)
    # The norm of this convolution's weights is the same every time.
    parametrize.remove_parametrizations(body.encoder.pos_conv_embed.conv, "weight")
    return body.eval().requires_grad_(False), digest.digest()
