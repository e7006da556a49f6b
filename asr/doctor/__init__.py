"""Find what is wrong with the data, before it costs a run: ``examine(manifests) -> Examination``.

It looks at every row and every audio header, and with ``deep`` at every sample; rows that ``asr.data.manifest.read``
would refuse are findings here. ``docs/doctor.md`` lists what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from asr.doctor import checks, overlap, pairs
from asr.doctor.characters import check_characters
from asr.doctor.examination import Examination, Expected
from asr.doctor.rows import read_all
from asr.doctor.sound import Advance, measure_all, read_headers, same_content

__all__ = ["Examination", "Expected", "check_rows", "examine"]

#: shows the progress of a part of the work, given its name and size; as ``asr.heartbeat.counted``
Progress = Callable[[str, float | None], AbstractContextManager[Advance]]


@contextmanager
def _silent(what: str, total: float | None) -> Iterator[Advance]:
    yield lambda done: None


def examine(
    paths: Sequence[Path],
    expected: Expected | None = None,
    *,
    deep: bool = False,
    num_examples: int = 3,
    progress: Progress = _silent,
) -> Examination:
    """Find everything that is wrong with manifests and their audio.

    Args:
        expected: what a model wants (``asr.doctor.expected``); without it the report says which checks were not made.
        deep: decode all audio.

    Raises:
        DataError: a manifest cannot be read at all.
    """
    examination = Examination(expected, num_examples)
    examination.deep = deep
    with progress("manifests", None):
        read_all(paths, examination)

    # The audio: headers of all files, then which files are equal, then the samples.
    files = examination.files
    with progress("headers", len(files)) as advance:
        examination.headers = read_headers(files, advance)
    checks.check_headers(examination)
    with progress("same size", None) as advance:
        overlap.set_audio_keys(examination, same_content(examination.headers, advance))
    if deep:
        _check_samples(examination, progress)

    check_rows(examination)
    if not deep:
        examination.skipped.append("the samples (clipping, silence, DC offset, damage inside a file): use --deep")
    return examination


def check_rows(examination: Examination) -> None:
    """Make all checks that need no audio."""
    overlap.check_same_audio(examination)
    check_characters(examination)
    pairs.check_pairs(examination)
    checks.check_texts(examination)
    pairs.check_rate_of_speech(examination)
    pairs.check_speed(examination)
    overlap.check_overlap(examination)


def _check_samples(examination: Examination, progress: Progress) -> None:
    """Decode what each row names, as far as the file holds it."""
    rows = []
    spans = []
    for row in examination.rows:
        header = examination.headers[row.audio_path]
        u = row.utterance
        if header.code or (isinstance(u.channel, int) and u.channel > header.channels):
            continue
        start = header.samples_in(u.offset_s)
        count = header.num_samples - start
        if count <= 0:
            continue
        if not checks.means_whole_file(row, header):
            count = min(count, header.samples_in(u.duration_s))
        rows.append(row)
        spans.append((row.audio_path, start, count, u.channel))

    with progress("samples", len(spans)) as advance:
        for row, sound in zip(rows, measure_all(spans, advance), strict=True):
            checks.check_sound(row, sound, examination)
            row.audio_key = sound.key or None
