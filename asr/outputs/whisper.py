"""Write a transcript as a JSON document with Whisper's field names, and as one line of JSON.

Readers of Whisper's JSON need this:

- Whisper's own subtitle writers and stable-ts join words with nothing between, so words and the texts of segments begin
  with a space, as Whisper's do. The ``text`` of the whole does not: it is compared and searched, not joined.
- stable-ts passes the fields of a segment as arguments and refuses others, so our own fields are at the top.
- stable-ts refuses times that go back; ``asr.outputs.timing`` puts them in order.
- No field of a segment is missing. Those that a CTC model does not have are empty: ``tokens`` with ids of another
  vocabulary than Whisper's would be read wrong.

Source: openai-whisper 20250625, whisper/utils.py; stable-ts 2.19.1, stable_whisper/result.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

from asr.files import json_text
from asr.outputs.timing import TimedSegment, Word, in_order, segments, whole_characters
from asr.scoring.nist import utterance_id
from asr.transcript import Alternative, Confusion, Transcript


def document(transcript: Transcript) -> dict[str, Any]:
    """Return the JSON document. Units: seconds to the millisecond; natural logarithms."""
    own: dict[str, Any] = {
        "channel": transcript.channel,
        "seams": [{"at": round(s.at_s, 3), "kind": s.kind, "length": round(s.length_s, 3)} for s in transcript.seams],
        "truncated": whole_characters(transcript.truncated),
        "notes": [whole_characters(note) for note in transcript.notes],
        "nbest": [alternative(other) for other in transcript.others],
        "confusion_network": [_confusion(one) for one in transcript.confusions],
        "characters": _characters(transcript),
    }
    document = {
        "path": whole_characters(transcript.path),
        "text": whole_characters(transcript.text),
        "language": None,
        "duration": round(transcript.duration_s, 3) if math.isfinite(transcript.duration_s) else None,
        "log_prob": _log(transcript.log_prob),
        **(_scores(transcript) if transcript.others else {}),
        "no_speech_prob": _probability(transcript.no_speech_prob),
        "segments": [_segment(i, segment) for i, segment in enumerate(segments(transcript))],
    }
    if transcript.no_speech_prob is None:
        del document["no_speech_prob"]
    return document | {name: value for name, value in own.items() if value}


def as_json(transcript: Transcript) -> str:
    """Write the document, indented for people."""
    return json_text(document(transcript), indent=2) + "\n"


def as_line(transcript: Transcript, id_: str) -> str:
    """Write the document on one line, with an ``id`` for ``asr score``, which names any channel but the first."""
    row = {"id": whole_characters(utterance_id(id_, transcript.channel)), **document(transcript)}
    return json_text(row) + "\n"


def _segment(number: int, segment: TimedSegment) -> dict[str, Any]:
    content = segment.text.encode("utf-8", "replace")
    # Per character: the tokens of a CTC model are characters, or pieces that the transcript does not name.
    average = None if segment.log_prob is None else _log(segment.log_prob / max(1, len(segment.text)))
    return {
        "id": number,
        "seek": 0,
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": _spaced(segment.text),
        "tokens": [],
        "temperature": 0.0,  # nothing was drawn by chance
        "avg_logprob": average,
        "compression_ratio": round(len(content) / len(zlib.compress(content)), 4),
        "no_speech_prob": _probability(segment.no_speech_prob),
        "words": _words(segment.words),
    }


def _characters(transcript: Transcript) -> list[dict[str, Any]]:
    numbers = [i for i, segment in enumerate(transcript.segments) for _ in segment.characters]
    characters = in_order(c for segment in transcript.segments for c in segment.characters)
    return [
        {"segment": i, "character": whole_characters(c.text), **_times(c)}
        for i, c in zip(numbers, characters, strict=True)
    ]


def alternative(one: Alternative) -> dict[str, Any]:
    """Return one of the best texts of a recording as the document writes it."""
    words = _words(in_order(one.words))
    return {"text": whole_characters(one.text), "log_prob": _log(one.log_prob), **_scores(one), "words": words}


def _scores(one: Alternative | Transcript) -> dict[str, float | None]:
    scores = {"acoustic_log_prob": one.acoustic_log_prob, "lm_score": one.lm_score}
    return {name: _log(score) for name, score in scores.items() if score is not None}


def _confusion(one: Confusion) -> dict[str, Any]:
    words = [{"word": whole_characters(word), "probability": share} for word, share in one.words]
    return {"start": round(one.start_s, 3), "end": round(one.end_s, 3), "words": words}


def _words(words: Iterable[Word]) -> list[dict[str, Any]]:
    return [{"word": _spaced(word.text), **_times(word)} for word in words]


def _times(word: Word) -> dict[str, Any]:
    return {"start": word.start_ms / 1000, "end": word.end_ms / 1000, "probability": word.confidence}


def _spaced(text: str) -> str:
    return " " + whole_characters(text)


def _probability(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _log(value: float) -> float | None:
    return round(value, 4) + 0.0 if math.isfinite(value) else None  # never -0.0
