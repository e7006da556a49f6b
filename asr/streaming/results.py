"""Hold what a live stream returns, and the rules by which its passages end. Plain values.

Times are seconds from the start of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr.decode.types import TimedWord
from asr.errors import ConfigError


@dataclass(frozen=True)
class Result:
    """Hold the text of a passage so far, or, if ``final``, as it stays.

    A passage is the audio between two pauses. Its results begin with partial ones, each of which replaces the one
    before, and end with one final result.
    """

    text: str
    final: bool
    start_s: float
    #: the text covers the audio up to here
    end_s: float
    words: tuple[TimedWord, ...] = ()
    #: so many characters of the text do not change any more: all of them with greedy decoding
    stable: int = 0
    #: the decoder's score, a natural log
    log_prob: float = 0.0


@dataclass(frozen=True)
class Rules:
    """Say when a passage ends: each after a pause, so that no word is cut.

    The three rules and their defaults are those of Kaldi's online decoders and of sherpa.
    """

    #: after a pause this long, although nothing was said before it
    silence_s: float = 2.4
    #: after a pause this long, once something was said
    pause_s: float = 1.2
    #: in the next pause of any length, once the passage is this long
    longest_s: float = 20.0

    def __post_init__(self) -> None:
        for name, least_s in (("silence_s", 0.2), ("pause_s", 0.2), ("longest_s", 1.0)):
            value_s = getattr(self, name)
            if not least_s <= value_s <= 3600:
                raise ConfigError(f"end points: {name} must be {least_s:g} to 3600 seconds, got {value_s:g}", key=name)
