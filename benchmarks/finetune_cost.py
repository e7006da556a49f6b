"""Calculate what fine-tuning a published network takes on one GPU: no GPU is needed, and none is measured.

    python -m benchmarks.finetune_cost

A network of each size runs once over a few seconds of noise in bf16, as in training. Counted are the operations of that
pass, and the bytes that its backward pass needs. From them follow, for each config of recipes/finetune:

    memory  16 bytes per weight that is trained (weight, gradient, two moments of AdamW), 4 per weight that is not,
            and twice the bytes of the activations of batch.max_batch_s: the factor allows for temporary tensors
    time    updates x seconds of audio in each x operations per second of audio, at a sustained 20 to 40 TFLOP/s.
            Backward takes two times the operations of forward; what is frozen has none; activation checkpointing adds
            one forward pass of the transformer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from asr import config as configs
from asr.config import ModelConfig, RunConfig
from asr.config.networks import SampleConvConfig, Wav2Vec2Shape
from asr.corpora.catalogue import find_config
from asr.model.wav2vec2.network import Wav2Vec2Network

SECONDS, RATE_HZ = 5, 16_000
#: TFLOP/s that a GPU of the 24 GB class keeps up in bf16
SUSTAINED = (20, 40)
GIB = 2**30
#: hours of speech and updates of each config
CONFIGS = {
    "wav2vec2-10min": ("base", 12_000),
    "wav2vec2-1h": ("base", 13_000),
    "wav2vec2": ("base", 20_000),
    "wav2vec2-100h": ("base", 50_000),
    "xls-r": ("XLS-R 300M", 20_000),
}


@dataclass(frozen=True)
class Cost:
    """What was counted in a pass over ``SECONDS`` of audio."""

    weights: int
    convolution_weights: int
    convolution_flop: float
    transformer_flop: float
    saved_bytes: int


def main() -> None:
    """Print a row for each config."""
    print("| config | network | weights | GPU memory | time |\n|---|---|---|---|---|")
    for name, (size, updates) in CONFIGS.items():
        cfg = configs.load(find_config(f"finetune/{name}"))
        cost = count(SHAPES[size], cfg)
        gib = memory_bytes(cost, cfg) / GIB
        slow, fast = (hours(cost, cfg, updates) / rate for rate in SUSTAINED)
        print(f"| `{name}` | {size} | {cost.weights / 1e6:.0f} M | {gib:.0f} GB | {fast:.0f} to {slow:.0f} hours |")


def memory_bytes(cost: Cost, cfg: RunConfig) -> float:
    """Return the bytes that a training needs once the transformer is trained, too."""
    assert isinstance(cfg.batch.max_batch_s, float)
    trained = cost.weights - cost.convolution_weights
    activations = 2 * cost.saved_bytes * cfg.batch.max_batch_s / SECONDS
    return 16 * trained + 4 * cost.convolution_weights + activations


def hours(cost: Cost, cfg: RunConfig, updates: int) -> float:
    """Return the hours that a training takes at 1 TFLOP/s."""
    assert isinstance(cfg.batch.max_batch_s, float)
    audio_s = cfg.batch.max_batch_s * cfg.train.accumulate
    frozen = min(updates, max(step for step in cfg.train.freeze.values() if step is not None))
    passes = 4 if cfg.train.activation_checkpointing is True else 3
    head_alone = cost.convolution_flop + cost.transformer_flop
    whole = cost.convolution_flop + passes * cost.transformer_flop
    flop = (frozen * head_alone + (updates - frozen) * whole) * audio_s / SECONDS
    return flop / 1e12 / 3600


def count(shape: Wav2Vec2Shape, cfg: RunConfig) -> Cost:
    """Run a network once, as the config trains it, and count."""
    stage = cfg.model.wav2vec2.model_copy(update={"shape": shape, "layer_drop": 0.0})
    network = Wav2Vec2Network(ModelConfig(encoder="wav2vec2", wav2vec2=stage), 1, 32).train()
    network.set_checkpointing(cfg.train.activation_checkpointing is True)
    convolutions = network.body.feature_extractor.requires_grad_(False)
    waves_bt1, num_b = torch.randn(1, SECONDS * RATE_HZ, 1), torch.tensor([SECONDS * RATE_HZ])

    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # so that no other tensor gets its place
        return tensor

    kept: list[torch.Tensor] = []
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, depth=3) as flops,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        network(waves_bt1, num_b)
    by_module = {name: sum(values.values()) for name, values in flops.get_flop_counts().items()}
    total = flops.get_total_flops()
    convolution = next(value for name, value in by_module.items() if name.endswith("feature_extractor"))
    return Cost(
        weights=sum(p.numel() for p in network.parameters()),
        convolution_weights=sum(p.numel() for p in convolutions.parameters()),
        convolution_flop=convolution,
        transformer_flop=total - convolution,
        saved_bytes=sum(seen.values()),
    )


def _shape(*, large: bool) -> Wav2Vec2Shape:
    """Return the sizes of the published networks."""
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    return Wav2Vec2Shape(
        family="wav2vec2",
        convs=tuple(SampleConvConfig(channels=512, kernel=k, stride=s) for k, s in zip(kernels, strides, strict=True)),
        conv_bias=large,
        feat_extract_norm="layer" if large else "group",
        feat_proj_layer_norm=True,
        hidden_size=1024 if large else 768,
        num_hidden_layers=24 if large else 12,
        num_attention_heads=16 if large else 12,
        intermediate_size=4096 if large else 3072,
        do_stable_layer_norm=large,
        layer_norm_eps=1e-5,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        adapter_attn_dim=None,
        num_buckets=320,
        max_bucket_distance=800,
    )


SHAPES = {"base": _shape(large=False), "XLS-R 300M": _shape(large=True)}

if __name__ == "__main__":
    main()
