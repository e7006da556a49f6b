"""Files of hotwords: a word or phrase on each line, with its weight."""

from __future__ import annotations

import logging
from pathlib import Path

from asr.data.tokenizer import Tokenizer
from asr.decode.settings import MOST_WEIGHT, parse_hotword
from asr.decode.tables import spellings
from asr.errors import ConfigError, DataError
from asr.lm.files import read_lines

logger = logging.getLogger(__name__)

#: hotwords of one file, at most, as of a config
_MOST = 100_000


def read_hotwords(path: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """Return the hotwords of a file with their weights.

    A line is ``PHRASE``, ``PHRASE:weight`` or ``PHRASE<tab>weight``; blank lines, and those that begin with ``#``, are
    skipped. A log line counts the hotwords that the tokenizer cannot write, which are left out, and those that are
    there twice with different weights, of which the last counts.

    Raises:
        DataError: a line is no hotword, or there are none that the tokenizer can write, or too many.
        AsrError: the file cannot be read.
    """
    letters = {*"".join(spellings(tokenizer)), " "}
    hotwords: dict[str, float] = {}
    lost: list[str] = []
    twice: list[str] = []

    for number, line in enumerate(read_lines([path]), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            phrase, weight = parse_hotword(line)
        except ConfigError as error:
            raise DataError(str(error), path, number) from None
        if not abs(weight) <= MOST_WEIGHT:
            raise DataError(f"weight {weight:g}: expected a number from -100 to 100", path, number)
        if not letters.issuperset(phrase):
            lost.append(phrase)
            continue
        if hotwords.get(phrase, weight) != weight:
            twice.append(phrase)
        hotwords[phrase] = weight
        if len(hotwords) > _MOST:
            raise DataError(
                f"more than {_MOST:,} hotwords, the most that a decoder takes; put them into the text of a language "
                "model instead",
                path,
                number,
            )

    if not hotwords:
        raise DataError(_nothing(lost, letters), path)
    if lost:
        unknown = sorted(set(lost[0]) - letters)[0]
        logger.warning(
            "%s: left out %d of %d hotwords, which the tokenizer cannot write (first: %r with %r)",
            path,
            len(lost),
            len(lost) + len(hotwords),
            lost[0],
            unknown,
        )
    if twice:
        logger.warning(
            "%s: %d hotwords are there twice with different weights, the last counts (first: %r)",
            path,
            len(twice),
            twice[0],
        )
    return hotwords


def _nothing(lost: list[str], letters: set[str]) -> str:
    if not lost:
        return "has no hotword; expected one on each line, as PHRASE or PHRASE:weight"
    return (
        f"the tokenizer can write none of the {len(lost):,} hotwords (first: {lost[0]!r}); it writes "
        f"{''.join(sorted(letters - {' '}))!r}: is the case right?"
    )
