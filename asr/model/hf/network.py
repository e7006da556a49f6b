"""wav2vec 2.0, HuBERT and WavLM from the Hugging Face hub under our contract, on torchaudio's modules.

Axes: b batch, n samples, s steps, h units, v tokens, o outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr.model.contract import Floats
from asr.model.hf.config import HfConfig, Shape
from asr.model.tensor_files import planned
from asr.model.waves import WaveNetwork, load_torchaudio


class Adapter(nn.Module):
    """What follows a layer in models with a part for each language (MMS).

    Source: Houlsby et al. 2019; ``transformers``, ``Wav2Vec2AttnAdapterLayer``.
    """

    def __init__(self, size: int, inside: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)  # its eps is not that of the config
        self.linear_1 = nn.Linear(size, inside)
        self.linear_2 = nn.Linear(inside, size)

    def forward(self, values_bsh: Tensor) -> Tensor:
        """Return what is to be added. Shapes: (b, s, h) -> (b, s, h)."""
        change_bsh: Tensor = self.linear_2(self.linear_1(self.norm(values_bsh)).relu())
        return change_bsh


def plan(config: HfConfig, outputs: int) -> nn.Module:
    """Build a network of waves to logits without memory for its weights.

    Raises:
        AsrError: torchaudio is not installed, or does not load.
    """
    shape = config.shape
    assert shape is not None, "a network of another family has no plan"
    return planned(lambda: _build(config, shape, outputs))


def _build(config: HfConfig, shape: Shape, outputs: int) -> nn.Module:
    models: Any = load_torchaudio(f"a {config.architecture}", extra="hf").models
    sizes: dict[str, Any] = {
        "extractor_mode": f"{shape.feat_extract_norm}_norm",
        "extractor_conv_layer_config": [(conv.channels, conv.kernel, conv.stride) for conv in shape.convs],
        "extractor_conv_bias": shape.conv_bias,
        "encoder_embed_dim": shape.hidden_size,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": shape.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": shape.num_conv_pos_embedding_groups,
        "encoder_num_layers": shape.num_hidden_layers,
        "encoder_num_heads": shape.num_attention_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": shape.intermediate_size,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": shape.do_stable_layer_norm,
        "encoder_layer_drop": 0.0,
        "aux_num_out": outputs,
    }
    network: Any
    if config.family == "wavlm":
        buckets = {"encoder_num_buckets": shape.num_buckets, "encoder_max_distance": shape.max_bucket_distance}
        network = models.wavlm_model(**sizes, **buckets)
    else:
        network = models.wav2vec2_model(**sizes)

    # What torchaudio has no settings for. The norms between convolutions keep an eps of their own.
    for module in network.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = shape.layer_norm_eps
    if not shape.feat_proj_layer_norm:
        network.encoder.feature_projection.layer_norm = nn.Identity()
    if shape.adapter_attn_dim is not None:
        for layer in network.encoder.transformer.layers:
            layer.adapter_layer = Adapter(shape.hidden_size, shape.adapter_attn_dim)
            layer.register_forward_hook(_adapt)
    built: nn.Module = network
    return built


def _adapt(layer: Any, _: Any, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Add the adapter's part to a layer's output."""
    values_bsh, position_bias = output
    return values_bsh + layer.adapter_layer(values_bsh), position_bias


class HfNetwork(WaveNetwork):
    """A network of the hub: its outputs in the order of our tokens, blank first.

    On a CPU every utterance goes through alone, so that it gets the same bits in any batch.
    """

    cfg: HfConfig
    columns: Tensor
    blanks: Tensor

    def __init__(self, cfg: HfConfig, model: nn.Module, columns: Sequence[int], silent: Sequence[int] = ()) -> None:
        """Take a loaded network.

        Args:
            columns: the head's output of each of our ids, the blank's first.
            silent: outputs that write nothing; their probability is added to the blank's.
        """
        super().__init__()
        assert cfg.shape is not None
        self.cfg = cfg
        self.model = model
        self.vocabulary_size = len(columns)
        self.layers = [(conv.kernel, conv.stride) for conv in cfg.shape.convs]
        self.register_buffer("columns", torch.tensor(list(columns)), persistent=False)
        self.register_buffer("blanks", torch.tensor([columns[0], *silent]), persistent=False)
        # The norm of this convolution's weights is the same every time.
        convolution: Any = model.encoder.transformer.pos_conv_embed.conv  # type: ignore[union-attr]
        parametrize.remove_parametrizations(convolution, "weight")

    def outputs(self, waves_bn: Tensor) -> Tensor:
        """Compute the log-probabilities of waves of one length. Shapes: (b, n) -> (b, s, v)."""
        logits_bso, _ = self.model(waves_bn)
        return in_our_order(logits_bso.float().log_softmax(-1), self.columns, self.blanks)

    @torch.inference_mode()
    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances. Shapes: b times (n, 1) -> b times (s, v)."""
        if next(self.parameters()).device.type != "cpu":
            return super().each(features)
        return [super(HfNetwork, self).each([features_nf])[0] for features_nf in features]


def in_our_order(log_probs_bso: Tensor, columns: Tensor, blanks: Tensor) -> Tensor:
    """Bring log-probabilities of the head into the order of our tokens, with those of ``blanks`` as one.

    Shapes: (b, s, o) -> (b, s, v).
    """
    log_probs_bsv = log_probs_bso[:, :, columns]
    if len(blanks) > 1:
        log_probs_bsv[:, :, 0] = log_probs_bso[:, :, blanks].logsumexp(-1)
    return log_probs_bsv
