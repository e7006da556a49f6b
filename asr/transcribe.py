"""Audio files to text, and the ``Recognizer``: the toolkit's public face for people who have a model.

Axes: n samples, t frames, s steps, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr import audio
from asr.batch import extract
from asr.checkpoint import AcousticModel, find_model, load_model
from asr.decode.choose import Decoder, decoder_for, greedy_decoder
from asr.decode.decoder import Backend
from asr.decode.greedy import words_with_times
from asr.decode.types import Hypothesis, LogProbs, TimedWord
from asr.errors import AsrError, DataError
from asr.infer import BATCH_S, all_log_probs, log_probs
from asr.runtime import find_device

#: path, samples at the model's rate, the rate they were resampled from (0: none)
Loaded = tuple[str, audio.Wave, int]


@dataclass(frozen=True)
class Transcript:
    """What was said in a file, and when.

    ``log_prob`` is the decoder's score, a natural log: greedy, the best path's; beam search, that of all paths in the
    beam and of the language model. ``resampled_from_hz`` is 0 when the rate fitted. ``others``: the next best texts.
    """

    path: str
    text: str
    duration_s: float
    log_prob: float
    words: tuple[TimedWord, ...]
    resampled_from_hz: int = 0
    others: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        nbest = [{"text": text, "log_prob": round(score, 4)} for text, score in self.others]
        return {
            "path": self.path,
            "text": self.text,
            "duration_s": round(self.duration_s, 3),
            "log_prob": round(self.log_prob, 4),
            "words": [_word_json(w) for w in self.words],
        } | ({"nbest": nbest} if nbest else {})


def _word_json(word: TimedWord) -> dict[str, Any]:
    confidence = {} if word.confidence is None else {"probability": word.confidence}
    return {"word": word.word, "start": word.start_s, "end": word.end_s} | confidence


@dataclass(frozen=True)
class Failure:
    """A file that could not be transcribed, and why, in one line."""

    path: str
    why: str


class Recognizer:
    """A model ready to transcribe.

    >>> r = Recognizer.load("runs/an4")                 # doctest: +SKIP
    >>> r.transcribe("a.wav").text                      # doctest: +SKIP
    'RUBOUT U G A M THIRTY NINE'
    """

    def __init__(self, model: AcousticModel, decoder: Decoder | None = None) -> None:
        self.model = model
        self.decoder = decoder or greedy_decoder(model.tokenizer)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        *,
        resample: bool = False,
        decoder: str = "",
        settings: Mapping[str, Any] | None = None,
        lm: Path | None = None,
        backend: Backend = "auto",
        confidence: bool = True,
    ) -> Recognizer:
        """The recognizer of a model folder or run folder, with its tuned decoder if it has one, else greedy.

        Args:
            resample: take audio of any rate; otherwise another rate than the model's is an error, unless the model's
                own config asks to resample.
            decoder, settings, lm, backend, confidence: as in ``asr.decode.choose.decoder_for``.

        Raises:
            CheckpointError: there is no whole model there.
            AsrError: the decoder cannot be made.
        """
        folder = find_model(path)
        model = load_model(folder, find_device(device))
        if resample:
            model = replace(model, audio=model.audio.model_copy(update={"resample": True}))
        return cls(model, decoder_for(folder, model.tokenizer, decoder, settings, lm, backend, confidence))

    def transcribe(self, path: str | Path) -> Transcript:
        """The transcript of one file.

        Raises:
            DataError: the file cannot be used.
        """
        result = next(self.transcribe_all([path]))
        if isinstance(result, Failure):
            raise DataError(result.why)
        return result

    def transcribe_all(self, paths: Sequence[str | Path]) -> Iterator[Transcript | Failure]:
        """Transcripts of files in their own order; a file that cannot be used gives a Failure and stops nothing.

        Files are taken in groups of a few minutes of audio, so memory does not grow with their number.
        """
        group: list[Loaded | Failure] = []
        seconds = 0.0
        for path in paths:
            try:
                wave_n, from_hz = self.load_wave(path)
                group.append((str(path), wave_n, from_hz))
                seconds += len(wave_n) / self.model.audio.sample_rate_hz
            except AsrError as error:
                group.append(Failure(str(path), str(error)))
            if seconds >= 4 * BATCH_S:
                yield from self._transcribe_group(group)
                group, seconds = [], 0.0
        yield from self._transcribe_group(group)

    def load_wave(self, path: str | Path) -> tuple[audio.Wave, int]:
        """A file's samples at the model's rate, and the rate it was resampled from (0: it fitted).

        Raises:
            DataError: the file cannot be read, or has another rate and the model's config does not ask to resample.
        """
        wave_n, rate = audio.load(path)
        wanted = self.model.audio.sample_rate_hz
        remedy = "convert it, or use --resample (in Python resample=True)"
        fitted = audio.at_rate(wave_n, rate, wanted, self.model.audio.resample, Path(path), remedy)
        return fitted, rate if rate != wanted else 0

    def log_probs(self, wave_n: audio.Wave) -> LogProbs:
        """Log-probabilities of samples at the model's rate. Shapes: (n,) -> (s, v)."""
        return log_probs(self.model, [extract(self.model.extractor, wave_n)])[0]

    def _transcribe_group(self, group: Sequence[Loaded | Failure]) -> Iterator[Transcript | Failure]:
        loaded = [one for one in group if not isinstance(one, Failure)]
        features = [extract(self.model.extractor, wave_n) for _, wave_n, _ in loaded]
        hypotheses = [self.decoder.decode(one_sv) for one_sv in all_log_probs(self.model, features)]
        done = iter(zip(loaded, hypotheses, strict=True))
        for one in group:
            if isinstance(one, Failure):
                yield one
            else:
                yield self._transcript(*next(done))

    def _transcript(self, loaded: Loaded, hypotheses: Sequence[Hypothesis]) -> Transcript:
        hypothesis = hypotheses[0]
        path, wave_n, from_hz = loaded
        duration_s = len(wave_n) / self.model.audio.sample_rate_hz
        words = words_with_times(hypothesis, self.model.tokenizer, self.model.step_s)
        # The last step may reach beyond the last sample by part of a step.
        inside = tuple(replace(w, end_s=round(min(w.end_s, duration_s), 3)) for w in words)
        text = " ".join(hypothesis.text.split())
        others = tuple((" ".join(other.text.split()), other.score) for other in hypotheses[1:])
        return Transcript(path, text, duration_s, hypothesis.score, inside, from_hz, others)
