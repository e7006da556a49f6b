"""Draw histograms of durations and of characters per second, one line per manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.doctor.examination import Examination
from asr.errors import DataError, printable
from asr.scoring.picture import check, save

Values = npt.NDArray[np.float64]

#: a legend of more lines hides the picture
_MOST_LINES = 8


def draw_histograms(examination: Examination, out: Path) -> None:
    """Write the picture; its format is the suffix.

    Raises:
        AsrError: matplotlib is not installed, the manifests have no utterances, or the picture cannot be written.
    """
    check(out)
    from matplotlib.figure import Figure

    durations_s: dict[str, Values] = {}
    rates: dict[str, Values] = {}
    for manifest in examination.manifests:
        if manifest.rows:
            name = str(manifest.path)
            durations_s[name] = np.array([row.utterance.duration_s for row in manifest.rows])
            rates[name] = np.array([len(row.text) for row in manifest.rows]) / durations_s[name]
    if not durations_s:
        raise DataError("nothing to draw: no manifest has an utterance", out)
    if len(durations_s) > _MOST_LINES:
        durations_s = {"all manifests": np.concatenate(list(durations_s.values()))}
        rates = {"all manifests": np.concatenate(list(rates.values()))}

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    longest_s = 1.05 * float(np.percentile(np.concatenate(list(durations_s.values())), 99.9))
    _draw(left, durations_s, "seconds", max(1.0, longest_s))
    _draw(right, rates, "characters per second", 40.0)
    for text in left.legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    save(figure, out)


def _draw(axis: Any, values_of: dict[str, Values], unit: str, high: float) -> None:
    edges = np.linspace(0, high, 61)
    for name, values in values_of.items():
        name = printable(name)
        # The last bin takes what lies beyond.
        counts, _ = np.histogram(np.clip(values, 0, high * (1 - 1e-9)), edges)
        axis.stairs(counts / len(values), edges, label=name if len(name) < 50 else "…" + name[-49:])
    axis.set(xlabel=f"{unit} (last bin: and more)", ylabel="share of utterances", xlim=(0, high))
