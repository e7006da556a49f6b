"""Read NIST's ``stm`` files (reference texts of segments of recordings), and cut ``ctm`` files to them like sclite.

A line is file, channel, speaker, start, end, labels in angle brackets (which may be missing) and the text. Lines that
begin with ``;;`` are comments. A segment whose text is ``ignore_time_segment_in_scoring`` is not scored, and nor are
the words in it. Words in parentheses are words, as in sclite without ``-D``; alternatives are refused, as in ``trn``.

Source: NIST SCTK 2.4, doc/infmts.htm, and the output of its sclite.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asr.data.lines import numbered_lines
from asr.errors import DataError
from asr.scoring.nist import ChannelIds, CtmWord, alternatives_in

_LONGEST_S = 1e9
_IGNORED = ("IGNORE_TIME_SEGMENT_IN_SCORING", "IGNORETIMESEGMENTINSCORING")


class StmSegment(NamedTuple):
    """Hold a part of a recording with its text. Units: seconds from the start of the file."""

    id: str
    speaker: str
    start_s: float
    end_s: float
    labels: str
    text: str

    @property
    def ignored(self) -> bool:
        """Return true if the segment is not to be scored."""
        return any(mark in self.text.upper() for mark in _IGNORED)


def read_stm(path: Path) -> dict[str, list[StmSegment]]:
    """Read the segments of each file and channel in the order of their start, by the id of ``nist.utterance_id``.

    Raises:
        DataError: the file cannot be read, has no segments, or a line is no segment or holds alternatives.
    """
    found: dict[str, list[StmSegment]] = {}
    ids: set[str] = set()
    id_of = ChannelIds(path)
    for number, line in numbered_lines(path):
        if line.lstrip().startswith(";;"):
            continue

        name, channel, segment = _segment(line, path, number)
        recording = id_of(name, channel, number)

        id_ = first = f"{recording} {segment.start_s:.2f}-{segment.end_s:.2f}"
        count = 1
        while id_ in ids:  # two speakers at once
            count += 1
            id_ = f"{first} #{count}"
        ids.add(id_)
        found.setdefault(recording, []).append(segment._replace(id=id_))

    if not found:
        raise DataError("the file has no utterances", path)

    for each in found.values():
        each.sort(key=lambda segment: segment.start_s)
    return found


def words_by_segment(
    segments: Sequence[StmSegment], words: Sequence[CtmWord]
) -> Iterator[tuple[StmSegment, Sequence[CtmWord]]]:
    """Yield the scored segments, each with its words of the hypothesis; both in the order of time.

    As in sclite, a segment gets the words whose middle is before its end and that no earlier segment has. A word
    between two segments goes to the later one, and the last segment gets all remaining words.
    """
    start = 0
    for segment in segments:
        end = start
        is_last = segment is segments[-1]
        while end < len(words) and (is_last or _middle_s(words[end]) < _single(segment.end_s)):
            end += 1

        if not segment.ignored:
            yield segment, words[start:end]
        start = end


def join_segments(segments: Mapping[str, Sequence[StmSegment]], path: Path) -> dict[str, str]:
    """Join the texts of each file and channel, for hypotheses without times."""
    for each in segments.values():
        for segment in each:
            if segment.ignored:
                remedy = "give hypotheses with times (.ctm), which can be cut there"
                raise DataError(f"'{segment.id}' is not to be scored: {remedy}", path)
    return {id_: " ".join(segment.text for segment in each if segment.text) for id_, each in segments.items()}


def _middle_s(word: CtmWord) -> float:
    return word.start_s + word.duration_s / 2


def _single(seconds: float) -> float:
    """Round a number to single precision, as sclite does with ends; this decides for a middle that falls on an end."""
    return float(struct.unpack("f", struct.pack("f", seconds))[0])


def _segment(line: str, path: Path, number: int) -> tuple[str, str, StmSegment]:
    try:
        name, channel, speaker, start, end, *rest = line.split(maxsplit=5)
        start_s, end_s = float(start), float(end)
        if not -_LONGEST_S <= start_s <= end_s <= _LONGEST_S:
            raise ValueError
    except ValueError:
        expected = "expected 'file channel speaker start end [<labels>] text'"
        raise DataError(f"{expected}, got {line.strip()[:80]!r}", path, number) from None

    text = " ".join("".join(rest).split())
    labels = ""
    if text.startswith("<"):
        labels, _, text = text.partition(" ")

    if wrong := alternatives_in(text):
        raise DataError(f"{wrong}; choose one reading", path, number)
    return name, channel, StmSegment("", speaker, start_s, end_s, labels.strip("<>"), text)
