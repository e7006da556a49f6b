"""What live streams need of a recognizer (``asr.transcribe.Recognizer``, which imports this room)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from asr.decode.choose import Decoder
from asr.model.contract import AcousticModel
from asr.recordings.listening import Source
from asr.transcript import Failure, Transcript


class AnyRecognizer(Protocol):
    """A model with its decoder."""

    model: AcousticModel
    decoder: Decoder
    no_speech_threshold: float

    def transcribe_all(self, sources: Iterable[Source], /) -> Iterator[Transcript | Failure]:
        """Yield transcripts of recordings in their order."""

    def with_decoder(self, decoder: Decoder, /) -> AnyRecognizer:
        """Return a recognizer of the same model with another decoder."""
