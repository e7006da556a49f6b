"""Write a transcript as OpenAI's API does. What is not known is left out, never made up.

Source: openai-python 3.57, ``types/audio/transcription*.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from asr.decode.types import TimedWord
from asr.errors import printable
from asr.outputs import document, render
from asr.server.forms import Wanted
from asr.transcript import Segment, Transcript


def response(transcripts: Sequence[Transcript], wanted: Wanted, language: str) -> Response:
    """Return the response to a request: of the whole recording, or for ``diarized_json`` of each of its channels."""
    transcript = transcripts[0]
    if wanted.format == "text":
        answer: Response = PlainTextResponse(transcript.text + "\n")
    elif wanted.format in ("srt", "vtt"):
        media_type = "text/vtt" if wanted.format == "vtt" else "application/x-subrip"
        answer = PlainTextResponse(render(transcript, wanted.format), media_type=media_type)
    elif wanted.format == "json":
        answer = JSONResponse(_json(transcript, wanted))
    elif wanted.format == "verbose_json":
        answer = JSONResponse(_verbose(transcript, wanted, language))
    else:
        answer = JSONResponse(_diarized(transcripts))
    if cut := next((each.truncated for each in transcripts if each.truncated), ""):
        answer.headers["x-truncated"] = printable(cut).encode("ascii", "backslashreplace").decode()
    return answer


def deltas(segments: Iterable[Segment], wanted: Wanted, is_first: bool) -> Iterator[dict[str, Any]]:
    """Yield the events of segments that follow each other; all of a text put together are the text."""
    for segment in segments:
        event: dict[str, Any] = {"type": "transcript.text.delta", "delta": ("" if is_first else " ") + segment.text}
        if wanted.logprobs:
            event["logprobs"] = logprobs(segment.words)
        yield event
        is_first = False


def done(transcript: Transcript, wanted: Wanted) -> dict[str, Any]:
    """Return the last event."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": transcript.text}
    if wanted.logprobs:
        event["logprobs"] = logprobs(transcript.words)
    return event


def diarized_events(transcripts: Sequence[Transcript]) -> Iterator[dict[str, Any]]:
    """Yield the events of channels."""
    yield from diarized_segments(transcripts)
    yield {"type": "transcript.text.done", "text": _joined(transcripts)}


def logprobs(words: Sequence[TimedWord]) -> list[dict[str, Any]]:
    """Return one entry per word, with the log of its confidence; a word without one is left out."""
    return [
        {"token": word.word, "logprob": round(math.log(word.confidence), 4), "bytes": list(word.word.encode())}
        for word in words
        if word.confidence
    ]


def diarized_segments(transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    """Return the segments of all channels in the order of time. The speaker is the channel: A is the first."""
    spoken: list[tuple[str, Segment]] = []
    for number, transcript in enumerate(transcripts):
        spoken += [(chr(ord("A") + number), segment) for segment in transcript.segments]
    spoken.sort(key=lambda each: (each[1].start_s, each[0]))
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": round(segment.start_s, 3),
            "end": round(segment.end_s, 3),
            "text": segment.text,
            "speaker": speaker,
        }
        for number, (speaker, segment) in enumerate(spoken)
    ]


def _json(transcript: Transcript, wanted: Wanted) -> dict[str, Any]:
    answer: dict[str, Any] = {"text": transcript.text, "usage": _usage(transcript)}
    if wanted.logprobs:
        answer["logprobs"] = logprobs(transcript.words)
    return answer


def _verbose(transcript: Transcript, wanted: Wanted, language: str) -> dict[str, Any]:
    whole = document(transcript)
    answer: dict[str, Any] = {
        "task": "transcribe",
        "duration": whole["duration"],
        "text": transcript.text,
        "usage": _usage(transcript),
    }
    if language:
        answer["language"] = language
    segments = whole["segments"]
    if wanted.segments:
        answer["segments"] = [
            {key: value for key, value in segment.items() if key != "words" and value is not None}
            for segment in segments
        ]
    if wanted.words:
        words = [word for segment in segments for word in segment["words"]]
        answer["words"] = [
            {key: value for key, value in word.items() if value is not None} | {"word": word["word"].strip()}
            for word in words
        ]
    answer |= {key: whole[key] for key in ("no_speech_prob", "truncated", "notes") if whole.get(key) is not None}
    return answer


def _diarized(transcripts: Sequence[Transcript]) -> dict[str, Any]:
    return {
        "task": "transcribe",
        "duration": round(max(each.duration_s for each in transcripts), 3),
        "text": _joined(transcripts),
        "segments": diarized_segments(transcripts),
        "usage": _usage(transcripts[0]),
    }


def _joined(transcripts: Sequence[Transcript]) -> str:
    return " ".join(str(segment["text"]) for segment in diarized_segments(transcripts))


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration_s, 3)}
