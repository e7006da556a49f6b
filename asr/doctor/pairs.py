"""Compare texts with durations: rows out of line, texts that belong to other rows, audio at another speed.

Axes: r rows.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.doctor.characters import excerpt
from asr.doctor.examination import Examination
from asr.doctor.findings import LoadedManifest, ManifestRow

Values = npt.NDArray[np.float64]

#: Robust deviations of log(characters per second) from a manifest's median that are suspicious. On real corpora of
#: short commands and of read sentences 5 finds at most one row in a thousand; a wrong text is often beyond it.
_SUSPICIOUS_DEVIATIONS = 5.0
#: a median over fewer rows is not reliable
_ENOUGH_ROWS = 30
#: In a very uniform corpus, a row that is 1.6 times as fast must not be suspicious: 5 x 0.1.
_SMALLEST_DEVIATION = 0.1
#: Nobody speaks faster: the fastest readers reach 25 characters per second (300 words per minute) for a moment.
_FASTEST = 30.0
#: slower than this, in an utterance of 5 s or more, is silence or a missing text in any script
_SLOWEST, _SLOW_FROM_S = 0.5, 5.0

#: Number of rows by which texts may be shifted. A lost or extra line in a table shifts them by one.
_SHIFTS = (-1, 1, -2, 2, -3, 3)
#: Nats by which texts of other rows must fit better, in total, and the maximum that one row contributes. None of AN4,
#: LJ Speech, speechocean762, FSDD and synthetic digits reached 19, in their order and in 60 random orders each. With
#: the texts one row off from the middle on, each set except FSDD had 60 or more.
_ENOUGH_NATS, _MOST_NATS = 25.0, 4.0
#: least correlation with the right texts, and its least gain (sets sorted by length correlate with neighbours too)
_LEAST_CORRELATION, _LEAST_GAIN = 0.3, 0.25
#: Sentences and durations that vary at least so much (deviation over mean) correlate if the pairs are right.
_UNRELATED_ROWS, _SENTENCE, _VARIED_TEXT, _VARIED_AUDIO, _UNRELATED = 100, 20.0, 0.25, 0.2, 0.2

#: A median, over a whole set, that no speakers reach: read and spontaneous corpora have 7 to 18.
_FASTEST_SET = 24.0
#: factors of speed that a wrong rate causes between 8 and 16, 22.05 and 44.1, 24 and 48 kHz
_DOUBLE = (1.7, 2.4)
#: Distance of the means of two groups, in deviations within them. One normal distribution cut in two has 2.7, LJ Speech
#: with half of it at double speed 6.4, the digits 3.7, AN4 and speechocean762 as they are up to 3.1.
_TWO_GROUPS, _TWO_GROUPS_ROWS, _SMALLEST_SHARE = 3.6, 100, 0.05
_SPEAKERS, _SPEAKER_ROWS = 6, 10
#: Letters that one character of a script counts for, about, as Chinese, Korean and Japanese need fewer characters.
_HEAVY = (
    (re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), 2.0),
    (re.compile("[\uac00-\ud7a3]"), 1.5),
    (re.compile("[\u3040-\u30ff]"), 1.0),
)


def letters_in(text: str) -> float:
    """Return the length of a text in letters; a character of scripts that write syllables or words counts for several.

    >>> letters_in("two words"), letters_in("你好")
    (9.0, 6.0)
    """
    length = float(len(text))
    if text.isascii():
        return length
    return length + sum(more * len(pattern.findall(text)) for pattern, more in _HEAVY)


def check_pairs(examination: Examination) -> None:
    """Find texts that belong to the audio of other rows, by the correlation of their lengths with the durations."""
    for manifest in examination.manifests:
        rows = manifest.rows
        if len(rows) < _ENOUGH_ROWS:
            continue
        letters_r = np.array([letters_in(row.text) for row in rows])
        seconds_r = np.array([row.utterance.duration_s for row in rows])
        shift = find_shift(letters_r, seconds_r)
        if shift is None:
            _check_unrelated(manifest, letters_r, seconds_r, examination)
            continue

        count = f"{abs(shift.by)} row{'s' if abs(shift.by) > 1 else ''} {'before' if shift.by < 0 else 'after'}"
        lines = f"from line {rows[shift.start].line} to {rows[shift.stop - 1].line}"
        examination.finding("wrong-pairs").details.append(
            f"{manifest.path}: {lines} ({shift.stop - shift.start:,} of {len(rows):,} rows) the audio fits the text of "
            f"{count} its own: text length and duration correlate with {shift.then:.2f}, as they stand with "
            f"{shift.now:.2f}"
        )
        for i in range(shift.start, shift.stop):
            text = excerpt(rows[i].text, 0)
            better = excerpt(rows[i + shift.by].text, 0)
            examination.add("wrong-pairs", rows[i], f"{seconds_r[i]:.2f} s with {text}, better with {better}")


@dataclass(frozen=True)
class Shift:
    """Hold rows whose audio fits the text of the row ``by`` further on; correlations before (now) and after (then)."""

    start: int
    stop: int
    by: int
    now: float
    then: float


def find_shift(letters_r: Values, seconds_r: Values) -> Shift | None:
    """Find the rows, all or a contiguous part, whose texts are those of rows before or after; None if all are right.

    Ranks are treated as normally distributed. The gain of a row is the number of nats by which a text some rows on
    explains its duration better. The part with the largest sum of gains is taken.
    """
    x_r = _ranks(letters_r)
    y_r = _ranks(seconds_r)
    best = _ENOUGH_NATS
    found = None
    for by in _SHIFTS:
        at_r = np.arange(max(0, -by), len(x_r) - max(0, by))
        own_r = x_r[at_r]
        other_r = x_r[at_r + by]
        audio_r = y_r[at_r]

        # If a part of the rows is shifted, each of the two pairings has its share of the correlation.
        rho = min(0.95, max(0.0, float(np.mean(own_r * audio_r) + np.mean(other_r * audio_r))))
        gain_r = ((audio_r - rho * own_r) ** 2 - (audio_r - rho * other_r) ** 2) / (2 * (1 - rho**2))

        # The part with the largest sum ends where the running sum is highest above its lowest value so far.
        sums = np.concatenate([[0.0], np.cumsum(np.clip(gain_r, -_MOST_NATS, _MOST_NATS))])
        lowest = np.minimum.accumulate(sums)
        end = int(np.argmax(sums - lowest))
        start = int(np.flatnonzero(sums[: end + 1] == lowest[end])[-1])
        if sums[end] - sums[start] <= best:
            continue

        now = _correlation(own_r[start:end], audio_r[start:end])
        then = _correlation(other_r[start:end], audio_r[start:end])
        if then >= _LEAST_CORRELATION and now <= then / 2 and then - now >= _LEAST_GAIN:
            best = sums[end] - sums[start]
            found = Shift(int(at_r[start]), int(at_r[end - 1]) + 1, by, now, then)
    return found


def _check_unrelated(manifest: LoadedManifest, letters_r: Values, seconds_r: Values, examination: Examination) -> None:
    """Find sentences whose lengths do not correlate with the durations: the pairs are in disorder."""
    if len(manifest.rows) < _UNRELATED_ROWS or letters_r.mean() < _SENTENCE:
        return
    if letters_r.std() < _VARIED_TEXT * letters_r.mean() or seconds_r.std() < _VARIED_AUDIO * seconds_r.mean():
        return
    correlation = _correlation(_ranks(letters_r), _ranks(seconds_r))
    if correlation + 3 / math.sqrt(len(manifest.rows)) < _UNRELATED:
        value = f"text length and duration of its {len(manifest.rows):,} rows correlate with {correlation:.2f} only"
        examination.add_group("wrong-pairs", manifest.rows, value, "warning")


def _ranks(values_r: Values) -> Values:
    """Return ranks, equal ones shared, with mean 0 and deviation 1 (0 if all are equal)."""
    _, place_r, counts = np.unique(values_r, return_inverse=True, return_counts=True)
    ranks_r = (np.cumsum(counts) - (counts - 1) / 2)[place_r]
    centred_r: Values = ranks_r - ranks_r.mean()
    return centred_r / (centred_r.std() or 1.0)


def _correlation(a_r: Values, b_r: Values) -> float:
    deviations = a_r.std() * b_r.std()
    return float(((a_r - a_r.mean()) * (b_r - b_r.mean())).mean() / deviations) if deviations else 0.0


def check_speed(examination: Examination) -> None:
    """Find audio that plays too fast or too slowly, as with a wrong sample rate: a whole set, a speaker, or a part."""
    for manifest in examination.manifests:
        rows = [row for row in manifest.rows if row.text and not row.has_error]
        if len(rows) < _ENOUGH_ROWS:
            continue
        speeds_r = np.array([math.log(letters_in(row.text) / row.utterance.duration_s) for row in rows])
        median = math.exp(float(np.median(speeds_r)))
        if median > _FASTEST_SET:
            speed = f"over {median:.1f} letters per second, faster than anybody reads"
            value = f"half of the {len(rows):,} rows have {speed}"
            examination.add_group("speed", rows, value)
        elif not _check_two_speeds(rows, speeds_r, examination):
            _check_speakers(rows, speeds_r, examination)


def _check_two_speeds(rows: Sequence[ManifestRow], speeds_r: Values, examination: Examination) -> bool:
    """Report and return true if the rows are two groups, one about twice as fast as the other."""
    n = len(rows)
    if n < _TWO_GROUPS_ROWS:
        return False
    order = np.argsort(speeds_r, kind="stable")
    sorted_r = speeds_r[order]

    # Otsu's threshold: the k slowest rows and the others have means that are as far apart as possible.
    sums = np.cumsum(sorted_r)
    slow_k = np.arange(1, n)
    low_k = sums[:-1] / slow_k
    high_k = (sums[-1] - sums[:-1]) / (n - slow_k)
    cut = int(np.argmax(slow_k * (n - slow_k) * (high_k - low_k) ** 2))
    low = float(low_k[cut])
    high = float(high_k[cut])
    slow = cut + 1

    within = math.sqrt((np.sum((sorted_r[:slow] - low) ** 2) + np.sum((sorted_r[slow:] - high) ** 2)) / n)
    times = math.exp(high - low)
    if not _DOUBLE[0] <= times <= _DOUBLE[1] or min(slow, n - slow) < _SMALLEST_SHARE * n:
        return False
    if high - low < _TWO_GROUPS * within:
        return False
    value = (
        f"{n - slow:,} of {n:,} rows are {times:.1f} times as fast as the others "
        f"({math.exp(high):.1f} and {math.exp(low):.1f} letters per second)"
    )
    examination.add_group("speed", [rows[i] for i in sorted(order[slow:])], value)
    return True


def _check_speakers(rows: Sequence[ManifestRow], speeds_r: Values, examination: Examination) -> None:
    """Find speakers who are far from all the others, relative to the spread of the speakers of this set."""
    rows_of: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.utterance.speaker:
            rows_of.setdefault(row.utterance.speaker, []).append(i)
    medians = {s: float(np.median(speeds_r[places])) for s, places in rows_of.items() if len(places) >= _SPEAKER_ROWS}
    if len(medians) < _SPEAKERS:
        return

    usual = statistics.median(medians.values())
    least = max(math.log(_DOUBLE[0]), _SUSPICIOUS_DEVIATIONS * _deviation(list(medians.values()), usual))
    for speaker, median in medians.items():
        if abs(median - usual) > least:
            value = f"speaker '{speaker}': {math.exp(median):.1f} letters per second, the others {math.exp(usual):.1f}"
            examination.add_group("speed", [rows[i] for i in rows_of[speaker]], value)


def check_rate_of_speech(examination: Examination) -> None:
    """Find rows with far more or fewer characters per second than their manifest's median, or than anybody speaks."""
    for manifest in examination.manifests:
        rows = [row for row in manifest.rows if row.text and not row.has_error]
        rates = [len(row.text) / row.utterance.duration_s for row in rows]
        usual = ""
        lowest = 0.0
        highest = math.inf
        if len(rows) >= _ENOUGH_ROWS:
            logs = [math.log(rate) for rate in rates]
            median = statistics.median(logs)
            usual = f", the median is {math.exp(median):.1f}"
            spread = _SUSPICIOUS_DEVIATIONS * max(_SMALLEST_DEVIATION, _deviation(logs, median))
            lowest = math.exp(median - spread)
            highest = math.exp(median + spread)

        for row, rate in zip(rows, rates, strict=True):
            seconds = row.utterance.duration_s
            too_slow = rate < _SLOWEST and seconds >= _SLOW_FROM_S
            if rate > _FASTEST or too_slow or not lowest <= rate <= highest:
                value = f"{rate:.1f} characters per second ({len(row.text)} in {seconds:.2f} s){usual}"
                examination.add("rate-of-speech", row, f"{value}: {excerpt(row.text, 0)}")


def _deviation(values: Sequence[float], median: float) -> float:
    """Return the median absolute deviation, scaled to the standard deviation of a normal distribution."""
    return 1.4826 * statistics.median(abs(value - median) for value in values)
