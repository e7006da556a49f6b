"""A wav2vec 2.0, HuBERT or WavLM of the hub without its head, up to one of its layers, for use as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr.model.hf.config import HfConfig
from asr.model.hf.weights import read_file_tensors
from asr.model.model_files import check_alike
from asr.model.tensor_files import planned
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

    found, path = read_file_tensors(folder, config, language)
    tensors = body_tensors(found, config, body.state_dict(), path)
    # Of what is in the file, as what is made of it below may be rounded differently elsewhere.
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if name == _MASK:
            continue
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)

    body.load_state_dict(tensors, assign=True)
    # The norm of this convolution's weights is the same every time.
    parametrize.remove_parametrizations(body.encoder.pos_conv_embed.conv, "weight")
    return body.eval().requires_grad_(False), digest.digest()


def body_tensors(
    found: Mapping[str, Tensor], config: HfConfig, wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return copies of a body's weights as float32, by our names; what a file has beyond them is left out.

    That belongs to layers above, or to heads of any task. A model that was saved without any head has no family in the
    names of its tensors.

    Args:
        found: what the file holds, by its names.
        wanted: the state of the body, which may be a planned one.

    Raises:
        CheckpointError: a tensor is missing, or of another shape than the config asks for.
    """
    assert config.shape is not None
    family = config.shape.family
    has_family = any(name.startswith(f"{family}.") for name in found)
    names = {name: f"{family}.{name}" if has_family else name for name in wanted}
    if names[_MASK] not in found:  # of a model that was trained without masks
        del names[_MASK]

    expected = {its: torch.empty(wanted[name].shape, device="meta") for name, its in names.items()}
    given = {its: torch.empty(found[its].shape, device="meta") for its in expected if its in found}
    check_alike(given, expected, path)
    # Copies, as what is read is mapped from a file that may change.
    tensors = {name: found[its].to(torch.float32, copy=True) for name, its in names.items()}
    return {_MASK: torch.zeros(config.shape.hidden_size)} | tensors
