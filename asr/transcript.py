"""Hold what transcription and alignment return: texts with their times. Plain values, no torch.

Times are seconds from the start of the recording (of the whole file, also when only a part of it was asked for).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from asr.data.tokenizer import Tokenizer
from asr.decode.greedy import Clock, words_with_times
from asr.decode.types import Hypothesis, TimedWord, WordSlot


@dataclass(frozen=True)
class Segment:
    """Hold words without a long pause between them: one segment of a Whisper-style JSON document.

    ``log_prob`` is the decoder's score of the segment if it is known (natural log). ``characters`` are given by
    alignment only: every character of the text except spaces. ``no_speech_prob`` is that of the piece of the recording
    in which the segment begins; None in an alignment.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[TimedWord, ...]
    log_prob: float | None = None
    characters: tuple[TimedWord, ...] = ()
    no_speech_prob: float | None = None


@dataclass(frozen=True)
class Seam:
    """Say where a long recording was cut for the network.

    ``pause``: inside a pause of ``length_s`` seconds. ``overlap``: no pause in reach, so the two parts share
    ``length_s`` seconds of audio and their log-probabilities were joined inside it.
    """

    at_s: float
    kind: Literal["pause", "overlap"]
    length_s: float


@dataclass(frozen=True)
class Alternative:
    """Hold one of the best texts of a recording, with its scores (natural logs) and its own words.

    ``log_prob`` is the sum of ``acoustic_log_prob`` (of the sound) and ``lm_score`` (of language model, word bonus and
    hotwords, weights included).
    """

    text: str
    log_prob: float
    words: tuple[TimedWord, ...] = ()
    acoustic_log_prob: float | None = None
    lm_score: float | None = None


@dataclass(frozen=True)
class Confusion:
    """Hold the words that may have been said in a place of a recording, with their probabilities; "": none."""

    start_s: float
    end_s: float
    words: tuple[tuple[str, float], ...]


def confusions_of(slots: Sequence[WordSlot], words: Sequence[TimedWord]) -> tuple[Confusion, ...]:
    """Return the slots of a text with times: those of its words, and between them those of the gap."""
    found = []
    for slot in slots:
        if not slot.between:
            found.append(Confusion(words[slot.place].start_s, words[slot.place].end_s, slot.words))
            continue
        edges = [word.end_s for word in words[max(slot.place - 1, 0) : slot.place]]
        edges += [word.start_s for word in words[slot.place : slot.place + 1]]
        start_s, end_s = (edges[0], edges[-1]) if edges else (0.0, 0.0)
        found.append(Confusion(min(start_s, end_s), end_s, slot.words))
    return tuple(found)


@dataclass(frozen=True)
class Transcript:
    """Hold what was said in a recording, and when.

    ``log_prob`` is the decoder's score, a natural log: of the best path (greedy), or of all paths in the beam and the
    language model; for a long recording, the sum over its parts. ``duration_s`` is the end of the part that was
    transcribed. ``others`` are the next best texts, if the recording was decoded as one; ``log_prob`` is then the sum
    of ``acoustic_log_prob`` and ``lm_score``, as theirs are. ``notes`` describe what was done to the audio (resampled,
    mixed down). ``channel`` is the one that was taken, from 1; None: all of them, or the recording is known by an id
    that says which. ``no_speech_prob`` is the probability that nobody speaks in it, the lowest of its pieces; None in
    an alignment. ``truncated`` is the reason why the recording is cut or damaged, so that the text covers a part of it
    (empty: it is whole).
    """

    path: str
    text: str
    duration_s: float
    log_prob: float
    segments: tuple[Segment, ...] = ()
    seams: tuple[Seam, ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Alternative, ...] = ()
    channel: int | None = None
    no_speech_prob: float | None = None
    truncated: str = ""
    acoustic_log_prob: float | None = None
    lm_score: float | None = None
    #: the confusion network, if it was asked for (``BeamConfig.mbr``)
    confusions: tuple[Confusion, ...] = ()

    @property
    def words(self) -> tuple[TimedWord, ...]:
        """Return the words of all segments, in order."""
        return tuple(word for segment in self.segments for word in segment.words)


@dataclass(frozen=True)
class Failure:
    """Name a recording that could not be transcribed, and say why, in one line."""

    path: str
    why: str


#: words further apart than this are in two segments
_SEGMENT_GAP_S = 0.8
#: no segment of several words is longer
_SEGMENT_S = 30.0


def alternative_of(hypothesis: Hypothesis, tokenizer: Tokenizer, clock: Clock | float) -> Alternative:
    """Return a hypothesis with its words; ``clock`` as in ``words_with_times``."""
    return Alternative(
        text=" ".join(hypothesis.text.split()),
        log_prob=hypothesis.score,
        words=tuple(words_with_times(hypothesis, tokenizer, clock)),
        acoustic_log_prob=hypothesis.log_prob,
        lm_score=hypothesis.lm_score,
    )


def segments_of(words: Iterable[TimedWord]) -> list[Segment]:
    """Divide words into segments: a new one begins after each long pause, and before one would be too long.

    >>> words = [TimedWord("ONE", 0.1, 0.3), TimedWord("TWO", 0.4, 0.6), TimedWord("SIX", 2.0, 2.4)]
    >>> [segment.text for segment in segments_of(words)]
    ['ONE TWO', 'SIX']
    """
    groups: list[list[TimedWord]] = []
    for word in words:
        last = groups[-1] if groups else []
        if not last or word.start_s - last[-1].end_s > _SEGMENT_GAP_S or word.end_s - last[0].start_s > _SEGMENT_S:
            groups.append([])
        groups[-1].append(word)
    return [Segment(g[0].start_s, g[-1].end_s, " ".join(w.word for w in g), tuple(g)) for g in groups]
