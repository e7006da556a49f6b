"""Write lines and tables: ``txt``, Whisper's ``tsv``, NIST's ``ctm``."""

from __future__ import annotations

import re

from asr.errors import harmless
from asr.outputs.timing import clean_line, segments, spoken
from asr.scoring.nist import channel_name
from asr.transcript import Transcript

#: what sclite takes for a mark, not for a word
_MARKS = re.compile(r"<(ALT(?:_BEGIN|_END)?)>")


def txt(transcript: Transcript, word_times: bool = False) -> str:
    """Write one line per segment; or one per word, ``start<TAB>end<TAB>word`` in seconds, which Audacity imports."""
    if word_times:
        words = [word for segment in segments(transcript) for word in spoken(segment.words)]
        return "".join(f"{w.start_ms / 1000:.3f}\t{w.end_ms / 1000:.3f}\t{w.text}\n" for w in words)
    lines = [clean_line(segment.text) for segment in transcript.segments] or [clean_line(transcript.text)]
    return "".join(f"{line}\n" for line in lines if line)


def tsv(transcript: Transcript) -> str:
    """Write a header, then ``start<TAB>end<TAB>text`` per segment, in whole milliseconds, as Whisper does."""
    rows = [f"{s.start_ms}\t{s.end_ms}\t{clean_line(s.text)}\n" for s in segments(transcript)]
    return "".join(["start\tend\ttext\n", *rows])


def ctm(transcript: Transcript, id_: str) -> str:
    """Write one line per word: file, channel, start, duration, word and, if it is known, confidence.

    NIST separates by white space and knows no escape: spaces in names and words become ``_``, parentheses in names too.
    The format has no way to state a recording without words: a comment names it.
    """
    file = re.sub(r"[()\s]|^;;", "_", harmless(id_)) or "_"
    channel = channel_name(transcript.channel or 1)
    lines = []
    for segment in segments(transcript):
        for word in spoken(segment.words):
            text = _MARKS.sub(r"(\1)", word.text.replace(" ", "_"))
            confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
            start_s = word.start_ms / 1000
            duration_s = (word.end_ms - word.start_ms) / 1000
            lines.append(f"{file} {channel} {start_s:.3f} {duration_s:.3f} {text}{confidence}\n")
    return "".join(lines) or f";; {file} {channel}: no words\n"
