"""Check rows against headers, vocabulary and samples. Each check adds to the findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from asr.data.text import has_digits
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.doctor.characters import excerpt
from asr.doctor.examination import Examination
from asr.doctor.findings import LoadedManifest, ManifestRow
from asr.doctor.sound import AudioHeader, SampleStatistics
from asr.sound.recording import SLACK_S

#: a character is rare in at most this many rows of at least this many
_RARE_ROWS, _RARE_FROM_ROWS = 3, 500
#: of the samples; peaks of loud speech touch full scale a few times a second
_CLIPPED = 1e-3
#: of the frames
_SILENT = 0.9
#: Of the power above 4.2 kHz: recordings of AN4, LJ Speech and speechocean762 have 2e-6 and more, and 2e-8, with quiet
#: exceptions, when they are brought to 8 kHz and back.
_NARROW = 1e-6
#: of full scale (8-bit rounding gives up to 1/256), and of the wave's own deviation: less is lost in the speech
_OFFSET, _OFFSET_RATIO = 0.004, 0.1


def check_headers(examination: Examination) -> None:
    """Check rows against the headers of their files; rows of files that were not read are skipped."""
    rates = Counter(header.rate_hz for header in examination.headers.values() if header.rate_hz)
    usual_hz = max(rates, key=lambda hz: (rates[hz], hz), default=0)
    # A row that is alone in its file should name all of it.
    rows_of_file = Counter(row.audio_path for row in examination.rows)

    for row in examination.rows:
        header = examination.headers.get(row.audio_path)
        if header is None:
            continue
        if header.code:
            examination.add(header.code, row, f"{row.utterance.audio_path}: {header.why}")
            continue
        if header.truncated:
            _check_truncated(row, header, examination)
        _check_format(row, header, usual_hz, examination)
        _check_span(row, header, rows_of_file[row.audio_path], examination)


def _check_truncated(row: ManifestRow, header: AudioHeader, examination: Examination) -> None:
    """Report a cut file: an error for rows that need what is lost, a warning for others."""
    u = row.utterance
    value = f"{u.audio_path}: {header.truncated}"
    if u.offset_s + u.duration_s > header.duration_s + SLACK_S:
        examination.add("audio-truncated", row, value, "error")
    else:
        examination.add("audio-truncated", row, f"{value} (the row ends before the cut)", "warning")


def _check_format(row: ManifestRow, header: AudioHeader, usual_hz: int, examination: Examination) -> None:
    """Check the channels and the sample rate."""
    channel = row.utterance.channel
    if header.channels > 1 and channel is None:
        examination.add("channels", row, f"{header.channels} channels")
    if isinstance(channel, int) and channel > header.channels:
        examination.add("channels", row, f"channel {channel} of {header.channels}")

    wanted = examination.audio
    rate = f"{header.rate_hz} Hz"
    if wanted is None:
        if header.rate_hz != usual_hz:
            examination.add("rate", row, f"{rate}, most files have {usual_hz} Hz", "warning")
    elif header.rate_hz != wanted.sample_rate_hz:
        if wanted.resample:
            examination.add("rate", row, f"{rate}, will be resampled to {wanted.sample_rate_hz} Hz", "note")
        else:
            examination.add("rate", row, f"{rate}, the model wants {wanted.sample_rate_hz} Hz")


def _check_span(row: ManifestRow, header: AudioHeader, rows_of_file: int, examination: Examination) -> None:
    """Check that the file holds the part that the row names; a row that is alone in its file should name all of it."""
    u = row.utterance
    ends_s = u.offset_s + u.duration_s
    if header.truncated and ends_s > header.duration_s:
        return

    hint = ""
    ratio = ends_s / header.duration_s
    if min(abs(ratio - 2), abs(2 * ratio - 1)) < 0.01:
        hint = "; a factor of 2: the sample rate of one is wrong"
    if u.offset_s and header.samples_in(u.offset_s) >= header.num_samples:
        examination.add("duration", row, f"starts at {u.offset_s:.2f} s, the file ends at {header.duration_s:.2f} s")
    elif ends_s - header.duration_s > SLACK_S:
        value = f"ends at {ends_s:.2f} s in the manifest, the file ends at {header.duration_s:.2f} s{hint}"
        examination.add("duration", row, value)
    elif header.duration_s - ends_s > SLACK_S and not u.offset_s and rows_of_file == 1:
        value = f"{ends_s:.2f} s in the manifest, {header.duration_s:.2f} s in the file: the rest is not used{hint}"
        examination.add("duration", row, value, "warning")


def means_whole_file(row: ManifestRow, header: AudioHeader) -> bool:
    """Return true if a row is all of its file, as far as its rounded duration says."""
    return not row.utterance.offset_s and row.utterance.duration_s >= header.duration_s - SLACK_S


def check_texts(examination: Examination) -> None:
    """Check texts: empty, with digits; if a model is expected: its characters, and enough steps for the labels."""
    loaded = examination.manifests
    expected = examination.expected
    batches = [loaded]
    if expected is not None and expected.tokenizer is None:
        # Training rows first: those that have an error, also one found here, add no character to the vocabulary.
        batches = [[m for m in loaded if m.is_training], [m for m in loaded if not m.is_training]]

    tokenizer = None
    for manifests in batches:
        tokenizer = _vocabulary(examination)
        _check_texts_of(manifests, tokenizer, examination)
    _check_rare_characters(loaded, examination)

    if expected is None:
        examination.skipped.append("sample rate, vocabulary and output steps of a model: give --config or --model")
    elif tokenizer is None:
        why = "a config takes the vocabulary from a training manifest, give one"
        if any(manifest.is_training for manifest in loaded):
            why = "no row of the training manifest is without an error; mend those first"
        examination.skipped.append(f"vocabulary and output steps: {why}")


def _vocabulary(examination: Examination) -> Tokenizer | None:
    """Return the expected vocabulary, or that of the training rows without errors; None if there is none."""
    expected = examination.expected
    if expected is None or expected.tokenizer is not None:
        return None if expected is None else expected.tokenizer
    texts = [row.text for row in examination.rows if row.manifest.is_training and not row.has_error]
    return CharTokenizer.from_texts(texts) if texts else None


def _check_texts_of(manifests: Sequence[LoadedManifest], tokenizer: Tokenizer | None, examination: Examination) -> None:
    expected = examination.expected
    unknown: Counter[str] = Counter()
    for manifest in manifests:
        steps = None
        if expected is not None and tokenizer is not None:
            steps = expected.num_steps(_num_samples(manifest, examination.headers, expected.audio.sample_rate_hz))
        for i, row in enumerate(manifest.rows):
            text = row.text
            if not text:
                examination.add("text-empty", row, "''")
                continue
            longest_s = expected.longest_s if expected is not None and manifest.is_training else None
            if longest_s is not None and row.utterance.duration_s > longest_s:
                examination.add("too-long", row, f"{row.utterance.duration_s:.1f} s, over {longest_s:g} s")
            if has_digits(text):
                first = next(i for i, c in enumerate(text) if has_digits(c))
                examination.add("digits-in-text", row, excerpt(text, first))
            if expected is None or tokenizer is None or steps is None:
                continue

            missing = tokenizer.unknown(text)
            if missing:
                unknown.update(missing)
                listed = ", ".join(map(_with_code, missing[:5])) + (", …" if missing[5:] else "")
                examination.add("characters", row, f"{listed} in {excerpt(text, text.find(missing[0]))}")
                continue
            needed = expected.min_steps(tokenizer.encode(text))
            if needed > steps[i]:
                examination.add("too-short-for-text", row, f"{needed} label steps, the audio gives {steps[i]}")
    if unknown and tokenizer is not None:
        _summarise_unknown(unknown, tokenizer, examination)


def _num_samples(manifest: LoadedManifest, headers: Mapping[str, AudioHeader], rate_hz: int) -> npt.NDArray[np.int64]:
    """Return the samples of each row at the model's rate: as many as the file has, as far as the row names them."""
    counts = np.empty(len(manifest.rows), np.int64)
    for i, row in enumerate(manifest.rows):
        u = row.utterance
        seconds = u.duration_s
        header = headers.get(row.audio_path)
        if header is not None and not header.code:
            if not u.offset_s and abs(header.duration_s - u.duration_s) <= SLACK_S:
                seconds = header.duration_s
            else:
                seconds = min(u.duration_s, max(0.0, header.duration_s - u.offset_s))
        counts[i] = seconds * rate_hz + 1e-6
    return counts


def _summarise_unknown(unknown: Counter[str], tokenizer: Tokenizer, examination: Examination) -> None:
    """Count the rows of each unknown character; say so if another letter case is the remedy."""
    details = examination.finding("characters").details
    listed = ", ".join(f"{_with_code(c)} {n:,}" for c, n in unknown.most_common(20))
    details.append(f"rows with each: {listed}{', …' if len(unknown) > 20 else ''}")
    for case, swap in (("upper", str.upper), ("lower", str.lower)):
        cured = sum(n for c, n in unknown.items() if swap(c) != c and set(swap(c)) <= tokenizer.characters.keys())
        if 2 * cured > unknown.total():
            details.append(f"the vocabulary has the {case}-case forms: set text.normalization={case}")


def _with_code(c: str) -> str:
    return f"{c!r} (U+{ord(c):04X})"


def _check_rare_characters(loaded: Sequence[LoadedManifest], examination: Examination) -> None:
    """Find characters of very few training rows (of all rows if no manifest is for training)."""
    chosen = [manifest for manifest in loaded if manifest.is_training] or loaded
    rows = [row for manifest in chosen for row in manifest.rows]
    if len(rows) < _RARE_FROM_ROWS:
        return

    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(set(row.text))
    rare = {c for c, n in counts.items() if n <= _RARE_ROWS}
    if not rare:
        return

    for row in rows:
        found = next((c for c in row.text if c in rare), None)
        if found is not None:
            examination.add("character-rare", row, f"{_with_code(found)} in {excerpt(row.text, row.text.index(found))}")


def check_sound(row: ManifestRow, sound: SampleStatistics, examination: Examination) -> None:
    """Check the samples of a row."""
    if sound.code:
        examination.add(sound.code, row, f"{row.utterance.audio_path}: {sound.why}")
        return
    if sound.constant:
        examination.add("silence", row, "all samples are equal", "error" if row.text else "warning")
        return
    if sound.silent >= _SILENT:
        examination.add("silence", row, f"{sound.silent:.0%} of it is below -60 dBFS")
    if sound.clipped >= _CLIPPED:
        examination.add("clipping", row, f"{sound.clipped:.2%} of the samples, peak {sound.peak:.3f}")
    if abs(sound.mean) >= max(_OFFSET, _OFFSET_RATIO * sound.deviation):
        examination.add("dc-offset", row, f"mean {sound.mean:+.4f}, deviation {sound.deviation:.4f} of full scale")
    if sound.high < _NARROW and sound.silent < _SILENT:
        examination.add(
            "narrow-band", row, f"{10 * math.log10(sound.high + 1e-20):.0f} dB of its power are above 4.2 kHz"
        )
