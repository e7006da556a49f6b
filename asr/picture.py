"""What a model hears and what it makes of it: the spectrogram with the posteriors under it, as a PNG.

Axes: t frames, f bins, s steps, v vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from asr.decode.greedy import greedy
from asr.errors import AsrError, os_reason
from asr.features import FeatureExtractor
from asr.text import BLANK_ID
from asr.transcribe import Recognizer


def draw(recognizer: Recognizer, audio_path: Path, out: Path) -> None:
    """Writes a picture of one file: its spectrogram, and at each step the probability of blank and of what is said.

    Raises:
        DataError: the audio cannot be used.
        AsrError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise AsrError("pictures need matplotlib: pip install 'asr-ctc[quickstart]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    model = recognizer.model
    wave_n, _ = recognizer.load_wave(audio_path)
    log_probs_sv = recognizer.log_probs(wave_n)
    hypothesis = greedy(log_probs_sv, model.tokenizer)
    duration_s, step_s = len(wave_n) / model.audio.sample_rate_hz, model.step_s
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(12, 6), sharex=True, height_ratios=[3, 2], layout="constrained"
    )
    _draw_spectrogram(above, model.extractor, wave_n, duration_s)
    above.set_title(f"{audio_path.name}: {' '.join(hypothesis.text.split())!r}")
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
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)
    except OSError as error:
        raise AsrError(f"{out}: cannot write the picture: {os_reason(error)}") from error
    finally:
        pyplot.close(figure)


def _draw_spectrogram(axis: Any, extractor: FeatureExtractor, wave_n: Any, duration_s: float) -> None:
    import torch

    features_btf, _ = extractor.raw(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]))
    features_tf = features_btf[0].numpy()
    # Below the 5th percentile is background: the colours go to the speech.
    low = float(np.percentile(features_tf, 5))
    axis.imshow(
        features_tf.T, origin="lower", aspect="auto", cmap="magma", vmin=low,
        extent=(0, duration_s, 0, features_tf.shape[1]),
    )  # fmt: skip
    axis.set_ylabel(f"{extractor.cfg.kind.replace('_', '-')} bin")
