"""Find when each word and character of a text is said in a recording, and which transcripts are likely wrong.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.ahead import ahead_of_gpu
from asr.alignment.spelling import in_case_of, spell_for
from asr.alignment.unmatched import Stretch, Unmatched, describe, find_unmatched, stretches, tokens_of_words
from asr.alignment.word_times import align_parts, timed_segments
from asr.data.manifest import Manifest, Utterance
from asr.data.targets import min_steps
from asr.data.text import check_profile, normalize
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.decode.greedy import Clock, greedy
from asr.decode.types import Ints, LogProbs, TimedWord
from asr.errors import DataError
from asr.infer import of_manifest
from asr.model.contract import AcousticModel
from asr.recordings.longform import log_probs_of_recording
from asr.recordings.media import open_stream
from asr.scoring.alphabet import unwritable_line
from asr.transcript import Seam, Transcript

#: utterances of a manifest that are computed before the first of them is given out: sorted by length, given in order
_AT_ONCE = 2000
#: the length of a place that ``local_gap`` looks at: about a short word, which is about this many characters
_LOCAL_S, _LOCAL_CHARACTERS = 0.3, 5


@dataclass(frozen=True)
class Aligned:
    """Hold a text with its times, and how well it fits what was heard.

    ``reference`` is the text as it was aligned, normalised; ``heard`` is what the model itself writes (greedy).
    The gap is the difference in log-probability between the text's path and the model's own: 0 if the model would write
    this text itself, and far below 0 if it heard another. ``gap`` is per character (of the longer of the two texts),
    ``gap_per_step`` per step, ``local_gap`` the sum over the worst 0.3 s: one wrong word in a long sentence.
    ``token_log_prob`` is the mean over the text's tokens (None: it has none).
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
        """Return the mean gap and that of the worst place; the lowest scores are likely wrong transcripts."""
        return self.gap + self.local_gap / _LOCAL_CHARACTERS

    def weakest(self, count: int = 3) -> list[TimedWord]:
        """Return the words with the lowest confidence, the worst first."""
        return sorted(self.transcript.words, key=lambda word: word.confidence or 0.0)[:count]

    def to_json(self) -> dict[str, Any]:
        """Return how well the text fits, as ``asr align`` writes it beside the transcript."""
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
    """Yield each utterance of a manifest, in order, aligned with its text, or with the reason why it cannot be.

    Times are seconds from the utterance's own start. Memory does not grow with the manifest.

    Args:
        normalization: the profile that the texts go through; None: the model's own.
        allow_gaps: align what fits, and leave the rest of the text and of the audio out.
    """
    profile = _profile(model, normalization)
    for first in range(0, len(manifest.utterances), _AT_ONCE):
        some = manifest.utterances[first : first + _AT_ONCE]
        done: dict[str, Aligned | DataError] = {}
        heard = of_manifest(model, Manifest(manifest.path, some), no_speech_threshold=1)
        jobs = (
            (utterance.duration_s, partial(_align_utterance, model, manifest, utterance, one_sv, profile, allow_gaps))
            for utterance, one_sv in heard
        )
        for utterance, aligned in ahead_of_gpu(model.on_gpu, jobs):
            done[utterance.id] = aligned
            progress(utterance.duration_s)
        yield from ((utterance, done.pop(utterance.id)) for utterance in some)


def _align_utterance(
    model: AcousticModel,
    manifest: Manifest,
    utterance: Utterance,
    log_probs_sv: LogProbs | DataError,
    profile: str,
    allow_gaps: bool,
) -> tuple[Utterance, Aligned | DataError]:
    if isinstance(log_probs_sv, DataError):
        return utterance, log_probs_sv
    edge_s = np.arange(len(log_probs_sv) + 1, dtype=np.float64) * model.step_s
    try:
        aligned = align_text(
            utterance.text,
            log_probs_sv,
            (edge_s[:-1], edge_s[1:]),
            model.tokenizer,
            profile,
            id_=utterance.id,
            path=utterance.audio_path,
            duration_s=utterance.duration_s,
            allow_gaps=allow_gaps,
        )
    except DataError as error:
        return utterance, DataError(f"utt '{utterance.id}': {error}", manifest.path)
    return utterance, aligned


def align_recording(
    model: AcousticModel,
    path: str | Path,
    text: str,
    *,
    normalization: str | None = None,
    allow_gaps: bool = False,
) -> Aligned:
    """Align a recording of any length with its text; with ``allow_gaps``, what fits of both.

    Raises:
        DataError: the recording cannot be read, the text holds no words or characters that the model does not know, or
            it does not fit in the recording.
    """
    profile = _profile(model, normalization)
    try:
        if not spell_for(model.tokenizer, text, profile).words:  # before the work
            raise DataError("holds no words")
    except DataError as error:
        raise DataError(f"its text: {error}", path) from error

    with open_stream(path, model.audio.sample_rate_hz) as stream:
        heard = log_probs_of_recording(model, stream)
        if stream.truncated:  # the whole text would be squeezed into what is there
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
            duration_s=stream.duration_s,
            seams=heard.seams,
            notes=stream.notes,
            allow_gaps=allow_gaps,
        )
    except DataError as error:
        raise DataError(str(error), path) from error


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
    """Align a text with the log-probabilities of a recording, of which each step has its time.

    Args:
        allow_gaps: align what fits, and leave the rest of the text and of the audio out.

    Raises:
        DataError: the text has characters that the tokenizer does not know, or does not fit in the steps; with
            ``allow_gaps``, none of it fits.
    """
    spelling = spell_for(tokenizer, text, normalization)
    author_words = [word for word, _ in spelling.words]
    tokens_u = tokenizer.encode(spelling.text)
    # A path may have more spaces than the text: in a pause, a model may say one or more.
    delimiter = tokenizer.symbols.index(" ") + 1 if " " in tokenizer.symbols else -1
    words = tokens_of_words(tokens_u, [size for _, size in spelling.words], tokenizer)
    gaps = find_unmatched(log_probs_sv, words, tokenizer, delimiter)
    heard = " ".join(greedy(log_probs_sv, tokenizer).text.split())

    if allow_gaps and gaps:
        parts = stretches(gaps, len(log_probs_sv), len(words))
        _check_any_fit(parts, heard)
    else:
        parts = [Stretch(slice(0, len(log_probs_sv)), slice(0, len(words)))]
        _check_length(tokens_u, len(log_probs_sv), duration_s)
    best = align_parts(log_probs_sv, words, parts, tokenizer, delimiter)

    kept = [word for part in parts for word in spelling.words[part.words]]
    total_gap, local_gap = _gaps(log_probs_sv, best.path_s, clock)
    return Aligned(
        id=id_,
        transcript=Transcript(
            path=path,
            text=" ".join(word for word, _ in kept),
            duration_s=duration_s,
            log_prob=best.log_prob,
            segments=timed_segments(kept, best.pieces, clock, duration_s),
            seams=seams,
            notes=notes + _note_of_unspoken(spelling.unspoken),
        ),
        reference=spelling.text,
        heard=heard,
        token_log_prob=float(best.log_prob_u.mean()) if len(best.log_prob_u) else None,
        gap=total_gap / max(len(spelling.text), len(heard), 1),
        gap_per_step=total_gap / max(len(log_probs_sv), 1),
        local_gap=local_gap,
        unmatched=tuple(describe(gap, author_words, log_probs_sv, tokenizer, clock) for gap in gaps),
    )


def _check_any_fit(parts: Sequence[Stretch], heard: str) -> None:
    if not parts:
        raise DataError(
            f"nothing of the text fits the audio, in which the model hears '{heard[:60]}': "
            "is it the text of another recording?"
        )


def _check_length(tokens_u: Sequence[int], steps: int, duration_s: float) -> None:
    if (needed := min_steps(tokens_u)) > steps:
        raise DataError(
            f"the text needs {needed:,} steps of the model, the audio has {steps:,} ({duration_s:.2f} s): "
            "is it the text of another recording? To align what fits: --allow-gaps (in Python allow_gaps=True)"
        )


def _note_of_unspoken(marks: Sequence[str]) -> tuple[str, ...]:
    if not marks:
        return ()
    some = " ".join(marks[:5]) + (" …" if len(marks) > 5 else "")
    return (f"{len(marks):,} of the text's marks that are no words have no time: {some}",)


def _gaps(log_probs_sv: LogProbs, path_s: Ints, clock: Clock) -> tuple[float, float]:
    """Return by how much a path is less probable than the best one: as a whole, and in the worst place."""
    steps = len(path_s)
    if not steps:
        return 0.0, 0.0
    gap_s = log_probs_sv[np.arange(steps), path_s].astype(np.float64) - log_probs_sv.max(axis=1)
    sum_s = np.append(0.0, gap_s.cumsum())
    step_s = max(1e-3, float(np.median(clock[1] - clock[0])))
    width = min(steps, max(1, round(_LOCAL_S / step_s)))
    return float(sum_s[-1]), float((sum_s[width:] - sum_s[:-width]).min())


def unwritable(model: AcousticModel, texts: Iterable[str], normalization: str | None = None) -> str:
    """Return one line about the characters of texts that the model has in neither case; empty if there are none."""
    tokenizer, profile = model.tokenizer, _profile(model, normalization)
    written = {c for symbol in tokenizer.symbols for c in symbol.replace(WORD_START, " ")}
    return unwritable_line((in_case_of(tokenizer, normalize(text, profile)) for text in texts), written)


def _profile(model: AcousticModel, normalization: str | None) -> str:
    if normalization is None:
        return model.text.normalization
    check_profile(normalization)
    return normalization
