"""Features as nodes of a graph: spectra, log-mel bins or cepstra, derivatives, neighbours, normalisation.

A spectrum is a product with the matrix of the Fourier transform, as a convolution over the samples: runtimes have no
fast transform of their own that is faster than it. Nothing is drawn: there is no dither in use.

Axes: b batch, n samples, t frames, f bins, m mel filters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import Extractor
from asr.features.frames import FeatureExtractor
from asr.model.onnx.graph import Floats, Graph

#: added to a bin's standard deviation, as in asr.features.extractor
_STD_FLOOR = 1e-3


class FrontEnd(NamedTuple):
    """The numbers of an extractor."""

    cfg: FeatureConfig
    hop: int
    fft: int
    window_n: Floats
    #: None: the spectrum itself
    mel_fm: Floats | None
    #: None: no cepstra
    cosines: Floats | None
    #: statistics of the training set
    mean_f: Floats
    std_f: Floats

    @property
    def before(self) -> int:
        """Samples of a window before the middle of its frame: the window lies in the middle of the transform's."""
        return self.fft // 2 - (self.fft - len(self.window_n)) // 2


def front_end_of(extractor: Extractor) -> FrontEnd:
    """Return the numbers of an extractor.

    Raises:
        ConfigError: its kind has no graph.
    """
    if type(extractor) is not FeatureExtractor:
        raise ConfigError(
            f"features.kind: {extractor.cfg.kind} cannot be put into the graph (log_mel, mfcc and spectrogram can); "
            "leave out --features",
            key="features.kind",
        )
    return FrontEnd(
        extractor.cfg,
        extractor.hop,
        extractor.fft,
        extractor.window_n,
        getattr(extractor, "mel_fm", None),
        getattr(extractor, "dct_mc", None),
        extractor.mean_f,
        extractor.std_f,
    )


def add_features(graph: Graph, front_end: FrontEnd, samples_bn: str, num_samples_b: str) -> tuple[str, str]:
    """Add what turns samples into normalised features, and their frames. Shapes: (b, n), (b,) -> (b, t, f), (b,).

    Args:
        samples_bn, num_samples_b: names of values; what lies beyond an utterance's samples may be anything.
    """
    cfg = front_end.cfg
    num_frames_b = _num_frames(graph, front_end.hop, num_samples_b)
    samples_bn = _emphasized(graph, cfg.preemphasis, samples_bn, num_samples_b)
    behind = len(front_end.window_n) - front_end.before
    padded_bn = graph.op("Pad", samples_bn, graph.integers(0, front_end.before, 0, behind), graph.number(0.0))
    spectra_bft = spectra(graph, front_end, graph.op("Unsqueeze", padded_bn, graph.integers(1)))

    features_btf = of_spectra(graph, front_end, spectra_bft)
    if cfg.deltas or cfg.context_frames:
        bins = len(front_end.mean_f) // ((1 + cfg.deltas) * (1 + 2 * cfg.context_frames))
        features_btf = _with_neighbours(graph, cfg, bins, features_btf, num_frames_b)
    if cfg.normalization == "utterance":
        return _standardized(graph, features_btf, num_frames_b), num_frames_b
    return with_statistics(graph, front_end, features_btf), num_frames_b


def spectra(graph: Graph, front_end: FrontEnd, padded_b1n: str) -> str:
    """Add the transform of each frame, first all real parts and then all imaginary ones. Shapes: -> (b, 2 f, t)."""
    waves_2fn = _waves(front_end)
    return graph.op(
        "Conv",
        padded_b1n,
        graph.constant(waves_2fn[:, None, :]),
        kernel_shape=[len(front_end.window_n)],
        strides=[front_end.hop],
    )


def of_spectra(graph: Graph, front_end: FrontEnd, spectra_bft: str) -> str:
    """Add power, mel filters, logarithm and cepstra. Shapes: (b, 2 f, t) -> (b, t, f or m or cepstra)."""
    squares_bft = graph.op("Mul", spectra_bft, spectra_bft)
    bins_f = _used_bins(front_end)
    real_bft = graph.slice(squares_bft, 0, len(bins_f), axis=1)
    imaginary_bft = graph.slice(squares_bft, len(bins_f), None, axis=1)
    power_btf = graph.op("Transpose", graph.op("Add", real_bft, imaginary_bft), perm=[0, 2, 1])
    if front_end.mel_fm is not None:
        power_btf = graph.op("MatMul", power_btf, graph.constant(front_end.mel_fm[bins_f]))
    features_btf = graph.op("Log", graph.op("Max", power_btf, graph.number(front_end.cfg.power_floor)))
    if front_end.cosines is None:
        return features_btf
    return graph.op("MatMul", features_btf, graph.constant(front_end.cosines))


def with_statistics(graph: Graph, front_end: FrontEnd, features_btf: str) -> str:
    """Bring features to the statistics of the training set, or leave them as they are. Shapes: (b, t, f)."""
    if front_end.cfg.normalization == "none":
        return features_btf
    centred_btf = graph.op("Sub", features_btf, graph.constant(front_end.mean_f))
    return graph.op("Div", centred_btf, graph.constant(front_end.std_f))


def _num_frames(graph: Graph, hop: int, num_samples_b: str) -> str:
    """Count frames: one at sample 0 and one every hop up to the end; none without samples."""
    counted_b = graph.op("Add", graph.op("Div", num_samples_b, graph.integer(hop)), graph.integer(1))
    return graph.op("Where", graph.op("Greater", num_samples_b, graph.integer(0)), counted_b, graph.integer(0))


def _emphasized(graph: Graph, preemphasis: float, samples_bn: str, num_samples_b: str) -> str:
    """Silence what is beyond an utterance, and take from each sample its share of the one before."""
    inside_bn = graph.mask(num_samples_b, samples_bn, axis=1)
    samples_bn = graph.op("Where", inside_bn, samples_bn, graph.number(0.0))
    if not preemphasis:
        return samples_bn
    first_b1 = graph.slice(samples_bn, 0, 1, axis=1)
    previous_bn = graph.op("Concat", first_b1, graph.slice(samples_bn, 0, -1, axis=1), axis=1)
    emphasized_bn = graph.op("Sub", samples_bn, graph.op("Mul", graph.number(preemphasis), previous_bn))
    return graph.op("Where", inside_bn, emphasized_bn, graph.number(0.0))


def _used_bins(front_end: FrontEnd) -> npt.NDArray[np.intp]:
    """Return the bins of the transform that a filter sees."""
    if front_end.mel_fm is None:
        return np.arange(front_end.fft // 2 + 1)
    return np.flatnonzero(front_end.mel_fm.sum(axis=1))


def _waves(front_end: FrontEnd) -> Floats:
    """Make the rows of the transform's matrix, first all cosines and then all sines, under the window."""
    at_n = np.arange(len(front_end.window_n)) - front_end.before
    angles_fn = -2 * np.pi / front_end.fft * _used_bins(front_end)[:, None] * at_n
    waves = np.concatenate([np.cos(angles_fn), np.sin(angles_fn)]) * front_end.window_n.astype(np.float64)
    return waves.astype(np.float32)


def _with_neighbours(graph: Graph, cfg: FeatureConfig, bins: int, features_btf: str, num_frames_b: str) -> str:
    """Append derivatives and neighbouring frames, the end frames repeated beyond the ends.

    Shapes: (b, t, f) -> (b, t, (1 + deltas) (1 + 2 context) f).
    """
    reach = 4 * cfg.deltas + cfg.context_frames
    last_b1 = graph.op(
        "Unsqueeze",
        graph.op("Max", graph.op("Sub", num_frames_b, graph.integer(1)), graph.integer(0)),
        graph.integers(1),
    )
    last_b1f = graph.op("Unsqueeze", graph.op("GatherND", features_btf, last_b1, batch_dims=1), graph.integers(1))
    inside_bt1 = graph.op("Unsqueeze", graph.mask(num_frames_b, features_btf, axis=1), graph.integers(2))
    features_btf = graph.op("Where", inside_bt1, features_btf, last_b1f)
    parts = [graph.op("Pad", features_btf, graph.integers(0, reach, 0, 0, reach, 0), mode="edge")]
    for _ in range(cfg.deltas):
        parts.append(_deltas(graph, bins, parts[-1]))
    full_btf = graph.op("Concat", *parts, axis=2) if cfg.deltas else parts[0]

    first = 4 * cfg.deltas
    shifted = []
    for place in range(2 * cfg.context_frames + 1):
        # What is left out at the end, from which a negative place counts; there 0 is no place.
        rest = first + 2 * cfg.context_frames - place
        shifted.append(graph.slice(full_btf, first + place, -rest or None, axis=1))
    return graph.op("Concat", *shifted, axis=2) if len(shifted) > 1 else shifted[0]


def _deltas(graph: Graph, bins: int, features_btf: str) -> str:
    """Add the slope of each value over five frames. Shapes: (b, t, f) -> (b, t, f)."""
    padded_btf = graph.op("Pad", features_btf, graph.integers(0, 2, 0, 0, 2, 0), mode="edge")
    slope_f15 = np.tile(np.arange(-2, 3, dtype=np.float32) / 10, (bins, 1, 1))
    padded_bft = graph.op("Transpose", padded_btf, perm=[0, 2, 1])
    slopes_bft = graph.op("Conv", padded_bft, graph.constant(slope_f15), group=bins, kernel_shape=[5])
    return graph.op("Transpose", slopes_bft, perm=[0, 2, 1])


def _standardized(graph: Graph, features_btf: str, num_frames_b: str) -> str:
    """Bring each bin to mean 0 and variance 1 over its utterance. Shapes: (b, t, f), (b,) -> (b, t, f)."""
    count_b = graph.cast(graph.op("Max", num_frames_b, graph.integer(1)), "float32")
    count_b11 = graph.op("Unsqueeze", count_b, graph.integers(1, 2))

    def mean(values_btf: str) -> str:
        inside_btf = graph.masked(values_btf, num_frames_b, axis=1, rank=3)
        return graph.op("Div", graph.op("ReduceSum", inside_btf, graph.integers(1)), count_b11)

    centred_btf = graph.op("Sub", features_btf, mean(features_btf))
    deviation_b1f = graph.op("Sqrt", mean(graph.op("Mul", centred_btf, centred_btf)))
    return graph.op("Div", centred_btf, graph.op("Add", deviation_b1f, graph.number(_STD_FLOOR)))
