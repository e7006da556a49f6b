"""Write a whole graph: inputs, features, network, outputs, and what a program must know beside it.

Axes: b batch, n samples, t frames, f bins.
"""

from __future__ import annotations

import json

from asr.config import ModelConfig
from asr.features.extractor import Extractor
from asr.model.folded import Arrays
from asr.model.onnx import features, network, streaming
from asr.model.onnx.form import Form
from asr.model.onnx.graph import Graph


def write_graph(cfg: ModelConfig, arrays: Arrays, extractor: Extractor, form: Form, metadata: dict[str, str]) -> bytes:
    """Return the graph of a network as the bytes of a file.

    Raises:
        ConfigError: there is no graph for the kind of features.
    """
    graph = Graph(form.weights)
    if form.streaming:
        metadata = metadata | {"states": json.dumps(_stream(graph, cfg, arrays, extractor, form))}
    else:
        features_btf, num_frames_b = _inputs(graph, extractor, form)
        network.add_network(graph, cfg, arrays, features_btf, num_frames_b)
    content: bytes = graph.model(metadata).SerializeToString()
    return content


def _inputs(graph: Graph, extractor: Extractor, form: Form) -> tuple[str, str]:
    """Add the inputs, and what makes features of them. Shapes: -> (b, t, f), (b,)."""
    if not form.features:
        features_btf = graph.input("features", "float32", ["b", "t", extractor.num_bins])
        return features_btf, graph.input("num_frames", "int64", ["b"])
    front_end = features.front_end_of(extractor)
    samples_bn = graph.input("samples", "float32", ["b", "n"])
    return features.add_features(graph, front_end, samples_bn, graph.input("num_samples", "int64", ["b"]))


def _stream(
    graph: Graph, cfg: ModelConfig, arrays: Arrays, extractor: Extractor, form: Form
) -> dict[str, list[str | int]]:
    """Add a network that takes pieces; return the shapes of its states."""
    if form.features:
        front_end = features.front_end_of(extractor)
        samples_bn = graph.input("samples", "float32", ["b", "n"])
        stream = streaming.Stream(graph)
        features_btf = streaming.add_features(stream, front_end, samples_bn)
    else:
        features_btf = graph.input("features", "float32", ["b", "t", extractor.num_bins])
        stream = streaming.Stream(graph)
    streaming.add_network(stream, cfg, arrays, features_btf, extractor.num_bins)
    return stream.states
