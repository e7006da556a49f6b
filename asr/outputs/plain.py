"""Lines and tables: ``txt``, Whisper's ``tsv``, NIST's ``ctm``."""

from __future__ import annotations

import re

from asr.outputs.timing import one_line, segments, spoken
from asr.scoring.nist import channel_name
from asr.transcript import Transcript

#: what sclite takes for a mark, not for a word
_MARKS = re.compile(r"<(ALT(?:_BEGIN|_END)?)>")


def txt(transcript: Transcript, word_times: bool = False) -> str:
    """A line a segment; or a line a word, ``start<TAB>end<TAB>word`` in seconds, which Audacity imports as labels."""
    if word_times:
        words = [word for segment in segments(transcript) for word in spoken(segment.words)]
        return "".join(f"{w.start_ms / 1000:.3f}\t{w.end_ms / 1000:.3f}\t{w.text}\n" for w in words)
    lines = [one_line(segment.text) for segment in transcript.segments] or [one_line(transcript.text)]
    return "".join(f"{line}\n" for line in lines if line)


def tsv(transcript: Transcript) -> str:
    """A header, then ``start<TAB>end<TAB>text`` a segment, in whole milliseconds, as Whisper writes it."""
    rows = [f"{s.start_ms}\t{s.end_ms}\t{one_line(s.text)}\n" for s in segments(transcript)]
    return "".join(["start\tend\ttext\n", *rows])


def ctm(transcript: Transcript, id_: str) -> str:
    """A line a word: file, channel, start, duration, word and, where it is known, confidence.

    NIST separates by white space and knows no escape: spaces in names and words become ``_``, parentheses in names too.
    A recording without words cannot be said in the format: a comment names it.
    """
    file = re.sub(r"[()\s]|^;;", "_", one_line(id_)) or "_"
    channel = channel_name(transcript.channel or 1)
    lines = []
    for segment in segments(transcript):
        for word in spoken(segment.words):
            text = _MARKS.sub(r"(\1)", word.text.replace(" ", "_"))
            sure = "" if word.confidence is None else f" {word.confidence:.4f}"
            start_s, duration_s = word.start_ms / 1000, (word.end_ms - word.start_ms) / 1000
            lines.append(f"{file} {channel} {start_s:.3f} {duration_s:.3f} {text}{sure}\n")
    return "".join(lines) or f";; {file} {channel}: no words\n"
