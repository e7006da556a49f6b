"""When each word and each character of a text is said in a recording, and which transcripts are likely wrong.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.alignment.unmatched import Stretch, Unmatched, describe, find_unmatched, stretches, tokens_of_words
from asr.alignment.word_times import align_parts, timed_segments
from asr.data.manifest import Manifest, Utterance
from asr.data.targets import min_steps
from asr.data.text import NORMALIZATIONS, check_profile, normalize
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.decode.greedy import Clock, greedy
from asr.decode.types import Ints, LogProbs, TimedWord
from asr.errors import DataError, os_reason
from asr.infer import of_manifest
from asr.model.checkpoint import AcousticModel
from asr.recordings.longform import log_probs_of_recording
from asr.recordings.media import open_stream
from asr.scoring.alphabet import unwritable_line
from asr.transcript import Seam, Transcript

#: utterances of a manifest that are computed before the first of them is given out: sorted by length, given in order
_AT_ONCE = 2000
#: a place in a recording: about a short word, which is about so many characters
_LOCAL_S, _LOCAL_CHARACTERS = 0.3, 5


@dataclass(frozen=True)
class Aligned:
    """A text with its times, and how well it fits what was heard.

    ``reference`` is the text as it was aligned, normalised; ``heard`` what the model itself would write (greedy).
    The gap is what the text's path is less probable than the model's own, a log-probability: 0 where the model would
    write this text itself, and far below 0 where it heard another. ``gap`` is for each character (of the longer of the
    two texts), ``gap_per_step`` for each step, ``local_gap`` all of it in the worst 0.3 s: a word too many or too few
    in a long sentence. ``token_log_prob`` is the mean over the text's tokens (None: it has none).
    """

    id: str
    transcript: Transcript
    reference: str
    heard: str
    token_log_prob: float | None
    gap: float
    gap_per_step: float
    local_gap: float
    #: where text and audio do not belong together; with ``allow_gaps`` the times are those of the rest
    unmatched: tuple[Unmatched, ...] = ()

    @property
    def score(self) -> float:
        """What likely wrong transcripts are found by, lowest first: the mean gap, and that of the worst place."""
        return self.gap + self.local_gap / _LOCAL_CHARACTERS

    def weakest(self, count: int = 3) -> list[TimedWord]:
        """The words that are least believed, the worst first."""
        return sorted(self.transcript.words, key=lambda word: word.confidence or 0.0)[:count]

    def to_json(self) -> dict[str, Any]:
        """How well the text fits, as ``asr align`` states it of each utterance, beside the transcript."""
        return {
            "id": self.id,
            "score": round(self.score, 4),
            "gap": round(self.gap, 4),
            "gap_per_step": round(self.gap_per_step, 5),
            "local_gap": round(self.local_gap, 4),
            "token_log_prob": None if self.token_log_prob is None else round(self.token_log_prob, 4),
            "reference": self.reference,
            "heard": self.heard,
            "unmatched": [each.to_json() for each in self.unmatched],
        }


def align_manifest(
    model: AcousticModel,
    manifest: Manifest,
    progress: Callable[[float], None] = lambda audio_s: None,
    *,
    normalization: str | None = None,
    allow_gaps: bool = False,
) -> Iterator[tuple[Utterance, Aligned | DataError]]:
    """Each utterance of a manifest, in order, aligned with its text, or with why it cannot be.

    Times are seconds from the utterance's own start. Memory does not grow with the manifest.

    Args:
        normalization: the profile that the texts go through; None: the model's own.
        allow_gaps: align what fits, and leave the rest of the text and of the audio out.
    """
    profile = _profile(model, normalization)
    rows = manifest.utterances
    for first in range(0, len(rows), _AT_ONCE):
        some, done = rows[first : first + _AT_ONCE], {}
        for utterance, one_sv in of_manifest(model, Manifest(manifest.path, some), no_speech_threshold=1):
            done[utterance.id] = _aligned_utterance(model, manifest, utterance, one_sv, profile, allow_gaps)
            progress(utterance.duration_s)
        yield from ((utterance, done.pop(utterance.id)) for utterance in some)


def _aligned_utterance(
    model: AcousticModel,
    manifest: Manifest,
    utterance: Utterance,
    one_sv: LogProbs | DataError,
    profile: str,
    allow_gaps: bool,
) -> Aligned | DataError:
    if isinstance(one_sv, DataError):
        return one_sv
    step_s = np.arange(len(one_sv) + 1, dtype=np.float64) * model.step_s
    try:
        return align_text(
            utterance.text,
            one_sv,
            (step_s[:-1], step_s[1:]),
            model.tokenizer,
            profile,
            id_=utterance.id,
            path=utterance.audio_path,
            duration_s=utterance.duration_s,
            allow_gaps=allow_gaps,
        )
    except DataError as error:
        return DataError(f"utt '{utterance.id}': {error}", manifest.path)


def align_recording(
    model: AcousticModel,
    path: str | Path,
    text: str,
    *,
    normalization: str | None = None,
    allow_gaps: bool = False,
) -> Aligned:
    """A recording of any length aligned with its text; with ``allow_gaps``, what fits of both.

    Raises:
        DataError: the recording cannot be read, the text holds no words or characters that the model does not know, or
            it does not fit in the recording.
    """
    profile = _profile(model, normalization)
    try:
        if not spell(text, model.tokenizer, profile).words:  # before the work
            raise DataError("holds no words")
    except DataError as error:
        raise DataError(f"its text: {error}", path) from error
    with open_stream(path, model.audio.sample_rate_hz) as stream:
        heard = log_probs_of_recording(model, stream)
        duration_s, notes = stream.duration_s or 0.0, stream.notes
        if stream.truncated:  # a text that is not said to its end would be squeezed into what is there
            raise DataError(stream.truncated, path)
    try:
        return align_text(
            text,
            heard.log_probs_sv,
            (heard.start_s, heard.end_s),
            model.tokenizer,
            profile,
            id_=str(path),
            path=str(path),
            duration_s=duration_s,
            seams=heard.seams,
            notes=notes,
            allow_gaps=allow_gaps,
        )
    except DataError as error:
        raise DataError(str(error), path) from error


def read_text(path: str | Path) -> str:
    """The text of a plain text file, in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the text: {os_reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8", path) from error


def align_text(
    text: str,
    log_probs_sv: LogProbs,
    clock: Clock,
    tokenizer: Tokenizer,
    normalization: str,
    *,
    id_: str,
    path: str,
    duration_s: float,
    seams: tuple[Seam, ...] = (),
    notes: tuple[str, ...] = (),
    allow_gaps: bool = False,
) -> Aligned:
    """A text aligned with the log-probabilities of what is said, and with the time of each step.

    Args:
        allow_gaps: align what fits, and leave the rest of the text and of the audio out.

    Raises:
        DataError: the text has characters that the tokenizer does not know, or does not fit in the steps; with
            ``allow_gaps``, none of it fits.
    """
    spelling = spell(text, tokenizer, normalization)
    tokens_u = tokenizer.encode(spelling.text)
    # The model's own text may have more spaces than ours; and a pause is a step in which it says nothing else.
    delimiter = tokenizer.symbols.index(" ") + 1 if " " in tokenizer.symbols else -1
    words = tokens_of_words(tokens_u, [size for _, size in spelling.words], tokenizer)
    gaps = find_unmatched(log_probs_sv, words, tokenizer, delimiter)
    own_words = [word for word, _ in spelling.words]
    unmatched = tuple(describe(gap, own_words, log_probs_sv, tokenizer, clock) for gap in gaps)
    heard_text = " ".join(greedy(log_probs_sv, tokenizer).text.split())

    parts = [Stretch(slice(0, len(log_probs_sv)), slice(0, len(words)))]
    if allow_gaps and gaps:
        parts = stretches(gaps, len(log_probs_sv), len(words))
        if not parts:
            raise DataError(
                f"nothing of the text fits the audio, in which the model hears '{heard_text[:60]}': "
                "is it the text of another recording?"
            )
    elif (needed := min_steps(tokens_u)) > len(log_probs_sv):
        raise DataError(
            f"the text needs {needed:,} steps of the model, the audio has {len(log_probs_sv):,} ({duration_s:.2f} s): "
            "is it the text of another recording? To align what fits: --allow-gaps (in Python allow_gaps=True)"
        )
    best = align_parts(log_probs_sv, words, parts, tokenizer, delimiter)

    kept = [word for part in parts for word in spelling.words[part.words]]
    segments = timed_segments(kept, best.pieces, clock, duration_s)
    if spelling.unsaid:
        some = " ".join(spelling.unsaid[:5]) + (" …" if len(spelling.unsaid) > 5 else "")
        notes = (*notes, f"{len(spelling.unsaid):,} of the text's marks that are no words have no time: {some}")
    gap, local_gap = _gaps(log_probs_sv, best.path_s, clock)
    return Aligned(
        id=id_,
        transcript=Transcript(
            path=path,
            text=" ".join(word for word, _ in kept),
            duration_s=duration_s,
            log_prob=best.log_prob,
            segments=segments,
            seams=seams,
            notes=notes,
        ),
        reference=spelling.text,
        heard=heard_text,
        token_log_prob=float(best.log_prob_u.mean()) if len(best.log_prob_u) else None,
        gap=gap / max(len(spelling.text), len(heard_text), 1),
        gap_per_step=gap / max(len(log_probs_sv), 1),
        local_gap=local_gap,
        unmatched=unmatched,
    )


def _gaps(log_probs_sv: LogProbs, path_s: Ints, clock: Clock) -> tuple[float, float]:
    """What a path is less probable than the best of all: as a whole, and in the worst place."""
    steps = len(path_s)
    if not steps:
        return 0.0, 0.0
    gap_s = log_probs_sv[np.arange(steps), path_s].astype(np.float64) - log_probs_sv.max(axis=1)
    sum_s = np.append(0.0, gap_s.cumsum())
    width = min(steps, max(1, round(_LOCAL_S / max(1e-3, float(np.median(clock[1] - clock[0]))))))
    return float(sum_s[-1]), float((sum_s[width:] - sum_s[:-width]).min())


class Spelling(NamedTuple):
    """A text as the model writes it, and as its author did."""

    #: normalised
    text: str
    #: each word as its author wrote it, and how many normalised words it is
    words: list[tuple[str, int]]
    #: what the author wrote between the words, and nobody says: a dash by itself
    unsaid: list[str]


def spell(text: str, tokenizer: Tokenizer, normalization: str) -> Spelling:
    """A text under a normalisation profile, with the way back to its author's words.

    A letter that the tokenizer has in the other case only is taken in that case.

    Raises:
        DataError: the tokenizer cannot write it; the characters and their words are named, with what to do.
    """
    whole = _in_case_of(tokenizer, normalize(text, normalization))
    if tokenizer.unknown(whole):
        raise DataError(_unknown(text, tokenizer, normalization))
    own = text.split()
    sizes = [len(normalize(word, normalization).split()) for word in own]
    if sum(sizes) != len(whole.split()):  # a profile that looks beyond the word: then as it wrote them
        return Spelling(whole, [(word, 1) for word in whole.split()], [])
    words = [(word, size) for word, size in zip(own, sizes, strict=True) if size]
    return Spelling(whole, words, [word for word, size in zip(own, sizes, strict=True) if not size])


def _in_case_of(tokenizer: Tokenizer, text: str) -> str:
    """The text with each letter that the tokenizer cannot write in the other case, where it can write that."""
    other = {c: c.swapcase() for c in tokenizer.unknown(text)}
    return text.translate({ord(c): swapped for c, swapped in other.items() if not tokenizer.unknown(swapped)})


def unwritable(model: AcousticModel, texts: Iterable[str], normalization: str | None = None) -> str:
    """One line about the characters of texts that the model has in neither case; empty where there are none."""
    tokenizer, profile = model.tokenizer, _profile(model, normalization)
    written = {c for symbol in tokenizer.symbols for c in symbol.replace(WORD_START, " ")}
    return unwritable_line((_in_case_of(tokenizer, normalize(text, profile)) for text in texts), written)


def _unknown(text: str, tokenizer: Tokenizer, normalization: str) -> str:
    """One line about the characters of a text that the model cannot write."""
    where: dict[str, str] = {}
    for word in normalize(text, normalization).split():
        for c in tokenizer.unknown(_in_case_of(tokenizer, word)):
            where.setdefault(c, word)
    if not where:  # words, but no space between them
        return "the text has several words, and the model's vocabulary no space: give one word"
    some = ", ".join(f"{c!r} (U+{ord(c):04X}) in the word {word!r}" for c, word in itertools.islice(where.items(), 3))
    more = f", and {len(where) - 3:,} more" if len(where) > 3 else ""
    known = "".join(dict.fromkeys(c for symbol in tokenizer.symbols for c in symbol if c != WORD_START))
    remedy = "write it as it is spoken, in letters of the model"
    under = {profile: normalize(text, profile) for profile in NORMALIZATIONS}
    left = {profile: tokenizer.unknown(_in_case_of(tokenizer, one)) for profile, one in under.items()}
    best = min(left, key=lambda profile: (len(left[profile]), len(tokenizer.unknown(under[profile]))))
    if len(left[best]) < len(where):
        remedy = f"use --normalization {best} (in Python normalization={best!r})"
        rest = ", ".join(map(repr, left[best][:5])) + (", …" if len(left[best]) > 5 else "")
        remedy += f", and write {rest} as it is spoken" if rest else ""
    return f"unknown character {some}{more}; the model writes {known[:60]!r}{'…' if len(known) > 60 else ''}: {remedy}"


def _profile(model: AcousticModel, normalization: str | None) -> str:
    if normalization is None:
        return model.text.normalization
    check_profile(normalization)
    return normalization
