"""NIST's ``trn`` and ``ctm`` files: transcripts by utterance id, and words with times, as sclite reads them.

A ``trn`` file has one utterance per line, ``text (id)``. A ``ctm`` file has one word per line: file, channel, start and
duration in seconds, word, and a confidence that may be missing. Lines that begin with ``;;`` are comments in both.

Alternatives (``{ a / b / @ }``, ``<ALT_BEGIN>``) are refused: taking one of them would not give sclite's numbers. Words
in parentheses are words, as they are to sclite without ``-D``.

Source: NIST SCTK 2.4, doc/infmts.htm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import ascii_uppercase
from typing import IO, Any, NamedTuple

from asr.data.lines import numbered_lines, unique_ids
from asr.errors import DataError, harmless, os_reason
from asr.files import open_atomic

#: marks of a sentence's start and end, as CMU Sphinx writes them
_SENTENCE = re.compile(r" ?<s> ?((?:(?!<s>).)*?) ?</s> ?")
_TRN = re.compile(r"(.*)\(([^()\s]+)\)", re.DOTALL)
#: the comment in which ``write_ctm`` names an utterance without words
_NO_WORDS = re.compile(r";; (\S+) (\S+): no words")
_ALTERNATIVES = ("<ALT_BEGIN>", "<ALT>", "<ALT_END>")


class CtmWord(NamedTuple):
    """Hold a word of a ``ctm`` file. Units: seconds from the start of the file."""

    word: str
    start_s: float
    duration_s: float
    confidence: float | None = None


def channel_name(channel: int) -> str:
    """Return NIST's name of a channel, counted from 1.

    >>> channel_name(1), channel_name(2), channel_name(27)
    ('A', 'B', '27')
    """
    return ascii_uppercase[channel - 1] if 1 <= channel <= len(ascii_uppercase) else str(channel)


def utterance_id(name: str, channel: int | str | None) -> str:
    """Return the id of one channel of a file: the file's name for the first channel, else ``name:C``.

    A channel is called A, a or 1, the next B, b or 2, and so on.

    >>> utterance_id("call", "1"), utterance_id("call", 2), utterance_id("call", "b")
    ('call', 'call:B', 'call:B')
    """
    if channel is None:
        return name
    own = str(channel).upper()
    if own.isdecimal() and len(own) < 10:  # Python reads no number of thousands of digits
        own = channel_name(int(own))
    return name if own == channel_name(1) else f"{name}:{own}"


def read_trn(path: str | Path) -> dict[str, str]:
    """Read the text of each id, in the file's order.

    Raises:
        DataError: the file cannot be read, has no utterances, or a line is not ``text (id)`` or holds alternatives.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    check_new = unique_ids(path)
    for number, line in numbered_lines(path):
        if line.startswith(";;"):
            continue

        found = _TRN.fullmatch(line.strip())
        if found is None:
            raise DataError(f"expected 'text (id)', got {line.strip()[:60]!r}", path, number)
        text = found[1].rstrip(" \t")
        id_ = found[2]

        check_new(id_, number)
        if wrong := alternatives_in(text):
            raise DataError(f"utt '{id_}': {wrong}; choose one reading for each utterance", path, number)
        texts[id_] = _SENTENCE.sub(r"\1", " ".join(text.split())) if "<s>" in text else text

    if not texts:
        raise DataError("the file has no utterances", path)
    return texts


def write_trn(path: str | Path, texts: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Write the text of each id, atomically.

    Raises:
        DataError: the file cannot be written, or the format cannot hold an id or text.
    """
    path = Path(path)
    with _open(path) as file:
        for id_, text in texts.items() if isinstance(texts, Mapping) else texts:
            check_id(id_, path)

            words = harmless(" ".join(text.split()))
            wrong = "it begins with ';;', a comment" if words.startswith(";;") else alternatives_in(words)
            if wrong:
                raise DataError(f"utt '{id_}' cannot be written as trn: {wrong}", path)
            file.write(f"{words} ({id_})\n".lstrip(" "))


def read_ctm(path: str | Path) -> dict[str, list[CtmWord]]:
    """Read the words of each file and channel in the order of their start, by the id of ``utterance_id``.

    An utterance that ``write_ctm`` names as one without words has none.

    Raises:
        DataError: the file cannot be read or has no words, or a line is not a timed word.
    """
    path = Path(path)
    words: dict[str, list[CtmWord]] = {}
    id_of = ChannelIds(path)
    for number, line in numbered_lines(path):
        # Our own comment keeps utterances without words, which the format cannot hold.
        if silent := _NO_WORDS.fullmatch(line.strip()):
            words.setdefault(id_of(silent[1], silent[2], number), [])
        if line.lstrip().startswith(";;"):
            continue

        name, channel, word = _ctm_word(line, path, number)
        words.setdefault(id_of(name, channel, number), []).append(word)

    if not words:
        raise DataError("the file has no words", path)

    # Lines may come in any order.
    for each in words.values():
        each.sort(key=lambda word: word.start_s)
    return words


def write_ctm(path: str | Path, utterances: Mapping[str, Sequence[Any]]) -> None:
    """Write the words of each id, atomically, sorted by id and start as sclite wants them.

    The format cannot hold an utterance without words: a comment names it.

    Args:
        utterances: the words of each id (``asr.decode.types.TimedWord``): word, start_s, end_s, confidence.

    Raises:
        DataError: the file cannot be written, or the format cannot hold an id.
    """
    path = Path(path)
    with _open(path) as file:
        for id_ in sorted(utterances, key=str.encode):
            check_id(id_, path)
            if not utterances[id_]:
                file.write(f";; {id_} A: no words\n")

            for word in sorted(utterances[id_], key=lambda word: word.start_s):
                confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
                duration_s = max(0.0, word.end_s - word.start_s)
                file.write(f"{id_} A {word.start_s:.3f} {duration_s:.3f} {harmless(word.word)}{confidence}\n")


class ChannelIds:
    """Return the id of each file and channel of a NIST file, and refuse two spellings of one channel."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spelled: dict[str, str] = {}

    def __call__(self, name: str, channel: str, number: int) -> str:
        id_ = utterance_id(name, channel)
        first = self._spelled.setdefault(id_, channel)
        if first.upper() != channel.upper():
            raise DataError(f"'{name}' has channels '{first}' and '{channel}': which is the first?", self._path, number)

        if f"{name}:0" in self._spelled and self._spelled.get(name) == "1":
            raise DataError(f"'{name}' has channels '0' and '1'; NIST counts A, B or 1, 2", self._path, number)
        return id_


def check_id(id_: str, path: Path) -> None:
    """Refuse an id that a trn or ctm file cannot hold."""
    if not id_ or id_.startswith(";;") or re.search(r"[()\s]", id_) or harmless(id_) != id_:
        kind = path.suffix.lower()[1:]
        problem = "white space, parentheses, control characters or ';;' in its id"
        raise DataError(f"utt '{id_}' cannot be written as {kind}: {problem}", path)


def alternatives_in(text: str) -> str:
    """Return what marks alternatives in a text of a trn or stm file; empty if nothing does."""
    if "{" in text or "}" in text or "@" in text.split():
        return "it holds '{', '}' or the word '@', which mark alternatives"
    return ""


@contextmanager
def _open(path: Path) -> Iterator[IO[Any]]:
    try:
        with open_atomic(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", path) from error


def _ctm_word(line: str, path: Path, number: int) -> tuple[str, str, CtmWord]:
    fields = line.split()
    if len(fields) in (5, 6) and fields[4] in _ALTERNATIVES:
        raise DataError("alternatives (<ALT_BEGIN>) are not read; choose one reading", path, number)

    try:
        name, channel, start, duration, word, *rest = fields
        start_s, duration_s = float(start), float(duration)
        confidence = [float(value) for value in rest if value.upper() != "NA"]
        if len(rest) > 1 or not math.isfinite(start_s) or not 0 <= duration_s < math.inf:
            raise ValueError
    except ValueError:
        expected = "expected 'file channel start duration word [confidence]'"
        raise DataError(f"{expected}, got {line.strip()[:80]!r}", path, number) from None
    return name, channel, CtmWord(word, start_s, duration_s, *confidence)
