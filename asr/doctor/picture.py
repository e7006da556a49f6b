"""Histograms of durations and of characters a second, one line a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.doctor.report import Report
from asr.errors import DataError
from asr.scoring.picture import check, save

Values = npt.NDArray[np.float64]

#: a legend of more lines hides the picture
_MOST = 8


def draw(report: Report, out: Path) -> None:
    """Writes the picture; its format is the suffix.

    Raises:
        AsrError: matplotlib is not installed, the manifests have no utterances, or the picture cannot be written.
    """
    check(out)
    from matplotlib.figure import Figure

    names: list[str] = []
    columns: list[tuple[Values, Values]] = []
    for one in report.manifests:
        durations_s = np.array([row.utterance.duration_s for row in one.rows])
        lengths = np.array([len(row.text) for row in one.rows], dtype=float)
        if len(one.rows):
            names.append(str(one.path))
            columns.append((durations_s, lengths / durations_s))
    if not columns:
        raise DataError("nothing to draw: no manifest has an utterance", out)
    if len(columns) > _MOST:
        names = ["all manifests"]
        columns = [(np.concatenate([c[0] for c in columns]), np.concatenate([c[1] for c in columns]))]
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    _histograms(axes[0], names, [column[0] for column in columns], "seconds", None)
    _histograms(axes[1], names, [column[1] for column in columns], "characters a second", 40.0)
    for text in axes[0].legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    save(figure, out)


def _histograms(axis: Any, names: Sequence[str], values: Sequence[Values], unit: str, high: float | None) -> None:
    if high is None:
        high = max(1.0, 1.05 * float(np.percentile(np.concatenate(values), 99.9)))
    edges = np.linspace(0, high, 61)
    for name, one in zip(names, values, strict=True):
        # The last bin takes what lies beyond.
        counts, _ = np.histogram(np.clip(one, 0, high * (1 - 1e-9)), edges)
        axis.stairs(counts / len(one), edges, label=name if len(name) < 50 else "…" + name[-49:])
    axis.set(xlabel=f"{unit} (last bin: and more)", ylabel="share of utterances", xlim=(0, high))
