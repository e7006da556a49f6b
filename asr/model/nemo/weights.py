"""The names that NeMo has for the weights of a Conformer, and those of ``asr.model.parakeet``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.features.parakeet import ParakeetExtractor
from asr.model.parakeet import HEAD

#: pattern -> name here, one after the other
_NAMES = (
    (r"^encoder\.pre_encode\.conv\.", "encoder.subsampling.layers."),
    (r"^encoder\.pre_encode\.out\.", "encoder.subsampling.linear."),
    (r"\.conv\.batch_norm\.", ".conv.norm."),
    (r"\.self_attn\.linear_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.self_attn\.linear_out\.", ".self_attn.o_proj."),
    (r"\.self_attn\.linear_pos\.", ".self_attn.relative_k_proj."),
    (r"\.self_attn\.pos_bias_([uv])$", r".self_attn.bias_\1"),
)
#: the code of positions, which some files hold; it follows from the config
_POSITIONS = "encoder.pos_enc."
_FILTERS, _WINDOW = "preprocessor.featurizer.fb", "preprocessor.featurizer.window"


def encoder_and_head(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the tensors of the encoder and the CTC head by our names; a transducer's are left out.

    >>> [*encoder_and_head({"encoder.layers.0.self_attn.linear_q.bias": torch.zeros(2), "joint.pred.bias": None}, "x")]
    ['encoder.layers.0.self_attn.q_proj.bias']
    """
    layer = f"{head}.decoder_layers.0."
    named = {f"{HEAD}{name.removeprefix(layer)}": t for name, t in tensors.items() if name.startswith(layer)}
    encoder = {name: t for name, t in tensors.items() if name.startswith("encoder.") and _POSITIONS not in name}
    return named | {our_name(name): t for name, t in encoder.items()}


def our_name(name: str) -> str:
    """Return our name of a tensor of the encoder."""
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name


def check_filters(tensors: Mapping[str, Tensor], extractor: ParakeetExtractor, path: Path) -> None:
    """Compare the mel filters and the window that the model was trained with, which most files hold, with ours.

    Raises:
        CheckpointError: they are others: the features would be, too.
    """
    wanted = {_FILTERS: extractor.mel_fm.T[None], _WINDOW: extractor.window_n}
    for name, values in wanted.items():
        ours, theirs = torch.from_numpy(values), tensors.get(name)
        if theirs is None:
            continue
        is_alike = theirs.shape == ours.shape and theirs.is_floating_point()
        if not is_alike or not torch.allclose(theirs.float(), ours, rtol=1e-2, atol=1e-5):
            raise CheckpointError(f"'{name}' is not what its config asks for: its features cannot be made here", path)
