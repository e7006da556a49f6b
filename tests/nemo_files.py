"""Small ``.nemo`` files as NeMo writes them, made of the stored FastConformer (make_parakeet.py)."""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.make_parakeet import ENCODER, FOLDER, PIECES

TOKENIZER = "0a1b_tokenizer.model"
#: Hugging Face's names -> NeMo's
_NAMES = {
    "encoder.subsampling.layers.": "encoder.pre_encode.conv.",
    "encoder.subsampling.linear.": "encoder.pre_encode.out.",
    "conv.norm.": "conv.batch_norm.",
    "q_proj": "linear_q",
    "relative_k_proj": "linear_pos",
    "k_proj": "linear_k",
    "v_proj": "linear_v",
    "o_proj": "linear_out",
    "self_attn.bias_u": "self_attn.pos_bias_u",
    "self_attn.bias_v": "self_attn.pos_bias_v",
    "ctc_head.": "decoder.decoder_layers.0.",
}


def config(**changes: Any) -> dict[str, Any]:
    """Return the content of ``model_config.yaml``; keys of changes are dotted with "__" ("encoder__n_heads")."""
    data: dict[str, Any] = {
        "sample_rate": 16000,
        "train_ds": {"manifest_filepath": "???", "sample_rate": 16000},
        "tokenizer": {"dir": "tokenizers", "type": "bpe", "model_path": f"nemo:{TOKENIZER}"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": ENCODER["num_mel_bins"],
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": ENCODER["num_mel_bins"],
            "feat_out": -1,
            "n_layers": ENCODER["num_hidden_layers"],
            "d_model": ENCODER["hidden_size"],
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": ENCODER["subsampling_conv_channels"],
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": ENCODER["num_attention_heads"],
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": ENCODER["conv_kernel_size"],
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
            "dropout": 0.1,
            "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": ENCODER["hidden_size"],
            "num_classes": len(PIECES),
            "vocabulary": list(PIECES),
        },
        "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
        "nemo_version": "1.23.0",
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        section = data
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    return data


def weights() -> dict[str, Tensor]:
    """Return the weights of the stored network by NeMo's names."""
    tensors = load_file(FOLDER / "hf" / "model.safetensors")
    return {nemo_name(name): tensor for name, tensor in tensors.items()}


#: what NeMo's configs of Conformer-CTC have, which came before FastConformer
STRIDING: dict[str, Any] = {
    "encoder__subsampling": "striding",
    "encoder__subsampling_factor": 4,
    "encoder__subsampling_conv_channels": -1,
    "encoder__conv_kernel_size": 31,
}


def striding_weights() -> dict[str, Tensor]:
    """Return weights for ``config(**STRIDING)``, by Hugging Face's names."""
    tensors = load_file(FOLDER / "hf" / "model.safetensors")
    tensors = {name: one for name, one in tensors.items() if "encoder.subsampling" not in name}
    width, generator = ENCODER["hidden_size"], torch.Generator().manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.subsampling.layers.0": (width, 1, 3, 3),
        "encoder.subsampling.layers.2": (width, width, 3, 3),
        "encoder.subsampling.linear": (width, width * ENCODER["num_mel_bins"] // 4),
    }
    for name, shape in shapes.items():
        tensors[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * (1.5 / math.prod(shape[1:])) ** 0.5
    for name in [name for name in tensors if name.endswith("depthwise_conv.weight")]:
        tensors[name] = 0.2 * torch.randn(width, 1, 31, generator=generator)
    return tensors


def nemo_name(name: str) -> str:
    """Return NeMo's name of a tensor of ``ParakeetForCTC``."""
    for theirs, nemos in _NAMES.items():
        name = re.sub(rf"\b{re.escape(theirs)}", nemos, name)
    return name


def tokenizer(pieces: tuple[str, ...] = PIECES, model_type: int = 2, marks: Mapping[str, int] | None = None) -> bytes:
    """Return a SentencePiece model with these pieces: BPE, their order its rank.

    Args:
        marks: kinds of pieces that write nothing: 2 unknown, 3 control, 5 unused, 6 a byte.
    """
    marks = {"<unk>": 2} if marks is None else marks
    rows = b""
    for i, piece in enumerate(pieces):
        text = piece.encode()
        score = torch.tensor([-float(i)]).numpy().tobytes()
        row = b"\x0a" + bytes([len(text)]) + text + b"\x15" + score
        if piece in marks:
            row += b"\x18" + bytes([marks[piece]])
        rows += b"\x0a" + bytes([len(row)]) + row
    # trainer_spec: model_type; normalizer_spec: the name "identity"
    rows += b"\x12\x02\x18" + bytes([model_type])
    rows += b"\x1a\x0a\x0a\x08identity"
    assert sentencepiece.SentencePieceProcessor(model_proto=rows).get_piece_size() == len(pieces)
    return rows


def saved(tensors: object, **options: Any) -> bytes:
    """Return what ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(tensors, file, **options)
    return file.getvalue()


def write_nemo(
    path: Path,
    data: object | None = None,
    tensors: object | None = None,
    files: Mapping[str, bytes | None] | None = None,
    mode: str = "w:",
) -> Path:
    """Write a ``.nemo`` file: that of the stored network, but for what is given.

    Args:
        files: content of further files or of usual ones; None leaves one out.
    """
    content: dict[str, bytes | None] = {
        "model_config.yaml": yaml.safe_dump(config() if data is None else data, allow_unicode=True).encode(),
        "model_weights.ckpt": saved(weights() if tensors is None else tensors),
        TOKENIZER: tokenizer(),
    }
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, one in (content | dict(files or {})).items():
            if one is not None:
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(one)
                tar.addfile(member, io.BytesIO(one))
    return path
