"""Recordings to text, and the ``Recognizer``: the toolkit's public face for people who have a model.

Axes: n samples, s steps, v vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from asr.batch import Features, extract
from asr.data.audio import Wave
from asr.decode.choose import Decoder, greedy_decoder
from asr.decode.decoder import Backend, cores
from asr.decode.greedy import words_with_times
from asr.decode.options import DecoderOptions
from asr.decode.types import LogProbs, TimedWord
from asr.errors import AsrError, DataError
from asr.infer import BATCH_S, log_probs, pipeline, prepared
from asr.model.checkpoint import AcousticModel, find_model, load_model
from asr.recordings.inputs import Input, Part
from asr.recordings.longform import Joiner, TimedLogProbs, pieces_with_features
from asr.recordings.media import Stream, open_array, open_stream
from asr.recordings.pauses import Piece
from asr.recordings.speech import NO_SPEECH_THRESHOLD, no_speech_prob, second_opinion, without_words
from asr.runtime import find_device
from asr.transcript import Alternative, Seam, Segment, Transcript, segments_of
from asr.tuning.rescore import rescoring_decoder_for

#: passages that wait for the decoder, at most
_WAITING = 64
#: passages of one recording that wait for the decoder, at most: each may be minutes of log-probabilities
_BACKLOG = 16
#: a recording: a file, or samples with their rate
Source = str | Path | Input | tuple[npt.ArrayLike, int]


@dataclass(frozen=True)
class Failure:
    """A recording that could not be transcribed, and why, in one line."""

    path: str
    why: str


@dataclass(frozen=True)
class _Passage:
    """What was decoded at a time."""

    text: str
    score: float
    segments: list[Segment]
    others: tuple[Alternative, ...]


@dataclass
class _Recording:
    """A recording on its way: how much of it was read, and what has become of it."""

    path: str
    joiner: Joiner
    offset_s: float
    channel: int | None = None
    pieces_read: int = 0
    pieces_done: int = 0
    num_samples: int = 0
    notes: tuple[str, ...] = ()
    truncated: str = ""
    failure: AsrError | None = None
    read: bool = False
    finished: bool = False
    seams: list[Seam] = field(default_factory=list)
    passages: list[Future[_Passage]] = field(default_factory=list)
    #: where each piece begins, and how probable it is that nobody speaks in it
    starts_s: list[float] = field(default_factory=list)
    no_speech: list[float] = field(default_factory=list)

    def no_speech_at(self, time_s: float) -> float:
        """Of the piece that a time lies in."""
        return self.no_speech[max(0, bisect_right(self.starts_s, time_s) - 1)]


class Recognizer:
    """A model ready to transcribe.

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
        no_speech_threshold: float = NO_SPEECH_THRESHOLD,
    ) -> Recognizer:
        """The recognizer of a model folder, a run folder or a bundle (``torchaudio:NAME``).

        Its decoder is the one that was tuned for it, if there is one, else greedy.

        Args:
            decoder, settings, lm, backend, confidence, rescore, rescore_weight: the fields of
                ``asr.decode.options.DecoderOptions``.
            precision: of the network's arithmetic, as in ``asr.infer.prepared``.
            no_speech_threshold: a piece in which nobody speaks with a higher probability gives no text; 1: all do.

        Raises:
            CheckpointError: there is no whole model there.
            AsrError: the decoder cannot be made.
        """
        folder = find_model(path)
        model = prepared(load_model(path, find_device(device)), precision)
        options = DecoderOptions(decoder, settings or {}, lm, backend, confidence, rescore, rescore_weight)
        return cls(model, rescoring_decoder_for(folder, model.tokenizer, options), no_speech_threshold)

    @overload
    def transcribe(self, source: str | Path | npt.NDArray[Any], sample_rate_hz: int | None = None) -> Transcript: ...  # type: ignore[overload-overlap]  # a str is a Sequence[str]

    @overload
    def transcribe(self, source: Sequence[str | Path], sample_rate_hz: None = None) -> list[Transcript]: ...

    def transcribe(
        self, source: str | Path | npt.NDArray[Any] | Sequence[str | Path], sample_rate_hz: int | None = None
    ) -> Transcript | list[Transcript]:
        """The transcript of a file, of samples with their rate, or of each of several files.

        A file may have any rate, length and number of channels (they are mixed down). Shapes: (n,) or (n, channels).

        Raises:
            DataError: a recording cannot be used; the first that cannot, where there are several.
            ValueError: samples without their rate, or a file with one.
            TypeError: neither a file nor a NumPy array, nor a list of files.
        """
        if isinstance(source, str | Path):
            if sample_rate_hz is not None:
                raise ValueError("sample_rate_hz belongs to samples; a file states its own")
            return _whole(next(self.transcribe_all([source])))
        if isinstance(source, np.ndarray):
            if sample_rate_hz is None:
                raise ValueError("samples need their rate: transcribe(samples, sample_rate_hz=16000)")
            return _whole(next(self.transcribe_all([(source, sample_rate_hz)])))
        given: Any = source
        paths = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
        for path in paths:
            if not isinstance(path, str | Path):
                kind = type(path).__name__
                raise TypeError(f"expected a file's name, a NumPy array with its rate, or a list of names; got {kind}")
        if sample_rate_hz is not None:
            raise ValueError("sample_rate_hz belongs to samples; files state their own")
        return [_whole(one) for one in self.transcribe_all(paths)]

    def transcribe_all(
        self,
        sources: Iterable[Source],
        *,
        longest_s: float | None = None,
        batch_s: float = BATCH_S,
        jobs: int | None = None,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Transcript | Failure]:
        """Transcripts of recordings in their own order; one that cannot be used gives a Failure and stops nothing.

        Memory grows neither with their number nor with their length. Reading, network and decoding overlap; what they
        give does not depend on it.

        Args:
            longest_s: what the network is given at most at a time; default: the longest utterance it was trained on.
            batch_s: padded audio in one batch of the network.
            jobs: threads that decode; default one a core.
            advance: told how many more seconds of audio the network has done.
        """
        waiting: deque[_Recording] = deque()
        items = self._read(sources, longest_s, waiting)
        rate = self.model.audio.sample_rate_hz
        pool = ThreadPoolExecutor(jobs or cores(), "asr-decode")
        try:
            for (recording, piece, no_speech), one_sv in pipeline(self.model, items, _same, batch_s=batch_s):
                recording.pieces_done += 1
                recording.starts_s.append(recording.offset_s + piece.keep_from_n / rate)
                recording.no_speech.append(second_opinion(no_speech, one_sv))
                if recording.no_speech[-1] > self.no_speech_threshold:
                    one_sv = without_words(one_sv)
                self._decode_all(pool, recording, recording.joiner.add(piece, one_sv))
                advance((piece.keep_to_n - piece.keep_from_n) / rate)
                yield from self._ready(pool, waiting)
            yield from self._ready(pool, waiting, at_end=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def load_wave(self, source: Source) -> Wave:
        """All samples of a recording at the model's rate. Shapes: (n,).

        Raises:
            DataError: it cannot be used.
        """
        with self._open(source) as stream:
            return np.concatenate([np.zeros(0, np.float32), *stream.blocks()])

    def log_probs(self, wave_n: Wave) -> LogProbs:
        """Log-probabilities of samples at the model's rate, taken whole. Shapes: (n,) -> (s, v)."""
        return log_probs(self.model, [extract(self.model.extractor, wave_n)])[0]

    def _open(self, source: Source) -> Stream:
        rate = self.model.audio.sample_rate_hz
        if isinstance(source, Input):
            return open_stream(source.source, rate, source.part, source.name)
        if isinstance(source, tuple):
            return open_array(source[0], source[1], rate)
        return open_stream(source, rate, Part())

    def _read(
        self, sources: Iterable[Source], longest_s: float | None, waiting: deque[_Recording]
    ) -> Iterator[tuple[tuple[_Recording, Piece, float], Features]]:
        for source in sources:
            offset_s = _offset_s(source)
            recording = _Recording(_path(source), Joiner(self.model, offset_s=offset_s), offset_s, _channel(source))
            waiting.append(recording)

            def counted(blocks: Iterable[Wave], recording: _Recording = recording) -> Iterator[Wave]:
                for block_n in blocks:
                    recording.num_samples += len(block_n)
                    yield block_n

            try:
                with self._open(source) as stream:
                    recording.notes = stream.notes
                    for piece, features in pieces_with_features(self.model, counted(stream.blocks()), longest_s):
                        recording.pieces_read += 1
                        no_speech = no_speech_prob(piece.wave_n, stream.rate_hz)
                        yield (recording, piece.without_samples(), no_speech), features
                    recording.truncated = stream.truncated
            except AsrError as error:
                recording.failure = error
            finally:
                recording.read = True

    def _decode_all(self, pool: ThreadPoolExecutor, recording: _Recording, passages: Iterable[TimedLogProbs]) -> None:
        for passage in passages:
            recording.seams += passage.seams
            recording.passages.append(pool.submit(self._decode, passage))
            if len(recording.passages) > _BACKLOG:  # a decoder slower than the network must not fill the memory
                wait(recording.passages[-1 - _BACKLOG : -_BACKLOG])

    def _ready(
        self, pool: ThreadPoolExecutor, waiting: deque[_Recording], at_end: bool = False
    ) -> Iterator[Transcript | Failure]:
        """The recordings at the front that are done; at the end, or where much waits, it waits for the decoder."""
        while waiting and waiting[0].read and waiting[0].pieces_done == waiting[0].pieces_read:
            first = waiting[0]
            if not first.finished:
                self._decode_all(pool, first, first.joiner.finish())
                first.finished = True
            done = at_end or all(one.done() for one in first.passages)
            if not done and sum(len(recording.passages) for recording in waiting) <= _WAITING:
                return
            waiting.popleft()
            yield self._result(first)

    def _result(self, recording: _Recording) -> Transcript | Failure:
        if recording.failure is not None:
            return Failure(recording.path, str(recording.failure))
        try:
            passages = [one.result() for one in recording.passages]
        except AsrError as error:
            return Failure(recording.path, str(error))
        segments = [segment for passage in passages for segment in passage.segments]
        no_speech_prob = min(recording.no_speech, default=1.0)
        notes = recording.notes
        if recording.no_speech and no_speech_prob > self.no_speech_threshold:
            # The judgement takes a whisper for noise: its user must learn how to get the text.
            notes += ("nobody seems to speak in it, so it has no text (--no-speech-threshold 1 transcribes it)",)
        return Transcript(
            recording.path,
            " ".join(passage.text for passage in passages if passage.text),
            recording.offset_s + recording.num_samples / self.model.audio.sample_rate_hz,
            sum(passage.score for passage in passages),
            tuple(replace(one, no_speech_prob=recording.no_speech_at(one.start_s)) for one in segments),
            tuple(recording.seams),
            notes,
            passages[0].others if len(passages) == 1 else (),
            recording.channel,
            no_speech_prob,
            recording.truncated,
        )

    def _decode(self, passage: TimedLogProbs) -> _Passage:
        hypotheses = self.decoder.decode(passage.log_probs_sv)
        best = hypotheses[0]
        clock = passage.start_s, passage.end_s
        segments = segments_of(words_with_times(best, self.model.tokenizer, clock))
        if len(segments) == 1:
            segments = [replace(segments[0], log_prob=best.score)]
        others = tuple(
            Alternative(
                " ".join(other.text.split()),
                other.score,
                tuple(words_with_times(other, self.model.tokenizer, clock)),
            )
            for other in hypotheses[1:]
        )
        return _Passage(" ".join(best.text.split()), best.score, segments, others)


def _whole(result: Transcript | Failure) -> Transcript:
    if isinstance(result, Failure):
        raise DataError(result.why)
    return result


def _same(log_probs_sv: LogProbs) -> LogProbs:
    return log_probs_sv


def _offset_s(source: Source) -> float:
    """Where a recording begins for its listener: a part of a file at its start, a manifest's utterance at 0."""
    return source.part.start_s if isinstance(source, Input) and source.text is None else 0.0


def _channel(source: Source) -> int | None:
    """The channel that was asked for; None of a manifest's utterance, whose id says which it is."""
    return source.part.channel if isinstance(source, Input) and source.text is None else None


def _path(source: Source) -> str:
    if isinstance(source, Input):
        return str(source.source or source.name)
    return "array" if isinstance(source, tuple) else str(source)


__all__ = ["Failure", "Recognizer", "Source", "TimedWord", "Transcript"]
