"""Read NIST's ``stm`` files (reference texts of stretches of recordings), and cut ``ctm`` files to them like sclite.

A line is file, channel, speaker, start, end, labels in angle brackets (which may be missing) and the text. Lines that
begin with ``;;`` are comments. A stretch whose text is ``ignore_time_segment_in_scoring`` is not scored, and nor are
the words said there. Words in parentheses are words, as in sclite without ``-D``; alternatives are refused, as in
``trn``.

Source: NIST SCTK 2.4, doc/infmts.htm, and the output of its sclite.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asr.data.lines import numbered_lines
from asr.errors import DataError
from asr.scoring.nist import Channels, CtmWord, special

_LONGEST_S = 1e9
_IGNORED = ("IGNORE_TIME_SEGMENT_IN_SCORING", "IGNORETIMESEGMENTINSCORING")


class Stretch(NamedTuple):
    """Hold a part of a recording with its text. Units: seconds from the start of the file."""

    id: str
    speaker: str
    start_s: float
    end_s: float
    labels: str
    text: str

    @property
    def ignored(self) -> bool:
        """Return true if the stretch is not to be scored."""
        return any(mark in self.text.upper() for mark in _IGNORED)


def read_stm(path: str | Path) -> dict[str, list[Stretch]]:
    """Read the stretches of each file and channel in the order of their start, by the id of ``nist.utterance_id``.

    Raises:
        DataError: the file cannot be read, has no stretches, or a line is no stretch or holds alternatives.
    """
    path = Path(path)
    found: dict[str, list[Stretch]] = {}
    ids: set[str] = set()
    channels = Channels(path)
    for number, line in numbered_lines(path):
        if line.lstrip().startswith(";;"):
            continue
        name, channel, stretch = _stretch(line, path, number)
        recording = channels(name, channel, number)
        id_ = own = f"{recording} {stretch.start_s:.2f}-{stretch.end_s:.2f}"
        count = 1
        while id_ in ids:  # two speakers at once
            count += 1
            id_ = f"{own} #{count}"
        ids.add(id_)
        found.setdefault(recording, []).append(stretch._replace(id=id_))
    if not found:
        raise DataError("the file has no utterances", path)
    for each in found.values():
        each.sort(key=lambda stretch: stretch.start_s)
    return found


def cut(stretches: Sequence[Stretch], words: Sequence[CtmWord]) -> Iterator[tuple[Stretch, list[CtmWord]]]:
    """Yield the scored stretches, each with its words of the hypothesis; both in the order of time.

    As in sclite, a stretch gets the words whose middle is before its end and that no earlier stretch has. A word
    between two stretches goes to the later one, and the last stretch gets all remaining words.
    """
    at = 0
    for i, stretch in enumerate(stretches):
        first = at
        is_last = i + 1 == len(stretches)
        while at < len(words) and (is_last or words[at].start_s + words[at].duration_s / 2 < _single(stretch.end_s)):
            at += 1
        if not stretch.ignored:
            yield stretch, list(words[first:at])


def _single(seconds: float) -> float:
    """Round a number to single precision, as sclite does with ends; this decides for a middle that falls on an end."""
    return float(struct.unpack("f", struct.pack("f", seconds))[0])


def joined(stretches: Mapping[str, Sequence[Stretch]], path: Path) -> dict[str, str]:
    """Join the texts of each file and channel, for hypotheses without times.

    Raises:
        DataError: a stretch is ignored, and its words cannot be told from the rest.
    """
    ignored = [stretch.id for each in stretches.values() for stretch in each if stretch.ignored]
    if ignored:
        raise DataError(
            f"'{ignored[0]}' is not to be scored: give hypotheses with times (.ctm), which can be cut there", path
        )
    return {id_: " ".join(stretch.text for stretch in each if stretch.text) for id_, each in stretches.items()}


def _stretch(line: str, path: Path, number: int) -> tuple[str, str, Stretch]:
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
    if wrong := special(text):
        raise DataError(f"{wrong}; choose one reading", path, number)
    return name, channel, Stretch("", speaker, start_s, end_s, labels.strip("<>"), text)
