"""NIST's ``trn`` and ``ctm`` files: transcripts by utterance id, and words with times, as sclite reads them.

``trn`` is one utterance a line, ``text (id)``. ``ctm`` is one word a line: file, channel, start and duration in
seconds, word, and a confidence that may be missing. Lines that begin with ``;;`` are comments in both.

Of what sclite gives a meaning of its own, alternatives (``{ a / b / @ }``, ``<ALT_BEGIN>``) are refused: taking one of
them would not give its numbers. Words in parentheses are words, as they are to sclite without ``-D``.

Source: NIST SCTK 2.4, doc/infmts.htm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple, Protocol

from asr.data.lines import numbered_lines, unique_ids
from asr.errors import DataError, os_reason
from asr.files import open_atomic

#: marks of a sentence's start and end, as CMU Sphinx has them
_SENTENCE = re.compile(r"\s*<s>\s*(.*?)\s*</s>\s*", re.DOTALL)
#: how we name an utterance without words
_NO_WORDS = re.compile(r";; (\S+) (\S+): no words")
_ALTERNATIVES = ("<ALT_BEGIN>", "<ALT>", "<ALT_END>")


class CtmWord(NamedTuple):
    """A word of a ``ctm`` file. Units: seconds from the start of the file."""

    word: str
    start_s: float
    duration_s: float
    confidence: float | None = None


def channel_name(channel: int) -> str:
    """What NIST calls a channel, counted from 1.

    >>> channel_name(1), channel_name(2), channel_name(27)
    ('A', 'B', '27')
    """
    return ascii_uppercase[channel - 1] if 1 <= channel <= len(ascii_uppercase) else str(channel)


def utterance_id(name: str, channel: int | str | None) -> str:
    """The id of what is said in one channel of a file: the file's name for the first one, else ``name:C``.

    A channel is called A, a or 1, the next B, b or 2, and so on.

    >>> utterance_id("call", "1"), utterance_id("call", 2), utterance_id("call", "b")
    ('call', 'call:B', 'call:B')
    """
    if channel is None:
        return name
    said = str(channel).upper()
    said = channel_name(int(said)) if said.isdecimal() else said
    return name if said == channel_name(1) else f"{name}:{said}"


class Timed(Protocol):
    """What is written to a ``ctm`` file (``asr.decode.types.TimedWord`` is one)."""

    @property
    def word(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def confidence(self) -> float | None: ...


def read_trn(path: str | Path) -> dict[str, str]:
    """The text of each id, in the file's order.

    Raises:
        DataError: the file cannot be read, has no utterances, or a line is not ``text (id)`` or holds alternatives.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    new = unique_ids(path)
    for number, line in numbered_lines(path):
        if line.startswith(";;"):
            continue
        found = re.fullmatch(r"(.*?)[ \t]*\(([^()\s]+)\)", line.strip(), re.DOTALL)
        if found is None:
            raise DataError(f"expected 'text (id)', got {line.strip()[:60]!r}", path, number)
        text, id_ = found.groups()
        wrong = special(text)
        if wrong:
            raise DataError(f"utt '{id_}': {wrong}; choose one reading for each utterance", path, number)
        new(id_, number)
        texts[id_] = _SENTENCE.sub(r"\1", text)
    if not texts:
        raise DataError("the file has no utterances", path)
    return texts


def write_trn(path: str | Path, texts: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Writes the text of each id, atomically.

    Raises:
        DataError: the file cannot be written, or an id or text cannot be said in the format.
    """
    path = Path(path)
    rows = texts.items() if isinstance(texts, Mapping) else texts
    try:
        with open_atomic(path) as file:
            for id_, text in rows:
                words = " ".join(text.split())
                check_id(id_, path)
                wrong = special(words) or ("it begins with ';;', a comment" if words.startswith(";;") else "")
                if wrong:
                    raise DataError(f"utt '{id_}' cannot be written as trn: {wrong}", path)
                file.write(f"{words} ({id_})\n".lstrip(" "))
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", path) from error


def read_ctm(path: str | Path) -> dict[str, list[CtmWord]]:
    """The words of each utterance, in the order of their start: those with one file and channel.

    The id is that of ``utterance_id``. An utterance that ``write_ctm`` names as one without words has none.

    Raises:
        DataError: the file cannot be read or has no words, or a line is not a timed word.
    """
    path = Path(path)
    words: dict[str, list[CtmWord]] = {}
    new = Channels(path)
    for number, line in numbered_lines(path):
        if silent := _NO_WORDS.fullmatch(line.strip()):
            words.setdefault(new(silent[1], silent[2], number), [])
        if line.lstrip().startswith(";;"):
            continue
        name, channel, word = _ctm_word(line, path, number)
        id_ = new(name, channel, number)
        words.setdefault(id_, []).append(word)
    if not words:
        raise DataError("the file has no words", path)
    for each in words.values():
        each.sort(key=lambda word: word.start_s)
    return words


def write_ctm(path: str | Path, utterances: Mapping[str, Sequence[Timed]], channel: str = "A") -> None:
    """Writes the words of each id, atomically, sorted by id and start as sclite wants them.

    An utterance without words cannot be said in the format: a comment names it.

    Raises:
        DataError: the file cannot be written, or an id or word cannot be said in the format.
    """
    path = Path(path)
    try:
        with open_atomic(path) as file:
            for id_ in sorted(utterances, key=str.encode):
                check_id(id_, path)
                if not utterances[id_]:
                    file.write(f";; {id_} {channel}: no words\n")
                for word in sorted(utterances[id_], key=lambda word: word.start_s):
                    confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
                    duration_s = max(0.0, word.end_s - word.start_s)
                    file.write(f"{id_} {channel} {word.start_s:.3f} {duration_s:.3f} {word.word}{confidence}\n")
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", path) from error


class Channels:
    """Called with each file and channel of a NIST file; returns the id, and refuses two spellings of one channel."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spelled: dict[str, str] = {}

    def __call__(self, name: str, channel: str, number: int) -> str:
        id_ = utterance_id(name, channel)
        first = self._spelled.setdefault(id_, channel)
        if first.upper() != channel.upper():
            raise DataError(f"'{name}' has channels '{first}' and '{channel}': which is the first?", self._path, number)
        if {f"{name}:0", name} <= self._spelled.keys() and self._spelled[name] == "1":
            raise DataError(f"'{name}' has channels '0' and '1'; NIST counts A, B or 1, 2", self._path, number)
        return id_


def check_id(id_: str, path: Path) -> None:
    """Refuses an id that a trn or ctm file cannot hold.

    Raises:
        DataError: it has white space or parentheses, or begins a comment; the file to write is named.
    """
    if not id_ or id_.startswith(";;") or re.search(r"[()\s]", id_):
        kind = path.suffix.lower()[1:]
        raise DataError(f"utt '{id_}' cannot be written as {kind}: white space, parentheses or ';;' in its id", path)


def _ctm_word(line: str, path: Path, number: int) -> tuple[str, str, CtmWord]:
    fields = line.split()
    if len(fields) in (5, 6) and fields[4] in _ALTERNATIVES:
        raise DataError("alternatives (<ALT_BEGIN>) are not read; choose one reading", path, number)
    try:
        name, channel, start, duration, word, *rest = fields
        sure = [value for value in rest if value.upper() != "NA"]
        start_s, duration_s, *confidence = [float(value) for value in (start, duration, *sure)]
        if len(rest) > 1 or not (math.isfinite(start_s) and 0 <= duration_s < math.inf):
            raise ValueError
    except ValueError:
        expected = "expected 'file channel start duration word [confidence]'"
        raise DataError(f"{expected}, got {line.strip()[:80]!r}", path, number) from None
    return name, channel, CtmWord(word, start_s, duration_s, *confidence)


def special(text: str) -> str:
    """What in a text has a meaning of its own in a trn file."""
    if "{" in text or "}" in text or "@" in text.split():
        return "it holds '{', '}' or the word '@', which mark alternatives"
    return ""
