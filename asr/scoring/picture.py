"""What a model hears and what it makes of it: the spectrogram with the posteriors under it, as a PNG.

Axes: t frames, f bins, s steps, v vocabulary.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from asr.batch import extract
from asr.config import FeatureConfig
from asr.data.audio import Wave
from asr.data.tokenizer import BLANK_ID
from asr.decode.greedy import greedy
from asr.decode.types import LogProbs
from asr.errors import AsrError, os_reason
from asr.features import FeatureExtractor
from asr.infer import log_probs
from asr.model.checkpoint import AcousticModel
from asr.recordings.media import Input
from asr.transcribe import Recognizer, Source


def draw(recognizer: Recognizer, source: Source, out: Path) -> None:
    """Writes a picture of one file: its spectrogram, and at each step the probability of blank and of what is said.

    Raises:
        DataError: the audio cannot be used.
        AsrError: matplotlib is not installed, or the picture cannot be written.
    """
    kind = check(out)
    wave_n = recognizer.load_wave(source)
    path = Path(source.name) if isinstance(source, Input) else Path("array" if isinstance(source, tuple) else source)
    # A name of any bytes is shown.
    name = os.fsencode(path.name).decode("utf-8", "replace")
    figure = _figure(recognizer.model, wave_n, recognizer.log_probs(wave_n), name, (12, 6))
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, dpi=110, format=kind)
        part.replace(out)
    except OSError as error:
        raise AsrError(f"{out}: cannot write the picture: {os_reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)
        _close(figure)


def draw_png(model: AcousticModel, wave_n: Wave, name: str) -> bytes:
    """The same picture of samples at the model's rate, smaller, as the bytes of a PNG. ``check`` comes before.

    Shapes: (n,).
    """
    from PIL import Image  # matplotlib brings it

    log_probs_sv = log_probs(model, [extract(model.extractor, wave_n)])[0]
    figure = _figure(model, wave_n, log_probs_sv, name, (10, 4.5))
    content = io.BytesIO()
    try:
        figure.savefig(content, dpi=90, format="png")
    finally:
        _close(figure)
    # 256 colours: a quarter of the bytes, and the lines keep their colours (they do not with the other methods).
    small = io.BytesIO()
    palette = Image.open(content).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def check(out: Path) -> str:
    """The format of a picture of that name, for those who want to know before long work that it can be drawn.

    Raises:
        AsrError: matplotlib is not installed, or it writes no such format.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise AsrError("pictures need matplotlib: pip install 'asr-ctc[pictures]'") from error
    matplotlib.use("Agg")
    from matplotlib.backend_bases import FigureCanvasBase

    kind, known = out.suffix[1:].lower(), FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise AsrError(f"{out}: the name of a picture ends in its format: .png, .svg, .pdf, .jpg")
    return kind


def _figure(model: AcousticModel, wave_n: Wave, log_probs_sv: LogProbs, name: str, size: tuple[float, float]) -> Any:
    from matplotlib import pyplot

    hypothesis = greedy(log_probs_sv, model.tokenizer)
    duration_s, step_s = len(wave_n) / model.audio.sample_rate_hz, model.step_s
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=size, sharex=True, height_ratios=[3, 2], layout="constrained"
    )
    _draw_spectrogram(above, model, wave_n, duration_s)
    # A dollar in a name is shown, and sets no formula.
    title, room = f"{name}: {' '.join(hypothesis.text.split())!r}", round(9 * size[0])
    above.set_title(title if len(title) <= room else title[: room - 1] + "…", parse_math=False)
    probs_sv = np.exp(log_probs_sv)
    times_s = (np.arange(len(probs_sv)) + 0.5) * step_s
    below.plot(times_s, probs_sv[:, BLANK_ID], color="0.7", linewidth=1, label="blank")
    for token in sorted({span.token for span in hypothesis.spans}):
        below.plot(times_s, probs_sv[:, token], linewidth=1.5)
    for span in hypothesis.spans:
        symbol = model.tokenizer.decode([span.token])
        peak = span.start + int(probs_sv[span.start : span.end, span.token].argmax())
        label = "␣" if symbol == " " else symbol
        below.annotate(label, (times_s[peak], min(1.0, probs_sv[peak, span.token]) + 0.03), ha="center", fontsize=9)
    below.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.15), xlim=(0, duration_s))
    below.legend(loc="upper right", frameon=False)
    return figure


def _close(figure: Any) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def _draw_spectrogram(axis: Any, model: AcousticModel, wave_n: Any, duration_s: float) -> None:
    import torch

    extractor = model.extractor
    if not isinstance(extractor, FeatureExtractor):  # a bundle hears the samples themselves
        extractor = FeatureExtractor(FeatureConfig(), model.audio.sample_rate_hz)
    features_btf, _ = extractor.raw(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]))
    features_tf = features_btf[0].numpy()
    # Below the 5th percentile is background: the colours go to the speech.
    low = float(np.percentile(features_tf, 5))
    axis.imshow(
        features_tf.T, origin="lower", aspect="auto", cmap="magma", vmin=low,
        extent=(0, duration_s, 0, features_tf.shape[1]),
    )  # fmt: skip
    axis.set_ylabel(f"{extractor.cfg.kind.replace('_', '-')} bin")
