"""One live stream, in the caller's thread."""

from __future__ import annotations

import numpy.typing as npt

from asr.errors import ConfigError
from asr.streaming.contract import AnyRecognizer
from asr.streaming.engines import why_not
from asr.streaming.pool import open_pool
from asr.streaming.results import Result, Rules


class Stream:
    """A stream of samples, which become text while they come.

    >>> stream = Recognizer.load("runs/streaming").stream(16000)     # doctest: +SKIP
    >>> for samples in microphone():                                 # doctest: +SKIP
    ...     for result in stream.feed(samples):
    ...         print(result.text, "." if result.final else "…")
    """

    def __init__(self, recognizer: AnyRecognizer, rate_hz: int, rules: Rules) -> None:
        """Begin a stream.

        Raises:
            ConfigError: the model does not stream.
            DataError: no speech has that rate.
        """
        why = why_not(recognizer.model)
        if why:
            raise ConfigError(f"the model does not stream: {why}; the config an4/streaming is of one that does")
        self._pool = open_pool(recognizer)
        self._stream = self._pool.open(rate_hz, rules)

    def feed(self, samples: npt.ArrayLike) -> list[Result]:
        """Take the next samples, float in [-1, 1] or int16, and return what is new, oldest first. Shapes: (n,).

        Raises:
            DataError: they are of another type or shape, or not finite.
            ValueError: the stream is finished.
        """
        if self._stream.is_done:
            raise ValueError("the stream is finished")
        self._stream.push(samples)
        return self._new()

    def flush(self) -> list[Result]:
        """End the passage as if the audio ended here; what is fed afterwards begins anew, while time goes on."""
        self._stream.flush()
        return self._new()

    def finish(self) -> list[Result]:
        """End the stream, and return the last results."""
        self._stream.finish()
        return self._new()

    def _new(self) -> list[Result]:
        return [result for _, results in self._pool.tick() for result in results]
