"""Read recordings and make the features of their pieces: in the caller's thread, and in several beside a GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy.typing as npt

from asr.ahead import ahead_of_gpu
from asr.data.audio import Wave
from asr.errors import AsrError, DataError
from asr.model.contract import AcousticModel
from asr.recordings.inputs import Input
from asr.recordings.longform import longest_piece_s
from asr.recordings.media import Stream, open_array, open_stream
from asr.recordings.pauses import Piece, cut
from asr.recordings.speech import no_speech_prob
from asr.utterance import Features, extract

#: how much of a recording is read in a thread beside a GPU, seconds; what follows is read in the caller's thread
_BEGIN_S = 60.0
#: a recording: a file, or samples with their rate
Source = str | Path | Input | tuple[npt.ArrayLike, int]


@dataclass
class Reading:
    """Keep how much of a recording was read; ``failure``: why it could not be read to its end."""

    path: str
    num_samples: int = 0
    pieces_read: int = 0
    is_read: bool = False
    failure: str = ""
    notes: tuple[str, ...] = ()
    truncated: str = ""

    def counted(self, blocks: Iterable[Wave], most: float) -> Iterator[Wave]:
        """Yield the blocks, and count their samples.

        Raises:
            DataError: there are more than ``most`` samples.
        """
        for block_n in blocks:
            self.num_samples += len(block_n)
            if self.num_samples > most:
                raise DataError("the audio is longer than what is allowed here", self.path)
            yield block_n


R = TypeVar("R", bound=Reading)
#: a piece of a recording, how probable it is that nobody speaks in it, and its features
Heard: TypeAlias = tuple[tuple[R, Piece, float], Features]
#: how long the next pieces are, and how to listen to them
_Pieces: TypeAlias = Iterator[tuple[float, Callable[[], Heard[R]]]]


def open_source(source: Source, rate_hz: int) -> Stream:
    """Open a recording at a rate.

    Raises:
        DataError: it cannot be used.
    """
    if isinstance(source, Input):
        return open_stream(source.source, rate_hz, source.part, source.name, pipes=source.is_named)
    if isinstance(source, tuple):
        return open_array(source[0], source[1], rate_hz)
    return open_stream(source, rate_hz)


def listen(
    model: AcousticModel,
    recordings: Iterable[tuple[Source, R]],
    longest_s: float | None = None,
    most_s: float = math.inf,
) -> Iterator[Heard[R]]:
    """Yield the pieces of recordings with their features, in order, and note in each ``Reading`` what was read.

    With a GPU, each recording's first minute is read in a thread, and all features are made in threads: reading and
    cutting alone take one core a second for about 1,600 s of audio.

    Args:
        longest_s: the longest piece; default: the longest utterance that the model was trained on.
        most_s: a recording that turns out to be longer is read no further, and fails.
    """
    longest_s = longest_s or longest_piece_s(model)

    def jobs() -> Iterator[tuple[float, Callable[[], tuple[list[Heard[R]], _Pieces[R]]]]]:
        for source, reading in recordings:
            pieces = _pieces(model, source, reading, longest_s, most_s)
            begin_s = _BEGIN_S if model.on_gpu and not _is_pipe(source) else 0.0
            yield begin_s, partial(_begin, pieces, begin_s)

    for begun, rest in ahead_of_gpu(model.on_gpu, jobs()):
        yield from begun
        yield from ahead_of_gpu(model.on_gpu, rest)


def _begin(pieces: _Pieces[R], seconds: float) -> tuple[list[Heard[R]], _Pieces[R]]:
    """Listen to the first seconds of a recording; also return the rest of its pieces."""
    begun: list[Heard[R]] = []
    while seconds > 0 and (following := next(pieces, None)) is not None:
        audio_s, listen_to_it = following
        begun.append(listen_to_it())
        seconds -= audio_s
    return begun, pieces


def _pieces(model: AcousticModel, source: Source, reading: R, longest_s: float, most_s: float) -> _Pieces[R]:
    rate_hz = model.audio.sample_rate_hz

    def features_of(piece: Piece) -> Heard[R]:
        features_tf = extract(model.extractor, piece.wave_n)
        return (reading, piece.without_samples(), no_speech_prob(piece.wave_n, rate_hz)), features_tf

    try:
        with open_source(source, rate_hz) as stream:
            reading.notes = stream.notes
            for piece in cut(reading.counted(stream.blocks(), most_s * rate_hz), rate_hz, longest_s):
                reading.pieces_read += 1
                yield len(piece.wave_n) / rate_hz, partial(features_of, piece)
            reading.truncated = stream.truncated
    except AsrError as error:
        reading.failure = str(error)
    finally:
        reading.is_read = True


def _is_pipe(source: Source) -> bool:
    """Check whether a recording may be a pipe, whose next block may never come: a thread would wait for ever."""
    path = source.source if isinstance(source, Input) else source
    if isinstance(path, tuple):
        return False
    return path is None or not os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for a name that is too long
