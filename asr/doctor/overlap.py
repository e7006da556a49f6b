"""What is in two places: speakers, texts and audio in two sets, and the same audio twice in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from asr.data.manifest import Utterance
from asr.doctor.characters import shown
from asr.doctor.checks import SLACK_S
from asr.doctor.findings import Findings, Loaded, Row
from asr.doctor.sound import Header

#: of five words and 20 characters: spelled names and short commands repeat by nature
_LONG_TEXT_WORDS, _LONG_TEXT = 5, 20


def check_overlap(loaded: Sequence[Loaded], findings: Findings) -> list[str]:
    """Speakers and long texts that are in two sets; what could not be looked at."""
    skipped = []
    if len({one.role for one in loaded}) < 2:
        return ["overlap of speakers, texts and audio between sets: give train, dev and test manifests together"]
    speakers = [Counter(row.utterance.speaker for row in one.rows if row.utterance.speaker) for one in loaded]
    nameless = [str(one.path) for one, found in zip(loaded, speakers, strict=True) if one.rows and not found]
    if nameless:
        skipped.append(f"overlap of speakers: no row of {', '.join(nameless)} names one")
    texts: list[dict[int, list[int]]] = []  # hash of the text -> places of the rows
    for one in loaded:
        texts.append({})
        for i, row in enumerate(one.rows):
            text = row.text.casefold()
            if len(text) >= _LONG_TEXT and text.count(" ") >= _LONG_TEXT_WORDS - 1:
                texts[-1].setdefault(hash(text), []).append(i)
    for a, b in _pairs(loaded):
        _tell_speakers(loaded, a, b, speakers, findings)
        _tell_texts(loaded, a, b, texts, findings)
    return skipped


def _pairs(loaded: Sequence[Loaded]) -> Iterator[tuple[int, int]]:
    """Pairs of manifests of different sets, the training set first."""
    order = sorted(range(len(loaded)), key=lambda i: (not loaded[i].is_training, i))
    for at, a in enumerate(order):
        for b in order[at + 1 :]:
            if loaded[a].role != loaded[b].role:
                yield a, b


def _tell_speakers(
    loaded: Sequence[Loaded], a: int, b: int, speakers: Sequence[Counter[str]], findings: Findings
) -> None:
    shared = sorted(set(speakers[a]) & set(speakers[b]))
    if not shared:
        return
    rows_of: dict[str, list[Row]] = {speaker: [] for speaker in shared}
    for row in loaded[b].rows:
        if row.utterance.speaker in rows_of:
            rows_of[row.utterance.speaker].append(row)
    for speaker, rows in rows_of.items():
        value = f"speaker '{speaker}': {len(rows):,} rows here, {speakers[a][speaker]:,} in {loaded[a].path}"
        findings.add_group("overlap-speaker", rows, value)
    count, total = sum(map(len, rows_of.values())), len(loaded[b].rows)
    findings.of("overlap-speaker").details.append(
        f"{len(shared):,} of {len(speakers[b]):,} speakers of {loaded[b].path} ({count:,} of {total:,} rows) "
        f"are in {loaded[a].path}"
    )


def _tell_texts(
    loaded: Sequence[Loaded], a: int, b: int, texts: Sequence[dict[int, list[int]]], findings: Findings
) -> None:
    shared = [(i, texts[a][key][0]) for key, places in texts[b].items() if key in texts[a] for i in places]
    for i, other in sorted(shared):
        row, there = loaded[b].rows[i], loaded[a].rows[other]
        value = f"{shown(row.utterance.text, 0)} is also {loaded[a].path}:{there.line} {there.utterance.id}"
        findings.add("overlap-text", row, value)
    if shared:
        total = len(loaded[b].rows)
        findings.of("overlap-text").details.append(
            f"{len(shared):,} of {total:,} rows of {loaded[b].path} ({len(shared) / total:.1%}) have a text of "
            f"{loaded[a].path}"
        )


def check_same_audio(loaded: Sequence[Loaded], keys: Sequence[Sequence[object]], findings: Findings) -> None:
    """Rows whose audio is that of another one. ``keys``: equal for equal audio, None where it is not known."""
    first: dict[object, Row] = {}
    places: dict[object, list[Row]] = {}
    for one, row_keys in zip(loaded, keys, strict=True):
        for row, key in zip(one.rows, row_keys, strict=True):
            if key is not None and first.setdefault(key, row) is not row:
                places.setdefault(key, [first[key]]).append(row)
    for rows in places.values():
        others = [row for row in rows if not loaded[row.manifest].is_training]
        for row in rows:
            # What is measured on stays; what is trained on goes.
            goes = bool(others) and loaded[row.manifest].is_training
            value = _same_as(row, others[0] if goes else next(r for r in rows if r is not row), loaded)
            if goes:
                findings.add("overlap-audio", row, value)
            elif row is not (others or rows)[0]:
                findings.add("duplicate-audio", row, value)


def _same_as(row: Row, other: Row, loaded: Sequence[Loaded]) -> str:
    same = "with the same text" if row.text == other.text else "with another text"
    return f"as {loaded[other.manifest].path}:{other.line} {other.utterance.id}, {same}"


def means_whole_file(utterance: Utterance, header: Header) -> bool:
    """Whether an utterance is all of its file, as far as its rounded duration says."""
    return not utterance.offset_s and utterance.duration_s >= header.frames / header.rate_hz - SLACK_S


def audio_key(row: Row, header: Header | None, content: int) -> object:
    """Equal for rows that mean the same part of the same file; None for what cannot be read."""
    if header is not None and header.code:
        return None
    u = row.utterance
    if header is not None and means_whole_file(u, header):
        return content, u.channel
    return content, u.channel, round(u.offset_s, 2), round(u.duration_s, 2)
