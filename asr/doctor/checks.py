"""The checks of rows: what headers, texts, speakers and samples say of them. Each adds to the findings."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.config import AudioConfig
from asr.data.text import has_digits
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.doctor.characters import shown
from asr.doctor.findings import Findings, Loaded, Row
from asr.doctor.sound import Header, Sound

#: what ``asr.data.audio`` and ``asr.batch`` allow a rounded duration and a codec's padding
SLACK_S = 0.02
_RARE_ROWS, _RARE_FROM_ROWS = 3, 500
#: more than any file has, and still a whole number of 64 bits
_MOST_SAMPLES = 2**62
#: of the samples; peaks of loud speech touch full scale a few times a second
_CLIPPED = 1e-3
_SILENT = 0.9
#: Of the power above 4.2 kHz: recordings of AN4, LJ Speech and speechocean762 have 2e-6 and more, and 2e-8, with quiet
#: exceptions, when they are brought to 8 kHz and back.
_NARROW = 1e-6
#: of full scale (8-bit rounding gives up to 1/256), and of the wave's own deviation: less is lost in the speech
_OFFSET, _OFFSET_RATIO = 0.004, 0.1


@dataclass(frozen=True)
class Expected:
    """What a model wants; ``asr.doctor.expected`` makes it from a model folder or a config.

    ``num_steps``: samples to output steps; ``min_steps``: labels to the steps they need. Without a ``tokenizer`` the
    vocabulary is that of the training manifests. ``longest_s``: what training leaves out.
    """

    audio: AudioConfig
    normalization: str
    tokenizer: Tokenizer | None
    num_steps: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
    min_steps: Callable[[Sequence[int]], int]
    longest_s: float | None = None


@dataclass(frozen=True)
class Files:
    """The audio files of some manifests: each path once, and which one each row names, manifest by manifest."""

    paths: list[str]
    of_row: list[list[int]]
    #: rows that name each file
    uses: list[int]

    def rows(self, loaded: Sequence[Loaded]) -> Iterator[tuple[Row, int]]:
        """Every row, and the place of its file."""
        for one, files in zip(loaded, self.of_row, strict=True):
            yield from zip(one.rows, files, strict=True)


def files_of(loaded: Sequence[Loaded]) -> Files:
    place: dict[str, int] = {}
    of_row = []
    for one in loaded:
        # Strings, not paths: 300,000 path objects cost a second.
        folder = str(one.path.parent)
        folder = "" if folder == "." else folder.rstrip("/") + "/"
        names = (row.utterance.audio_path for row in one.rows)
        of_row.append([place.setdefault(n if _is_absolute(n) else folder + n, len(place)) for n in names])
    uses = Counter(file for files in of_row for file in files)
    return Files(list(place), of_row, [uses[i] for i in range(len(place))])


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or (os.name == "nt" and Path(name).is_absolute())


def check_headers(
    loaded: Sequence[Loaded], files: Files, headers: Sequence[Header | None], wanted: AudioConfig | None,
    findings: Findings,
) -> None:  # fmt: skip
    """What the headers say; where there is none, it was not read."""
    rates = Counter(header.rate_hz for header in headers if header and header.rate_hz)
    usual_hz = wanted.sample_rate_hz if wanted else max(rates, key=lambda hz: (rates[hz], hz), default=0)
    for row, file in files.rows(loaded):
        header = headers[file]
        if header is None:
            continue
        if header.code:
            findings.add(header.code, row, f"{row.utterance.audio_path}: {header.why}")
            continue
        if header.truncated:
            _check_cut(row, header, findings)
        channel = row.utterance.channel
        if header.channels > 1 and channel is None:
            findings.add("channels", row, f"{header.channels} channels")
        if isinstance(channel, int) and channel > header.channels:
            findings.add("channels", row, f"channel {channel} of {header.channels}")
        if header.rate_hz != usual_hz:
            if wanted is None:
                findings.add("rate", row, f"{header.rate_hz} Hz, most files have {usual_hz} Hz", "warning")
            elif wanted.resample:
                findings.add("rate", row, f"{header.rate_hz} Hz, will be resampled to {usual_hz} Hz", "note")
            else:
                findings.add("rate", row, f"{header.rate_hz} Hz, the model wants {usual_hz} Hz")
        _check_span(row, header, files.uses[file], findings)


def _check_cut(row: Row, header: Header, findings: Findings) -> None:
    """A cut file is an error for the rows that need what is lost, and for others worth a warning."""
    u = row.utterance
    lost = u.offset_s + u.duration_s > header.frames / header.rate_hz + SLACK_S
    findings.add(
        "audio-truncated",
        row,
        f"{u.audio_path}: {header.truncated}" + ("" if lost else " (the row ends before the cut)"),
        "error" if lost else "warning",
    )


def _check_span(row: Row, header: Header, uses: int, findings: Findings) -> None:
    u = row.utterance
    ends_s, says_s = header.frames / header.rate_hz, u.offset_s + u.duration_s
    if header.truncated and says_s > ends_s:
        return
    if u.offset_s and samples_in(u.offset_s, header.rate_hz) >= header.frames:
        findings.add("duration", row, f"starts at {u.offset_s:.2f} s, the file ends at {ends_s:.2f} s")
    elif says_s - ends_s > SLACK_S:
        value = f"ends at {says_s:.2f} s in the manifest, the file ends at {ends_s:.2f} s{_twice(says_s, ends_s)}"
        findings.add("duration", row, value)
    elif ends_s - says_s > SLACK_S and not u.offset_s and uses == 1:  # else it is a part of a recording
        value = (
            f"{says_s:.2f} s in the manifest, {ends_s:.2f} s in the file: the rest is not used{_twice(says_s, ends_s)}"
        )
        findings.add("duration", row, value, "warning")


def _twice(says_s: float, ends_s: float) -> str:
    """What is likely where one length is twice the other."""
    ratio = says_s / ends_s
    return "; a factor of 2: the sample rate of one is wrong" if min(abs(ratio - 2), abs(2 * ratio - 1)) < 0.01 else ""


def num_samples(
    one: Loaded, files: Sequence[int], headers: Sequence[Header | None], rate_hz: int
) -> npt.NDArray[np.int64]:
    """Samples of each row at the model's rate: the file's own where a row means all of it, else as the row says."""
    out = np.empty(len(one.rows), np.int64)
    for i, (row, file) in enumerate(zip(one.rows, files, strict=True)):
        u, header = row.utterance, headers[file]
        seconds = u.duration_s
        if header is not None and not header.code:
            ends_s = header.frames / header.rate_hz
            whole = not u.offset_s and abs(ends_s - u.duration_s) <= SLACK_S
            seconds = ends_s if whole else min(u.duration_s, max(0.0, ends_s - u.offset_s))
        out[i] = min(seconds * rate_hz + 1e-6, _MOST_SAMPLES)
    return out


def samples_in(seconds: float, rate_hz: int) -> int:
    """Samples in that time, however absurd: a manifest may say 1e300 seconds."""
    return round(min(seconds * rate_hz, _MOST_SAMPLES))


def vocabulary(loaded: Sequence[Loaded], expected: Expected, findings: Findings) -> Tokenizer | None:
    """The expected vocabulary, or that of the training rows without errors; None when there is no training set."""
    if expected.tokenizer is not None:
        return expected.tokenizer
    rows = [row for one in loaded if one.is_training for row in one.rows if not findings.has_error(row)]
    return CharTokenizer.from_texts(row.text for row in rows) if rows else None


def check_texts(
    loaded: Sequence[Loaded], which: Iterable[int], steps: Sequence[npt.NDArray[np.int64]] | None,
    expected: Expected | None, tokenizer: Tokenizer | None, findings: Findings,
) -> None:  # fmt: skip
    """What the texts of some manifests say: empty, with digits; with a vocabulary: characters, labels."""
    unknown: Counter[str] = Counter()
    for index in which:
        one = loaded[index]
        for i, row in enumerate(one.rows):
            text = row.text
            if not text:
                findings.add("text-empty", row, "''")
                continue
            if expected and expected.longest_s and one.is_training and row.utterance.duration_s > expected.longest_s:
                findings.add("too-long", row, f"{row.utterance.duration_s:.1f} s, over {expected.longest_s:g} s")
            if has_digits(text):
                findings.add("digits-in-text", row, shown(text, next(i for i, c in enumerate(text) if has_digits(c))))
            if tokenizer is None or expected is None:
                continue
            missing = tokenizer.unknown(text)
            if missing:
                unknown.update(missing)
                listed = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in missing[:5]) + (", …" if missing[5:] else "")
                findings.add("characters", row, f"{listed} in {shown(text, text.find(missing[0]))}")
            elif steps is not None:
                needed, given = expected.min_steps(tokenizer.encode(text)), int(steps[index][i])
                if needed > given:
                    findings.add("too-short-for-text", row, f"{needed} label steps, the audio gives {given}")
    if unknown:
        assert tokenizer is not None  # it is what did not know them
        _tell_unknown(unknown, tokenizer, findings)


def _tell_unknown(unknown: Counter[str], tokenizer: Tokenizer, findings: Findings) -> None:
    details = findings.of("characters").details
    listed = ", ".join(f"{c!r} (U+{ord(c):04X}) {n:,}" for c, n in unknown.most_common(20))
    details.append(f"rows with each: {listed}{', …' if len(unknown) > 20 else ''}")
    for other, swap in (("upper", str.upper), ("lower", str.lower)):
        cured = sum(n for c, n in unknown.items() if swap(c) != c and not tokenizer.unknown(swap(c)))
        if 2 * cured > unknown.total():
            details.append(f"the vocabulary has the {other}-case forms: set text.normalization={other}")


def check_rare_characters(loaded: Sequence[Loaded], findings: Findings) -> None:
    """Characters of very few training rows (of all rows where no manifest is for training)."""
    chosen = [one for one in loaded if one.is_training] or loaded
    rows: Counter[str] = Counter()
    if sum(len(one.rows) for one in chosen) < _RARE_FROM_ROWS:
        return
    for one in chosen:
        for row in one.rows:
            rows.update(set(row.text))
    rare = {c: n for c, n in rows.items() if n <= _RARE_ROWS}
    if not rare:
        return
    for one in chosen:
        for row in one.rows:
            found = [c for c in row.text if c in rare]
            if found:
                value = f"{found[0]!r} (U+{ord(found[0]):04X}) in {shown(row.text, row.text.index(found[0]))}"
                findings.add("character-rare", row, value)


def check_sound(row: Row, sound: Sound, has_text: bool, findings: Findings) -> None:
    """What the samples of a row say."""
    if sound.code:
        findings.add(sound.code, row, f"{row.utterance.audio_path}: {sound.why}")
        return
    if sound.constant:
        findings.add("silence", row, "all samples are equal", "error" if has_text else "warning")
        return
    if sound.silent >= _SILENT:
        findings.add("silence", row, f"{sound.silent:.0%} of it is below -60 dBFS")
    if sound.clipped >= _CLIPPED:
        findings.add("clipping", row, f"{sound.clipped:.2%} of the samples, peak {sound.peak:.3f}")
    if abs(sound.mean) >= max(_OFFSET, _OFFSET_RATIO * sound.deviation):
        findings.add("dc-offset", row, f"mean {sound.mean:+.4f}, deviation {sound.deviation:.4f} of full scale")
    if sound.high < _NARROW and sound.silent < _SILENT:
        findings.add("narrow-band", row, f"{10 * math.log10(sound.high + 1e-20):.0f} dB of its power are above 4.2 kHz")
