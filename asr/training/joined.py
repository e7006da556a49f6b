"""Utterances joined to one recording, with pauses that sound like the quiet parts of the utterances beside them.

Digital silence would tell a network where an utterance begins, and no microphone gives it.

Axes: n samples, f bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from asr.data.audio import Wave

#: the quiet part of an utterance: the quietest tenth of its stretches of this length
_STRETCH_S = 0.03
_QUIET_SHARE = 0.1


def join_waves(waves: Sequence[Wave], pauses_s: Sequence[float], rate_hz: int, random: np.random.Generator) -> Wave:
    """Put waves one behind another, with pauses between them. Shapes: (n,) each -> (n',).

    Args:
        pauses_s: seconds, one fewer than there are waves.
    """
    joined = [waves[0]]
    for (left_n, right_n), pause_s in zip(pairwise(waves), pauses_s, strict=True):
        size = round(pause_s * rate_hz)
        joined += [pause_between(left_n, right_n, size, rate_hz, random), right_n]
    return np.concatenate(joined)


def pause_between(left_n: Wave, right_n: Wave, size: int, rate_hz: int, random: np.random.Generator) -> Wave:
    """Make a pause that goes over from the quiet of one wave to that of the next. Shapes: (n,), (n',) -> (size,)."""
    share_n = np.linspace(0, 1, size, dtype=np.float32)
    # Two noises are independent, so their powers add up: the roots of the shares keep the level.
    pause_n: Wave = np.sqrt(1 - share_n) * quiet_noise(left_n, size, rate_hz, random)
    pause_n += np.sqrt(share_n) * quiet_noise(right_n, size, rate_hz, random)
    return pause_n


def quiet_noise(wave_n: Wave, size: int, rate_hz: int, random: np.random.Generator) -> Wave:
    """Make noise with the power and the spectrum of the quietest tenth of a wave. Shapes: (n,) -> (size,).

    Digital zeros count as nothing, not as quiet; a wave of nothing else gives zeros.
    """
    length = min(round(_STRETCH_S * rate_hz), len(wave_n))
    if not length or not size:
        return np.zeros(size, np.float32)
    stretches = wave_n[: len(wave_n) // length * length].reshape(-1, length)
    power = np.square(stretches).mean(1)
    stretches, power = stretches[power > 0], power[power > 0]
    quietest = stretches[np.argsort(power, kind="stable")[: max(1, round(_QUIET_SHARE * len(power)))]]
    if not len(quietest):
        return np.zeros(size, np.float32)

    # White noise of variance 1 has this power in every bin: the sum of the window's squares.
    window = np.hanning(length + 2)[1:-1]
    power_f = np.square(np.abs(np.fft.rfft(quietest * window))).mean(0) / np.square(window).sum()
    spectrum_f = np.fft.rfft(random.standard_normal(size))
    bins = np.linspace(0, len(power_f) - 1, len(spectrum_f))
    spectrum_f *= np.sqrt(np.interp(bins, np.arange(len(power_f)), power_f))
    noise_n: Wave = np.fft.irfft(spectrum_f, size).astype(np.float32)
    return noise_n
