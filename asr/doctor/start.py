"""The part of the doctor that every training run begins with: what is cheap, and what training does not find itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from asr.config import AudioConfig
from asr.data.manifest import Manifest
from asr.doctor import check_rows, checks, overlap
from asr.doctor.examination import Examination
from asr.doctor.rows import from_manifest
from asr.doctor.sound import AudioHeader, read_headers
from asr.errors import DataError, command

#: Headers read at the start: all of a corpus of this many files (a second or two), else this many spread over it.
MOST_HEADERS, SOME_HEADERS = 20_000, 2_000
#: on a slow disk, fewer
_LONGEST_S = 4.0
_PIECE = 256
#: what to do about audio that cannot be used
_REMEDIES = {
    "rate": "; audio.resample=true resamples it",
    "channels": "; 'channel' in its row says which: a number, or \"mix\" for their mean ('asr prepare' takes --mix)",
}
#: logged when the run starts, besides errors; the rest of what the doctor finds is for the command
_CODES = {
    "overlap-speaker",
    "overlap-text",
    "duplicate-audio",
    "rate-of-speech",
    "speed",
    "digits-in-text",
    "text-unicode",
    "text-lookalike",
    "text-invisible",
    "text-markup",
}


def check_start(
    train: Manifest, kept: Iterable[int], dev: Manifest, wanted: AudioConfig, normalization: str
) -> list[str]:
    """Return lines to warn with before training on what is kept of one set, and validating on another.

    Raises:
        DataError: audio files that cannot be used (of those whose header was read): training would stop at them later.
    """
    examination = Examination(num_examples=1)
    examination.audio = wanted
    examination.manifests = [
        from_manifest(train, kept, "train", normalization),
        from_manifest(dev, range(len(dev)), "dev", normalization),
    ]
    files = examination.files
    examination.headers = _read_some_headers(files)

    # A file that cannot be used would end the training later, after hours perhaps.
    doctor = command("doctor", train.path, dev.path, "--config", "CONFIG")
    checks.check_headers(examination)
    _refuse_errors(examination, doctor)

    overlap.set_audio_keys(examination, {})
    check_rows(examination)

    lines = []
    for finding in examination.findings:
        if finding.code in _CODES or finding.severity == "error":
            if finding.details:
                summary = finding.details[0]
            else:
                summary = f"{finding.count:,} rows, first {finding.examples[0]}"
            lines.append(f"data: {finding.code}: {summary}")

    if len(examination.headers) < len(files):
        lines.append(f"data: {len(examination.headers):,} of {len(files):,} audio headers were looked at")
    return [*lines, f"data: everything that was found: {doctor}"] if lines else []


def _refuse_errors(examination: Examination, doctor: str) -> None:
    """Raise an error that names the first file that cannot be used, if there is one."""
    count = sum(len(manifest.errors) for manifest in examination.manifests)
    if not count:
        return
    finding = examination.findings[0]
    first = finding.examples[0]
    remedy = _REMEDIES.get(finding.code, "")
    raise DataError(
        f"the audio of {count:,} utterances cannot be used; first utt '{first.id}': {first.value}{remedy}; "
        f"all: {doctor}",
        first.manifest,
    )


def _read_some_headers(paths: Sequence[str]) -> dict[str, AudioHeader]:
    """Read the headers of all files, or of some spread over them."""
    chosen = paths if len(paths) <= MOST_HEADERS else paths[:: len(paths) // SOME_HEADERS]
    headers: dict[str, AudioHeader] = {}
    began = time.perf_counter()
    for start in range(0, len(chosen), _PIECE):
        headers |= read_headers(chosen[start : start + _PIECE], lambda done: None)
        if time.perf_counter() - began > _LONGEST_S:
            break
    return headers
