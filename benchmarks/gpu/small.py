"""What the checks train: made-up speech, small networks, and batches of noise.

Axes: b batch, t frames, f bins, u targets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asr.batch import Batch
from asr.config import ConvConfig, ModelConfig, RunConfig, override
from asr.model.build import build_network
from asr.model.network import Network
from benchmarks.gpu.findings import Setting
from benchmarks.gpu.speech import QUICK_SPLITS, SPLITS, made_up_speech


def speech_folder(setting: Setting) -> Path:
    """Return the data folder: the one given, or made-up speech."""
    if setting.data is not None:
        return setting.data
    folder = setting.folder("speech")
    if not (folder / "test.jsonl").is_file():
        made_up_speech(folder, QUICK_SPLITS if setting.quick else SPLITS)
    return folder


def small_config(setting: Setting, *settings: str) -> RunConfig:
    """Return the config that the checks train: it learns the made-up speech within a minute."""
    hidden, layers = (32, 1) if setting.quick else (128, 2)
    return override(
        RunConfig(),
        [
            "text.normalization=none",
            "features.num_mels=40",
            "model.conv=[{channels: 16, kernel_tf: [7, 7], stride_tf: [2, 2]}]",
            f"model.layers={layers}",
            f"model.hidden={hidden}",
            "batch.max_utterances=16",
            "optim.lr=0.004",
            f"train.device={setting.device}",
            f"train.threads={setting.threads}",
            *settings,
        ],
    )


def small_network(setting: Setting, bins: int, vocabulary: int, **changes: Any) -> Network:
    """Build a small network, with the same weights each time."""
    hidden, layers = (16, 2) if setting.quick else (128, 3)
    conv = (ConvConfig(channels=8, kernel_tf=(5, 5), stride_tf=(2, 2)),)
    values = {"conv": conv, "hidden": hidden, "layers": layers, "dropout": 0.0} | changes
    torch.manual_seed(1)
    return build_network(ModelConfig(**values), bins, vocabulary)


def some_batch(bins: int = 40, vocabulary: int = 29, utterances: int = 8, seconds: float = 3.0) -> Batch:
    """Make a batch of noise with random labels, from a quarter to all of the length."""
    random = torch.Generator().manual_seed(1)
    frames = round(100 * seconds)
    num_frames_b = torch.linspace(frames, frames // 4, utterances).long()
    features_btf = torch.randn(utterances, frames, bins, generator=random)
    features_btf[torch.arange(frames)[None, :] >= num_frames_b[:, None]] = 0
    num_targets_b = num_frames_b // 20
    targets_bu = torch.randint(1, vocabulary, (utterances, int(num_targets_b.max())), generator=random)
    ids = tuple(f"noise-{i}" for i in range(utterances))
    return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, ids, float(num_frames_b.sum()) / 100)
