"""The weights of a recurrent network as arrays: names, shapes, counts and folded norms are those of the network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from asr.config import ConvConfig, ModelConfig
from asr.model.build import build_network
from asr.model.folded import count_parameters, fold_convs, fold_directions, is_trained, shapes
from asr.model.network import DeepSpeech2
from asr.model.parts import parts_of
from asr.model.trainable import describe

BINS, TOKENS = 13, 5
CONVS = ((), (ConvConfig(channels=3, kernel_tf=(5, 3)), ConvConfig(channels=4, kernel_tf=(3, 5), stride_tf=(1, 2))))
WAYS = ({"bidirectional": False, "lookahead_steps": 2}, {"merge": "sum"}, {"merge": "concat", "residual": True})
CONFIGS = [
    ModelConfig(conv=conv, cell=cell, layers=2, hidden=6, norm=norm, **ways)
    for conv, cell, norm, ways in itertools.product(CONVS, ("gru", "lstm", "tanh"), (True, False), WAYS)
]


def network(cfg: ModelConfig) -> DeepSpeech2:
    torch.manual_seed(1)
    made = build_network(cfg, BINS, TOKENS)
    assert isinstance(made, DeepSpeech2)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_()
    return made.eval()


@pytest.mark.parametrize("cfg", CONFIGS)
def test_names_shapes_and_parts_are_those_of_the_network(cfg):
    net = network(cfg)
    state = net.state_dict()
    assert shapes(cfg, BINS, TOKENS) == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {name for name in state if is_trained(name)} == {name for name, _ in net.named_parameters()}
    assert count_parameters(cfg, BINS, TOKENS) == net.num_parameters
    assert parts_of(cfg, BINS, TOKENS) == describe(net)


@pytest.mark.parametrize("cfg", [cfg for cfg in CONFIGS if cfg.conv])
@torch.no_grad()
def test_folded_weights_are_the_layers_in_use(cfg):
    net = network(cfg)
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    for layer, directions in enumerate(net.layers):
        found = fold_directions(cfg, arrays, layer)
        assert len(found) == len(directions.directions)
        for mine, direction in zip(found, directions.directions, strict=True):
            theirs = direction.weights(torch.empty(0), torch.empty(0))
            for array, tensor in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-6, atol=1e-6)

    first = fold_convs(cfg, arrays)[0]
    features_btf = torch.randn(1, 9, BINS)
    theirs = net.front_end.norms[0](net.front_end.convs[0](features_btf[:, None]).permute(0, 2, 3, 1).flatten(0, 2))
    weights = torch.from_numpy(first.weight_octf), torch.from_numpy(first.bias_o)
    mine = torch.nn.functional.conv2d(features_btf[:, None], *weights, first.stride_tf, (2, 1))
    torch.testing.assert_close(mine.permute(0, 2, 3, 1).flatten(0, 2), theirs, rtol=1e-4, atol=1e-5)
