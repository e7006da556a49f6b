"""A network of torch, made ready for use: the fastest one for it that this machine runs."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import torch

from asr.model.conformer.fast import FastConformer
from asr.model.conformer.network import ConformerNetwork
from asr.model.contract import AcousticModel, AnyNetwork
from asr.model.hf.network import HfNetwork
from asr.model.network import DeepSpeech2
from asr.model.padded import PaddedNetwork, TorchNetwork
from asr.model.precision import check_precision, has_inference_network, inference_precision, not_here
from asr.model.wav2vec2.fast import FastNetwork
from asr.model.wav2vec2.network import Wav2Vec2Network
from asr.runtime import find_precision

if TYPE_CHECKING:
    from asr.model.cpu.inference import InferenceNetwork


def prepared(model: AcousticModel, precision: str = "auto") -> AcousticModel:
    """Return the same model, ready for use at a precision.

    On a CPU it gets an inference network, which answers several times as fast. Its answers are the same bits in any
    batch, in any order, on any number of threads. It keeps the weights of now. The model itself is returned if there is
    no inference network for it: for another network than the recurrent one (the Conformer and wav2vec 2.0 and its kin
    have one in bf16), or on a processor without the instructions.

    On a GPU the network is the same one, with the same weights, which computes at the precision.

    Args:
        precision: of products; sums, states and gates of an inference network are float32. ``auto``: bf16 where the
            hardware multiplies it, else float32 (or fp16, on a GPU that is fast in it).

    Raises:
        ConfigError: the precision is unknown, or this hardware cannot do it.
    """
    check_precision(precision)
    network = model.network.eval()
    if not isinstance(network, TorchNetwork):  # it is an inference network already
        return model
    if network.on_gpu or precision == "fp16":  # which a CPU refuses
        return at_precision(model, find_precision(precision, network.device))
    if isinstance(network, HfNetwork | Wav2Vec2Network | ConformerNetwork):
        return _with_network(model, _in_bf16(network)) if _takes_bf16(precision) else model
    if type(network) is not DeepSpeech2 or not has_inference_network(network.cfg):
        return model
    if not (found := inference_precision(precision)):
        return model
    return _with_network(model, inference_network(network, found))


def inference_network(network: DeepSpeech2, precision: str) -> InferenceNetwork:
    """Make the inference network of a network as its weights are now."""
    # Imported here, since it loads numba in 0.2 s, which training does not need.
    from asr.model.cpu.inference import InferenceNetwork

    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in network.eval().state_dict().items()}
    return InferenceNetwork(network.cfg, network.bins, network.vocabulary_size, arrays, precision)


def _takes_bf16(precision: str) -> bool:
    """Choose for a network that has an inference network in bf16 only; a ConfigError if the processor has no bf16."""
    has_bf16 = find_precision("auto", torch.device("cpu")) == "bf16"
    if precision == "bf16" and not has_bf16:
        raise not_here(precision)
    return has_bf16 and precision != "fp32"


def _in_bf16(network: HfNetwork | Wav2Vec2Network | ConformerNetwork) -> AnyNetwork:
    return FastConformer(network) if isinstance(network, ConformerNetwork) else FastNetwork(network)


def at_precision(model: AcousticModel, precision: str) -> AcousticModel:
    """Return the model with the same weights, computing at this precision if it is on a GPU; else the model itself."""
    if not model.on_gpu or not isinstance(model.network, PaddedNetwork):
        return model
    # The copy shares parameters and layers with the original, which must not stay in training while its layers do not.
    network = copy(model.network.eval())
    network.precision = precision
    return _with_network(model, network)


def _with_network(model: AcousticModel, network: AnyNetwork) -> AcousticModel:
    return AcousticModel(network, model.extractor, model.tokenizer, model.audio, model.text, model.training)
