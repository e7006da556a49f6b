"""Draw what a model hears and what it makes of it: the spectrogram with the posteriors under it.

Axes: t frames, f bins, s steps, v vocabulary.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from asr.config import FeatureConfig
from asr.data.audio import Wave
from asr.data.tokenizer import BLANK_ID
from asr.decode.greedy import greedy
from asr.decode.types import Hypothesis, LogProbs
from asr.errors import AsrError, os_reason, printable
from asr.features.frames import FeatureExtractor
from asr.files import open_atomic
from asr.infer import log_probs
from asr.model.contract import AcousticModel
from asr.recordings.inputs import Input
from asr.transcribe import Recognizer, Source
from asr.utterance import extract


def draw(recognizer: Recognizer, source: Source, out: Path) -> None:
    """Draw the spectrogram of one file, and at each step the probability of blank and of the best path's tokens.

    Raises:
        DataError: the audio cannot be used.
        AsrError: matplotlib is not installed, or the picture cannot be written.
    """
    check(out)

    wave_n = recognizer.load_wave(source)
    if isinstance(source, tuple):
        path = Path("array")
    else:
        path = Path(source.name if isinstance(source, Input) else source)
    name = os.fsencode(path.name).decode("utf-8", "replace")  # a name of any bytes can be shown
    save(_figure(recognizer.model, wave_n, recognizer.log_probs(wave_n), name, (12, 6)), out)


def draw_png(model: AcousticModel, wave_n: Wave, name: str) -> bytes:
    """Draw the same picture of samples at the model's rate, smaller; return the bytes of a PNG.

    Shapes: (n,).
    """
    from PIL import Image  # matplotlib brings it

    # Smaller than ``draw``'s picture: a report holds many.
    log_probs_sv = log_probs(model, [extract(model.extractor, wave_n)])[0]
    content = io.BytesIO()
    _figure(model, wave_n, log_probs_sv, name, (10, 4.5)).savefig(content, dpi=90, format="png")

    # 256 colours: a quarter of the bytes, and the lines keep their colours (they do not with the other methods).
    small = io.BytesIO()
    palette = Image.open(content).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def check(out: Path) -> str:
    """Return the format of a picture of that name; called before long work to refuse what cannot be drawn after it.

    Raises:
        AsrError: matplotlib is not installed, or it writes no such format.
    """
    try:
        import matplotlib.backend_bases
    except ImportError as error:
        raise AsrError("pictures need matplotlib: pip install matplotlib") from error

    kind = out.suffix[1:].lower()
    if kind not in matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes():
        raise AsrError(f"{out}: the name of a picture ends in its format: .png, .svg, .pdf, .jpg")
    return kind


def save(figure: Any, out: Path) -> None:
    """Write a figure atomically, in the format of the name."""
    try:
        with open_atomic(out, "wb") as file:
            figure.savefig(file, dpi=110, format=check(out))
    except OSError as error:
        raise AsrError(f"{out}: cannot write the picture: {os_reason(error)}") from error


def _figure(model: AcousticModel, wave_n: Wave, log_probs_sv: LogProbs, name: str, size: tuple[float, float]) -> Any:
    # Not by pyplot, which would keep the figure open.
    from matplotlib.figure import Figure

    hypothesis = greedy(log_probs_sv, model.tokenizer)
    duration_s = len(wave_n) / model.audio.sample_rate_hz
    figure = Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])

    _draw_spectrogram(above, model, wave_n, duration_s)
    title = printable(f"{name}: {' '.join(hypothesis.text.split())!r}")
    room = round(9 * size[0])
    if len(title) > room:
        title = title[: room - 1] + "…"
    above.set_title(title, parse_math=False)  # a dollar in a name begins no formula

    _draw_posteriors(below, model, log_probs_sv, hypothesis)
    below.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.15), xlim=(0, duration_s))
    below.legend(loc="upper right", frameon=False)
    return figure


def _draw_posteriors(axis: Any, model: AcousticModel, log_probs_sv: LogProbs, hypothesis: Hypothesis) -> None:
    probs_sv = np.exp(log_probs_sv)
    times_s = (np.arange(len(probs_sv)) + 0.5) * model.step_s
    axis.plot(times_s, probs_sv[:, BLANK_ID], color="0.7", linewidth=1, label="blank")
    for token in sorted({span.token for span in hypothesis.spans}):
        axis.plot(times_s, probs_sv[:, token], linewidth=1.5)

    for span in hypothesis.spans:
        symbol = model.tokenizer.decode([span.token])
        label = "␣" if symbol == " " else symbol
        peak = span.start + int(probs_sv[span.start : span.end, span.token].argmax())
        axis.annotate(label, (times_s[peak], min(1.0, probs_sv[peak, span.token]) + 0.03), ha="center", fontsize=9)


def _draw_spectrogram(axis: Any, model: AcousticModel, wave_n: Wave, duration_s: float) -> None:
    extractor = model.extractor
    if not isinstance(extractor, FeatureExtractor):  # a bundle's front-end takes the samples themselves
        extractor = FeatureExtractor(FeatureConfig(), model.audio.sample_rate_hz)

    features_ft = extractor.raw(wave_n).T
    axis.imshow(
        features_ft,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=float(np.percentile(features_ft, 5)),  # below is background: the colours go to the speech
        extent=(0, duration_s, 0, len(features_ft)),
    )
    axis.set_ylabel(f"{extractor.cfg.kind.replace('_', '-')} bin")
