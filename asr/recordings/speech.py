"""Decide whether anybody speaks in a piece of audio, by fixed weights on nine measures of its sound.

Axes: n samples, t frames, f frequency bins, b bands, p pitches; s steps, v vocabulary. Levels are in dB.

A voice has harmonics whose pitch moves all the time, in a spectrum that changes shape at the rate of syllables. Noise
has no harmonics, however its level moves; notes and tones have harmonics that stand still for the length of a note.
Everything is measured relative to the loud frames of the same stretch of audio, so that the level does not matter, and
below 4 kHz, so that telephone speech is judged like other speech. In doubt, the recognizer's network contributes: it is
sure of its tokens in the speech that it was trained for, and unsure in noise and music.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.data.audio import Wave
from asr.data.tokenizer import BLANK_ID
from asr.decode.types import LogProbs
from asr.recordings.transform import PowerSpectrum

Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.bool_]

#: a piece whose ``no_speech_prob`` is above this gives no text; Whisper's own default
NO_SPEECH_THRESHOLD = 0.6
#: a piece is judged in stretches of at most this length, and has speech if one of them has
STRETCH_S = 3.0
#: a stretch with a probability of no speech below this ends the search; the rest of the piece is not examined
_SURE = 0.02

#: a network is sure when the best token of the steps that are not blank has at least this mean log-probability; it
#: then takes this much off the log-odds of no speech: 0.98 becomes 0.5
_NETWORK_SURE, _NETWORK_SAYS = -0.08, 4.0
#: the log-probability of a token where nobody speaks
_IMPOSSIBLE = -30.0
_WINDOW_S, _HOP_S = 0.064, 0.02
#: frames apart at which pitch and fine structure are compared, and at which the shape of the spectrum is: 40, 120 ms
_NEAR, _FAR = 2, 6
_LOW_HZ, _HIGH_HZ = 120.0, 4000.0
_BORDERS_HZ = (120.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0)
#: where the spectrum's fine structure tells notes from a voice: the harmonics of a moving pitch move most up here
_FINE_HZ = 1000.0
#: half width of the envelope that is subtracted to get the fine structure
_ENVELOPE_HZ = 150.0
#: frames this far below the loud ones do not count, nor does sound below a tenth of a 16-bit step
_LOUD_QUANTILE, _LOUD_DB, _ZERO_DB = 0.95, 25.0, -110.0
#: levels further below the loud ones are all the same
_RANGE_DB = 40.0
#: this many loud frames are enough to judge by: half a second
_ENOUGH = 25
#: fewer loud frames than this cannot be a word
_FEWEST = 3
#: pitches that are looked for, half a semitone apart
_PITCHES_HZ = 75.0 * 2.0 ** (np.arange(63) / 24)
_HARMONICS_HZ = 2000.0
#: a frame has a pitch when its harmonics explain this much of its fine structure
_VOICED = 0.45
#: in semitones: a pitch stands still below the first, jumps beyond the last
_STILL, _MOVES, _JUMPS = 0.12, 0.25, 3.0
#: where two of the measures begin to count
_VOICE_LASTS, _SPEECH_SWINGS_DB = 0.35, 8.0
#: this many extra frames count as half moving, since a short word has few frames of its own
_UNSEEN = 4.0
#: the decision: weights of ``Measures`` and a constant; docs/long-audio.md lists the data they were fitted to
_WEIGHTS = (42.8, 8.9, -3.3, -23.0, 0.24, 4.9, 1.0, -0.52, 4.0)
_CONSTANT = -17.4


class Measures(NamedTuple):
    """Hold the measures of a stretch of audio, taken over its loud frames."""

    #: share of the fine structure that the best pitch explains, mean
    harmonicity: float
    #: share of the frames with a pitch in which it moves (rather than stands still)
    moving: float
    #: the share of frames with a pitch that stands still
    still: float
    #: correlation of the fine structure above 1 kHz over 40 ms, above that of voices
    lasting: float
    #: change of the spectrum's shape over 120 ms, dB
    change: float
    #: natural logarithm of the deviation of the spectrum's shape, dB
    variety: float
    #: natural logarithm of spectral flatness, mean: 0 is white
    flatness: float
    #: deviation of the level of all frames above that of speech in noise, dB
    swing: float
    #: how far the loud frames fall short of half a second, which gives too little evidence: 0 to 1
    brevity: float


def no_speech_prob(wave_n: Wave, rate_hz: int) -> float:
    """Return the probability that nobody speaks in a piece: that of the stretch that sounds most like speech.

    It is from 0 to 1, and 1 for silence. It depends on the samples only, and not on their level.
    """
    stretches = max(1, math.ceil(len(wave_n) / (rate_hz * STRETCH_S)))
    borders = [round(i * len(wave_n) / stretches) for i in range(stretches + 1)]
    least = 1.0
    for start, stop in pairwise(borders):
        measures = measure(wave_n[start:stop], rate_hz)
        if measures is not None:
            score = _CONSTANT + sum(w * value for w, value in zip(_WEIGHTS, measures, strict=True))
            least = min(least, 1 / (1 + math.exp(min(score, 50.0))))
        if least < _SURE:
            break
    return least


def second_opinion(no_speech: float, log_probs_sv: LogProbs) -> float:
    """Correct the result of ``no_speech_prob`` by a network's output for the same piece. Shapes: (s, v)."""
    best_s = log_probs_sv.max(axis=1)
    token_s = log_probs_sv.argmax(axis=1) != BLANK_ID
    return corrected(no_speech, float(best_s[token_s].mean()) if token_s.any() else -math.inf)


def corrected(no_speech: float, sureness: float) -> float:
    """Correct the result of ``no_speech_prob`` by the mean log-probability of the network's tokens."""
    if sureness < _NETWORK_SURE:
        return no_speech
    odds = no_speech / max(1 - no_speech, 1e-9) * math.exp(-_NETWORK_SAYS)
    return odds / (1 + odds)


def without_words(log_probs_sv: LogProbs) -> LogProbs:
    """Return as many steps that are certainly blank, to decode a piece without speech. Shapes: (s, v) -> (s, v)."""
    blank_sv = np.full_like(log_probs_sv, _IMPOSSIBLE)
    blank_sv[:, BLANK_ID] = math.log1p(-(log_probs_sv.shape[1] - 1) * math.exp(_IMPOSSIBLE))
    return blank_sv


def measure(wave_n: Wave, rate_hz: int) -> Measures | None:
    """Measure a stretch of audio; None if there is too little sound for a word. Shapes: (n,)."""
    ear = _ear(rate_hz)
    power_tf = ear.power(wave_n)
    level_t = 10 * np.log10(power_tf.sum(axis=1) + np.float32(1e-12))
    loud_db = _quantile(level_t, _LOUD_QUANTILE)
    loud_t = level_t > max(loud_db - _LOUD_DB, _ZERO_DB)
    loud = int(loud_t.sum())
    if loud < _FEWEST:
        return None

    fine_tf = ear.fine(power_tf)
    harmonicity_t, pitch_t = ear.pitch(fine_tf)
    shape_tb = ear.shape(power_tf)

    # Does the pitch move between frames that are near each other?
    near_t = loud_t[_NEAR:] & loud_t[:-_NEAR]
    voiced_t = loud_t & (harmonicity_t > _VOICED)
    moved_t = np.abs(pitch_t[_NEAR:] - pitch_t[:-_NEAR])[voiced_t[_NEAR:] & voiced_t[:-_NEAR]]
    moving = int(((moved_t > _MOVES) & (moved_t < _JUMPS)).sum())
    still = int((moved_t <= _STILL).sum())
    pairs = int(near_t.sum())

    # How similar are their high harmonics?
    upper_tf = fine_tf[:, ear.upper :]
    same_t = np.einsum("tf,tf->t", upper_tf[_NEAR:], upper_tf[:-_NEAR])
    size_t = np.einsum("tf,tf->t", upper_tf, upper_tf)
    both = math.sqrt(float(size_t[_NEAR:][near_t].sum()) * float(size_t[:-_NEAR][near_t].sum()))
    lasting = float(same_t[near_t].sum()) / both if both > 0 else 0.0

    # How much does the shape of the spectrum change over a longer time?
    far_t = loud_t[_FAR:] & loud_t[:-_FAR]
    changes_t = np.sqrt(((shape_tb[_FAR:] - shape_tb[:-_FAR])[far_t] ** 2).mean(axis=1))
    return Measures(
        harmonicity=float(harmonicity_t[loud_t].mean()),
        moving=(moving + _UNSEEN / 2) / (moving + still + _UNSEEN),
        still=still / (pairs + _UNSEEN),
        lasting=max(0.0, lasting * pairs / (pairs + _UNSEEN) - _VOICE_LASTS),
        change=_quantile(changes_t, 0.5) if len(changes_t) else 0.0,
        variety=math.log(float(shape_tb[loud_t].std(axis=0).mean()) + 0.5),
        flatness=float(_flatness(power_tf[loud_t]).mean()),
        swing=max(0.0, float(np.maximum(level_t, loud_db - _RANGE_DB).std()) - _SPEECH_SWINGS_DB),
        brevity=max(0.0, 1 - loud / _ENOUGH),
    )


class _Ear:
    """Analyse spectra; hold the values that depend on the sample rate alone."""

    def __init__(self, rate_hz: int) -> None:
        self._hop = max(1, round(_HOP_S * rate_hz))
        self._size = round(_WINDOW_S * rate_hz)
        self._window_n = (0.5 - 0.5 * np.cos(2 * np.pi / self._size * np.arange(self._size))).astype(np.float32)
        all_hz = np.fft.rfftfreq(self._size, 1 / rate_hz)
        used = slice(int(np.searchsorted(all_hz, _LOW_HZ)), int(np.searchsorted(all_hz, _HIGH_HZ)))
        hz = all_hz[used]
        self._spectrum = PowerSpectrum(self._size, used)
        # By Parseval's theorem this is the mean square of the samples: both sides of the spectrum, the window's power.
        self._scale = 2 / (self._size * float((self._window_n**2).sum()))
        self._around = round(_ENVELOPE_HZ / all_hz[1])
        self.upper = min(int(np.searchsorted(hz, _FINE_HZ)), len(hz) - 1)
        self._bands_fb = np.stack([(hz >= a) & (hz < b) for a, b in pairwise(_BORDERS_HZ) if a < hz[-1]], axis=1)
        self._bands_fb = self._bands_fb.astype(np.float32)
        self._combs_fp = np.stack([_comb(hz, pitch_hz) for pitch_hz in _PITCHES_HZ], axis=1).astype(np.float32)

    def power(self, wave_n: Wave) -> Floats:
        """Return power spectra between the lowest and the highest frequency in use. Shapes: (n,) -> (t, f)."""
        wave_n = np.clip(wave_n, -8, 8)  # float files may hold anything; squares must stay finite
        missing = self._size + _FAR * self._hop - len(wave_n)
        if missing > 0:
            wave_n = np.pad(wave_n, (missing // 2, missing - missing // 2))

        frames_tn = np.lib.stride_tricks.sliding_window_view(wave_n, self._size)[:: self._hop] * self._window_n
        power_tf: Floats = self._spectrum(frames_tn) * np.float32(self._scale)
        return power_tf

    def fine(self, power_tf: Floats) -> Floats:
        """Return the logarithm of spectra without their envelope: harmonics, and noise. Shapes: (t, f) -> same."""
        floor_t = 1e-4 * power_tf.max(axis=1, keepdims=True) + np.float32(1e-15)
        log_tf = np.log(power_tf + floor_t)

        # The envelope is a mean over the frequencies around; the spectrum's ends are repeated.
        width = 2 * self._around + 1
        before_tf = np.repeat(log_tf[:, :1], self._around + 1, axis=1)
        after_tf = np.repeat(log_tf[:, -1:], self._around, axis=1)
        sums_tf = np.cumsum(np.concatenate([before_tf, log_tf, after_tf], axis=1), axis=1)
        fine_tf: Floats = log_tf - (sums_tf[:, width:] - sums_tf[:, :-width]) / np.float32(width)
        return fine_tf

    def pitch(self, fine_tf: Floats) -> tuple[Floats, Floats]:
        """Return the share of each frame that the best pitch explains, and that pitch in semitones.

        Shapes: (t, f) -> (t,), (t,).
        """
        match_tp = fine_tf @ self._combs_fp
        best_t = match_tp.argmax(axis=1)
        rows = np.arange(len(match_tp))
        explained_t = match_tp[rows, best_t] / np.sqrt(np.einsum("tf,tf->t", fine_tf, fine_tf) + np.float32(1e-6))

        # The top of the parabola through the best and its neighbours.
        middle_t = np.clip(best_t, 1, match_tp.shape[1] - 2)
        below_t, at_t, above_t = (match_tp[rows, middle_t + i] for i in (-1, 0, 1))
        bend_t = np.minimum(2 * (below_t - 2 * at_t + above_t), np.float32(-1e-9))
        pitch_t: Floats = (middle_t + np.clip((below_t - above_t) / bend_t, -1, 1)).astype(np.float32) / 2
        return explained_t, pitch_t

    def shape(self, power_tf: Floats) -> Floats:
        """Return the levels of the bands relative to their mean in the same frame. Shapes: (t, f) -> (t, b)."""
        bands_tb = power_tf @ self._bands_fb
        levels_tb = 10 * np.log10(bands_tb + np.float32(1e-3) * bands_tb.max() + np.float32(1e-15))
        shape_tb: Floats = levels_tb - levels_tb.mean(axis=1, keepdims=True)
        return shape_tb


@lru_cache(maxsize=8)
def _ear(rate_hz: int) -> _Ear:
    return _Ear(rate_hz)


def _comb(hz: npt.NDArray[np.floating], pitch_hz: float) -> npt.NDArray[np.floating]:
    """Return a pattern of norm 1 with peaks at a pitch's harmonics and valleys between them. Shapes: (f,) -> (f,)."""
    comb_f = np.zeros(len(hz))
    for number in range(1, int(_HARMONICS_HZ / pitch_hz) + 1):
        for at_hz, sign in ((number * pitch_hz, 1), ((number - 0.5) * pitch_hz, -1)):
            comb_f += sign / math.sqrt(number) * np.maximum(0, 1 - np.abs(hz - at_hz) / (hz[1] - hz[0]))
    comb_f -= comb_f.mean()
    return comb_f / max(1e-9, float(np.sqrt((comb_f**2).sum())))


def _quantile(values: Floats, share: float) -> float:
    """Return a quantile that is one of the values; several times as fast as numpy's, which interpolates."""
    at = round(share * (len(values) - 1))
    return float(np.partition(values, at)[at])


def _flatness(power_tf: Floats) -> Floats:
    flatness_t: Floats = np.log(power_tf + np.float32(1e-15)).mean(axis=1) - np.log(power_tf.mean(axis=1) + 1e-15)
    return flatness_t
