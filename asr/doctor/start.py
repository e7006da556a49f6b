"""The part of the doctor that every training run begins with: what is cheap, and what training does not find itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from asr.config import AudioConfig
from asr.data.manifest import Manifest
from asr.doctor import checks, overlap, pairs
from asr.doctor.characters import check_characters
from asr.doctor.findings import Findings
from asr.doctor.rows import from_manifest
from asr.doctor.sound import Header, read_headers
from asr.errors import DataError, command

#: Headers read at the start: all of a corpus of this many files (a second or two), else so many spread over it.
MOST_HEADERS, SOME_HEADERS = 20_000, 2_000
#: on a slow disk, fewer
_LONGEST_S = 4.0
_PIECE = 256
#: said when the run starts; the rest of what the doctor finds is for the command
_CODES = (
    "overlap-speaker", "overlap-text", "duplicate-audio", "rate-of-speech", "speed", "digits-in-text",
    "text-unicode", "text-lookalike", "text-invisible", "text-markup",
)  # fmt: skip


def check_start(
    train: Manifest, kept: Iterable[int], dev: Manifest, wanted: AudioConfig, normalization: str
) -> list[str]:
    """Lines to warn with before training on what is kept of one set, and validating on another.

    Raises:
        DataError: audio files that cannot be used (of those whose header was read): training would stop at them later.
    """
    loaded = [
        from_manifest(train, kept, 0, "train", normalization),
        from_manifest(dev, range(len(dev)), 1, "dev", normalization),
    ]
    findings = Findings(loaded, num_examples=1)
    files = checks.files_of(loaded)
    headers = _some_headers(files.paths)
    doctor = command("doctor", train.path, dev.path, "--config", "CONFIG")
    checks.check_headers(loaded, files, headers, wanted, findings)
    bad = len(findings.bad)
    if bad:
        found = min(findings.sorted(), key=lambda f: f.severity != "error")
        first = found.examples[0]
        remedy = "; audio.resample=true resamples it" if found.code == "rate" else ""
        raise DataError(
            f"the audio of {bad:,} utterances cannot be used; first utt '{first.id}': {first.value}{remedy}; "
            f"all: {doctor}",
            first.manifest,
        )
    keys = [
        [overlap.audio_key(row, headers[file], file) for row, file in zip(one.rows, of_row, strict=True)]
        for one, of_row in zip(loaded, files.of_row, strict=True)
    ]
    overlap.check_same_audio(loaded, keys, findings)
    checks.check_texts(loaded, range(len(loaded)), None, None, None, findings)
    check_characters(loaded, findings)
    pairs.check_pairs(loaded, findings)
    pairs.check_rate_of_speech(loaded, findings)
    pairs.check_speed(loaded, findings)
    overlap.check_overlap(loaded, findings)
    lines = []
    for finding in findings.sorted():
        if finding.code in _CODES or finding.severity == "error":
            said = finding.details[0] if finding.details else f"{finding.count:,} rows, first {finding.examples[0]}"
            lines.append(f"data: {finding.code}: {said}")
    missing = sum(header is None for header in headers)
    if missing:
        lines.append(f"data: {len(headers) - missing:,} of {len(headers):,} audio headers were looked at")
    return [*lines, f"data: all that there is to say: {doctor}"] if lines else []


def _some_headers(paths: Sequence[str]) -> list[Header | None]:
    """The headers of all files, or of some spread over them; None for the others."""
    headers: list[Header | None] = [None] * len(paths)
    few = len(paths) <= MOST_HEADERS
    chosen = range(len(paths)) if few else range(0, len(paths), len(paths) // SOME_HEADERS)
    began = time.perf_counter()
    for start in range(0, len(chosen), _PIECE):
        piece = chosen[start : start + _PIECE]
        for i, header in zip(piece, read_headers([paths[i] for i in piece], lambda done: None), strict=True):
            headers[i] = header
        if time.perf_counter() - began > _LONGEST_S:
            break
    return headers
