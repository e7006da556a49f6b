"""What comes of a live stream, queued until its pool's next tick.

Axes: n samples.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import numpy.typing as npt

from asr.recordings.arrays import live_samples
from asr.sound.recording import Wave


class Mark(Enum):
    """Stand for what is queued beside samples."""

    #: the passage ends here
    FLUSH = 1
    #: the stream ends here
    FINISH = 2


class QueuedStream:
    """A stream of a pool. Its methods queue, from any thread; the pool's ``tick`` does the work."""

    def __init__(self) -> None:
        #: its end was done
        self.is_done = False
        #: why it ended before its end
        self.failure = ""
        self._queue: deque[Wave | Mark] = deque()

    def push(self, samples: npt.ArrayLike) -> None:
        """Queue the next samples: float in [-1, 1] or int16. Shapes: (n,).

        Raises:
            DataError: they are of another type or shape, or not finite.
        """
        self._queue.append(live_samples(samples))

    def flush(self) -> None:
        """Queue the end of the passage, as if the audio ended here; samples that follow begin anew, time goes on."""
        self._queue.append(Mark.FLUSH)

    def finish(self) -> None:
        """Queue the end of the stream."""
        self._queue.append(Mark.FINISH)
