"""Transcribe recordings: the ``Recognizer``, the toolkit's public face for people who have a model.

Axes: n samples, s steps, v vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from asr.data.audio import Wave
from asr.decode.choose import Decoder, greedy_decoder
from asr.decode.options import DecoderOptions
from asr.decode.types import LogProbs
from asr.errors import AsrError, ConfigError, DataError
from asr.infer import log_probs, pipeline
from asr.machine import usable_cores
from asr.model.contract import AcousticModel
from asr.model.folder import find_model, shipped_settings
from asr.model.use import load_for_use
from asr.recordings.inputs import Input, Part
from asr.recordings.listening import Reading, Source, listen, open_source
from asr.recordings.longform import Joiner, TimedLogProbs
from asr.recordings.speech import NO_SPEECH_THRESHOLD, second_opinion, without_words
from asr.streaming.results import Rules
from asr.transcript import Failure, Seam, Transcript, alternative_of, confusions_of, segments_of
from asr.tuning.rescore import rescoring_decoder_for
from asr.utterance import extract

if TYPE_CHECKING:
    from asr.decode.decoder import Backend
    from asr.streaming.stream import Stream

#: passages that wait for the decoder, at most
_WAITING = 64
#: passages of one recording that wait for the decoder, at most: each may be minutes of log-probabilities
_BACKLOG = 16


@dataclass(kw_only=True)
class _Progress(Reading):
    """Keep how much of a recording was read, and what has become of it."""

    #: what was asked for: a manifest's utterance begins at 0, and its id says which channel it is
    part: Part
    joiner: Joiner
    pieces_done: int = 0
    is_joined: bool = False
    seams: list[Seam] = field(default_factory=list)
    #: each passage's own transcript, without what is known of the recording only; so many of them were told
    passages: list[Future[Transcript]] = field(default_factory=list)
    passages_told: int = 0
    #: its place among the sources
    number: int = 0
    #: where each piece begins, and how probable it is that nobody speaks in it
    starts_s: list[float] = field(default_factory=list)
    no_speech: list[float] = field(default_factory=list)

    def no_speech_at(self, time_s: float) -> float:
        """Return the probability of no speech in the piece that a time lies in."""
        return self.no_speech[max(0, bisect_right(self.starts_s, time_s) - 1)]


class Recognizer:
    """Hold a model that is ready to transcribe.

    >>> r = Recognizer.load("runs/an4")                 # doctest: +SKIP
    >>> r.transcribe("a.flac").text                     # doctest: +SKIP
    'RUBOUT U G A M THIRTY NINE'
    """

    def __init__(
        self,
        model: AcousticModel,
        decoder: Decoder | None = None,
        no_speech_threshold: float = NO_SPEECH_THRESHOLD,
    ) -> None:
        self.model = model
        self.decoder = decoder or greedy_decoder(model.tokenizer)
        self.no_speech_threshold = no_speech_threshold

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        *,
        decoder: str = "",
        settings: Mapping[str, Any] | None = None,
        lm: Path | None = None,
        backend: Backend = "auto",
        confidence: bool = True,
        precision: str = "auto",
        rescore: Path | None = None,
        rescore_weight: float | None = None,
        hotword_file: Path | None = None,
        no_speech_threshold: float = NO_SPEECH_THRESHOLD,
    ) -> Recognizer:
        """Load the recognizer of a model folder, a run folder or a published model (``hf:NAME`` …).

        The decoder is the one that was tuned for the model, else one with the language model that came with it, else
        greedy.

        Args:
            decoder, settings, lm, backend, confidence, rescore, rescore_weight, hotword_file: the fields of
                ``asr.decode.options.DecoderOptions``.
            precision: of the network's arithmetic, as in ``asr.model.prepared.prepared``.
            no_speech_threshold: a piece gives no text if the probability that nobody speaks in it is higher; at
                1, all pieces give text.

        Raises:
            CheckpointError: there is no whole model there.
            AsrError: the decoder cannot be made.
        """
        folder = find_model(path)
        model = load_for_use(path, device, precision)
        shipped = shipped_settings(path) if lm is None and decoder != "greedy" else None
        options = DecoderOptions(
            decoder, settings or {}, lm, backend, confidence, rescore, rescore_weight, shipped, hotword_file
        )
        return cls(model, rescoring_decoder_for(folder, model.tokenizer, options), no_speech_threshold)

    @overload
    def transcribe(self, source: str | Path | npt.NDArray[Any], sample_rate_hz: int | None = None) -> Transcript: ...  # type: ignore[overload-overlap]  # a str is a Sequence[str]

    @overload
    def transcribe(self, source: Sequence[str | Path], sample_rate_hz: None = None) -> list[Transcript]: ...

    def transcribe(
        self, source: str | Path | npt.NDArray[Any] | Sequence[str | Path], sample_rate_hz: int | None = None
    ) -> Transcript | list[Transcript]:
        """Transcribe a file, samples with their rate, or each of several files.

        A file may have any rate, length and number of channels (they are mixed down). Shapes: (n,) or (n, channels).

        Raises:
            DataError: a recording cannot be used; of several, the first that cannot.
            ValueError: samples without their rate, or a file with one.
            TypeError: neither a file nor a NumPy array, nor a list of files.
        """
        if isinstance(source, np.ndarray):
            if sample_rate_hz is None:
                raise ValueError("samples need their rate: transcribe(samples, sample_rate_hz=16000)")
            return _transcript(next(self.transcribe_all([(source, sample_rate_hz)])))

        if isinstance(source, str | Path):
            paths: list[Any] = [source]
        else:
            given: Any = source
            paths = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
        for path in paths:
            if not isinstance(path, str | Path):
                kind = type(path).__name__
                raise TypeError(f"expected a file's name, a NumPy array with its rate, or a list of names; got {kind}")
        if sample_rate_hz is not None:
            raise ValueError("sample_rate_hz belongs to samples; files state their own")
        results = [_transcript(result) for result in self.transcribe_all(paths)]
        return results[0] if isinstance(source, str | Path) else results

    def transcribe_all(
        self,
        sources: Iterable[Source],
        *,
        longest_s: float | None = None,
        most_s: float = math.inf,
        batch_s: float | None = None,
        jobs: int | None = None,
        advance: Callable[[float], None] = lambda seconds: None,
        tell: Callable[[int, Transcript], None] | None = None,
    ) -> Iterator[Transcript | Failure]:
        """Yield transcripts of recordings in their order; one that cannot be used gives a Failure and stops nothing.

        Memory grows neither with their number nor with their length. Reading, network and decoding overlap; this does
        not change the results.

        Args:
            longest_s: the longest audio that the network is given at a time; default: the longest utterance that it
                was trained on.
            most_s: a recording that turns out to be longer is read no further, and gives a Failure.
            batch_s: padded audio in one batch of the network; default: what suits its device.
            jobs: threads that decode; default: one per core.
            advance: called with the seconds of audio that the network has done since the last call.
            tell: called with passages of recordings that are still read, as soon as they are decoded, in order, and
                with the number of their source, from 0. The result has their segments, too, and those that follow.
        """
        waiting: deque[_Progress] = deque()

        def recordings() -> Iterator[tuple[Source, _Progress]]:
            for number, source in enumerate(sources):
                part = source.part if isinstance(source, Input) and source.text is None else Part()
                joiner = Joiner(self.model, offset_s=part.start_s)
                recording = _Progress(_path(source), part=part, joiner=joiner, number=number)
                waiting.append(recording)
                yield source, recording

        pieces = listen(self.model, recordings(), longest_s, most_s)
        rate_hz = self.model.audio.sample_rate_hz
        pool = ThreadPoolExecutor(jobs or usable_cores(), "asr-decode")
        try:
            for (recording, piece, no_speech), one_sv in pipeline(self.model, pieces, _unchanged, batch_s=batch_s):
                recording.pieces_done += 1
                if isinstance(one_sv, DataError):
                    recording.failure = f"{recording.path}: {one_sv}"
                else:
                    recording.starts_s.append(recording.part.start_s + piece.keep_from_n / rate_hz)
                    recording.no_speech.append(second_opinion(no_speech, one_sv))
                    if recording.no_speech[-1] > self.no_speech_threshold:
                        one_sv = without_words(one_sv)
                    self._decode_all(pool, recording, recording.joiner.add(piece, one_sv))
                advance((piece.keep_to_n - piece.keep_from_n) / rate_hz)
                if tell is not None:
                    _tell(waiting, tell)
                yield from self._finished(pool, waiting)
            yield from self._finished(pool, waiting, at_end=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def stream(self, rate_hz: int, rules: Rules = Rules(), hotwords: Mapping[str, float] | None = None) -> Stream:
        """Begin a live stream of samples at a rate, which become text while they come.

        Args:
            rules: say when a passage of the text is final.
            hotwords: words to expect in this stream, with their weights, besides those of the decoder.

        Raises:
            ConfigError: the model does not stream; it cannot write one of the hotwords, or its decoder is greedy.
            DataError: no speech has that rate.
        """
        from asr.streaming.stream import Stream

        if not hotwords:
            return Stream(self, rate_hz, rules)
        with_hotwords = self.decoder.with_hotwords
        if with_hotwords is None:
            raise ConfigError("hotwords need the beam search, and the decoder is greedy", key="hotwords")
        return Stream(self.with_decoder(with_hotwords(hotwords)), rate_hz, rules)

    def with_decoder(self, decoder: Decoder) -> Recognizer:
        """Return a recognizer of the same model with another decoder."""
        return Recognizer(self.model, decoder, self.no_speech_threshold)

    def load_wave(self, source: Source) -> Wave:
        """Return all samples of a recording at the model's rate. Shapes: (n,).

        Raises:
            DataError: it cannot be used.
        """
        with open_source(source, self.model.audio.sample_rate_hz) as stream:
            return np.concatenate([np.zeros(0, np.float32), *stream.blocks()])

    def log_probs(self, wave_n: Wave) -> LogProbs:
        """Return log-probabilities of samples at the model's rate, taken whole. Shapes: (n,) -> (s, v)."""
        return log_probs(self.model, [extract(self.model.extractor, wave_n)])[0]

    def _decode_all(self, pool: ThreadPoolExecutor, recording: _Progress, passages: Iterable[TimedLogProbs]) -> None:
        for passage in passages:
            recording.seams += passage.seams
            recording.passages.append(pool.submit(self._decode, passage))
            if len(recording.passages) > _BACKLOG:  # a decoder slower than the network must not fill the memory
                wait(recording.passages[-1 - _BACKLOG : -_BACKLOG])

    def _decode(self, passage: TimedLogProbs) -> Transcript:
        """Return the text of a passage, with its segments and alternatives."""
        clock = passage.start_s, passage.end_s
        hypotheses = self.decoder.decode(passage.log_probs_sv)
        best, *others = [alternative_of(hypothesis, self.model.tokenizer, clock) for hypothesis in hypotheses]
        segments = segments_of(best.words)
        if len(segments) == 1:
            segments = [replace(segments[0], log_prob=best.log_prob)]
        return Transcript(
            path="",
            text=best.text,
            duration_s=0.0,
            log_prob=best.log_prob,
            segments=tuple(segments),
            others=tuple(others),
            acoustic_log_prob=best.acoustic_log_prob,
            lm_score=best.lm_score,
            confusions=confusions_of(hypotheses[0].slots or (), best.words),
        )

    def _finished(
        self, pool: ThreadPoolExecutor, waiting: deque[_Progress], at_end: bool = False
    ) -> Iterator[Transcript | Failure]:
        """Yield the recordings at the front that are done; wait for the decoder at the end, and if much waits."""
        while waiting and waiting[0].is_read and waiting[0].pieces_done == waiting[0].pieces_read:
            first = waiting[0]
            if not first.is_joined:
                self._decode_all(pool, first, first.joiner.finish())
                first.is_joined = True
            is_done = at_end or all(passage.done() for passage in first.passages)
            if not is_done and sum(len(recording.passages) for recording in waiting) <= _WAITING:
                return
            waiting.popleft()
            yield self._result(first)

    def _result(self, recording: _Progress) -> Transcript | Failure:
        if recording.failure:
            return Failure(recording.path, recording.failure)
        try:
            passages = [passage.result() for passage in recording.passages]
        except AsrError as error:
            return Failure(recording.path, str(error))

        no_speech = min(recording.no_speech, default=1.0)
        notes = recording.notes
        if recording.no_speech and no_speech > self.no_speech_threshold:
            # The judgement takes a whisper for noise: its user must learn how to get the text.
            notes += ("nobody seems to speak in it, so it has no text (--no-speech-threshold 1 transcribes it)",)
        segments = [segment for passage in passages for segment in passage.segments]
        return Transcript(
            path=recording.path,
            text=" ".join(passage.text for passage in passages if passage.text),
            duration_s=recording.part.start_s + recording.num_samples / self.model.audio.sample_rate_hz,
            log_prob=sum(passage.log_prob for passage in passages),
            segments=tuple(replace(one, no_speech_prob=recording.no_speech_at(one.start_s)) for one in segments),
            seams=tuple(recording.seams),
            notes=notes,
            others=passages[0].others if len(passages) == 1 else (),
            acoustic_log_prob=sum(passage.acoustic_log_prob or 0.0 for passage in passages),
            lm_score=sum(passage.lm_score or 0.0 for passage in passages),
            confusions=tuple(slot for passage in passages for slot in passage.confusions),
            channel=recording.part.channel,
            no_speech_prob=no_speech,
            truncated=recording.truncated,
        )


def _tell(recordings: Iterable[_Progress], tell: Callable[[int, Transcript], None]) -> None:
    """Tell the passages that are decoded and were not told yet."""
    for recording in recordings:
        for passage in recording.passages[recording.passages_told :]:
            if not passage.done() or passage.exception():
                break
            tell(recording.number, passage.result())
            recording.passages_told += 1


def _transcript(result: Transcript | Failure) -> Transcript:
    if isinstance(result, Failure):
        raise DataError(result.why)
    return result


def _unchanged(log_probs_sv: LogProbs) -> LogProbs:
    return log_probs_sv


def _path(source: Source) -> str:
    if isinstance(source, Input):
        return str(source.source or source.name)
    return "array" if isinstance(source, tuple) else str(source)


__all__ = ["Failure", "Recognizer", "Source", "Transcript"]
