"""Find what is in two places: speakers, texts and audio in two sets, and the same audio twice in one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from asr.doctor.characters import excerpt
from asr.doctor.checks import means_whole_file
from asr.doctor.examination import Examination
from asr.doctor.findings import LoadedManifest, ManifestRow

#: spelled names and short commands repeat by nature
_LONG_TEXT_WORDS, _LONG_TEXT = 5, 20


def check_overlap(examination: Examination) -> None:
    """Find speakers and long texts that are in two sets."""
    loaded = examination.manifests
    if len({manifest.role for manifest in loaded}) < 2:
        examination.skipped.append(
            "overlap of speakers, texts and audio between sets: give train, dev and test manifests together"
        )
        return

    # The training set comes first: what two sets share is counted in the other one.
    for first, second in combinations(sorted(loaded, key=lambda manifest: not manifest.is_training), 2):
        if first.role != second.role:
            _check_speakers(first, second, examination)
            _check_long_texts(first, second, examination)

    nameless = [str(manifest.path) for manifest in loaded if manifest.rows and not manifest.speakers]
    if nameless:
        examination.skipped.append(f"overlap of speakers: no row of {', '.join(nameless)} names one")


def _check_speakers(first: LoadedManifest, second: LoadedManifest, examination: Examination) -> None:
    speakers = first.speakers
    rows_of: dict[str, list[ManifestRow]] = {speaker: [] for speaker in sorted(speakers & second.speakers)}
    for row in second.rows:
        if row.utterance.speaker in rows_of:
            rows_of[row.utterance.speaker].append(row)
    if not rows_of:
        return

    for speaker, rows in rows_of.items():
        value = f"speaker '{speaker}': {len(rows):,} rows here, {speakers[speaker]:,} in {first.path}"
        examination.add_group("overlap-speaker", rows, value)
    num_rows = sum(map(len, rows_of.values()))
    examination.finding("overlap-speaker").details.append(
        f"{len(rows_of):,} of {len(second.speakers):,} speakers of {second.path} ({num_rows:,} of "
        f"{len(second.rows):,} rows) are in {first.path}"
    )


def _check_long_texts(first: LoadedManifest, second: LoadedManifest, examination: Examination) -> None:
    row_of_text: dict[str, ManifestRow] = {}
    for row in first.rows:
        if text := _long_text(row):
            row_of_text.setdefault(text, row)

    shared = 0
    for row in second.rows:
        other = row_of_text.get(_long_text(row))
        if other is not None:
            shared += 1
            value = f"{excerpt(row.utterance.text, 0)} is also {first.path}:{other.line} {other.utterance.id}"
            examination.add("overlap-text", row, value)
    if shared:
        examination.finding("overlap-text").details.append(
            f"{shared:,} of {len(second.rows):,} rows of {second.path} ({shared / len(second.rows):.1%}) have a text "
            f"of {first.path}"
        )


def _long_text(row: ManifestRow) -> str:
    """Return the text in one letter case; an empty string if it is short."""
    text = row.text.casefold()
    is_long = len(text) >= _LONG_TEXT and text.count(" ") >= _LONG_TEXT_WORDS - 1
    return text if is_long else ""


def set_audio_keys(examination: Examination, first_file: Mapping[str, str]) -> None:
    """Give rows that name the same part of the same file equal keys; ``first_file``: path to the first of its content.

    Rows whose file cannot be read get none.
    """
    for row in examination.rows:
        header = examination.headers.get(row.audio_path)
        if header is not None and header.code:
            continue
        u = row.utterance
        file = first_file.get(row.audio_path, row.audio_path)
        if header is not None and means_whole_file(row, header):
            row.audio_key = file, u.channel
        else:
            row.audio_key = file, u.channel, round(u.offset_s, 2), round(u.duration_s, 2)


def check_same_audio(examination: Examination) -> None:
    """Find rows whose audio is that of another row."""
    rows_of_key: dict[object, list[ManifestRow]] = {}
    for row in examination.rows:
        if row.audio_key is not None:
            rows_of_key.setdefault(row.audio_key, []).append(row)

    for rows in rows_of_key.values():
        if len(rows) == 1:
            continue
        # Of a training and a test row the training row is the error.
        others = [row for row in rows if not row.manifest.is_training]
        for row in rows:
            if others and row.manifest.is_training:
                examination.add("overlap-audio", row, _same_as(row, others[0]))
            elif row is not (others or rows)[0]:
                examination.add("duplicate-audio", row, _same_as(row, rows[0]))


def _same_as(row: ManifestRow, other: ManifestRow) -> str:
    same = "with the same text" if row.text == other.text else "with another text"
    return f"as {other.manifest.path}:{other.line} {other.utterance.id}, {same}"
