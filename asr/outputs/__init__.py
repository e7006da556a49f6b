"""Write transcripts as the files that people's tools read: text, subtitles, Whisper's JSON, ctm, TextGrid.

``docs/outputs.md`` shows each.

>>> from asr.decode.types import TimedWord
>>> from asr.transcript import Transcript, segments_of
>>> words = [TimedWord("GO", 0.32, 0.6), TimedWord("ON", 0.7, 1.0)]
>>> print(render(Transcript("a.wav", "GO ON", 2.0, -0.3, tuple(segments_of(words))), "srt"), end="")
1
00:00:00,320 --> 00:00:01,320
GO ON
<BLANKLINE>
"""

from __future__ import annotations

from asr.outputs.formats import FORMATS, on_stdout, parse_formats, render
from asr.outputs.layout import Layout
from asr.outputs.names import recording_id, recording_ids
from asr.outputs.targets import Target, Targets
from asr.outputs.whisper import document

__all__ = [
    "FORMATS",
    "Layout",
    "Target",
    "Targets",
    "document",
    "on_stdout",
    "parse_formats",
    "recording_id",
    "recording_ids",
    "render",
]
