"""The formats by name: which there are, which are asked for, and what a transcript is in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asr.errors import ConfigError, nearest
from asr.outputs import plain, subtitles, textgrid, whisper
from asr.outputs.layout import Layout
from asr.outputs.names import recording_id
from asr.transcript import Transcript

#: what a transcript can be written as; each is also the end of its file's name
FORMATS = ("txt", "srt", "vtt", "tsv", "json", "jsonl", "ctm", "TextGrid")
#: those in which several recordings, one after the other, are still a file of the format, and say which is which
_MANY = ("jsonl", "ctm")

_WRITERS: dict[str, Callable[[Transcript, Layout, str], str]] = {
    "txt": lambda transcript, layout, id_: plain.txt(transcript, layout.word_times),
    "srt": lambda transcript, layout, id_: subtitles.srt(transcript, layout),
    "vtt": lambda transcript, layout, id_: subtitles.vtt(transcript, layout),
    "tsv": lambda transcript, layout, id_: plain.tsv(transcript),
    "json": lambda transcript, layout, id_: whisper.as_json(transcript),
    "jsonl": lambda transcript, layout, id_: whisper.as_line(transcript, id_),
    "ctm": lambda transcript, layout, id_: plain.ctm(transcript, id_),
    "TextGrid": lambda transcript, layout, id_: textgrid.textgrid(transcript),
}


def parse_formats(asked: Sequence[str]) -> tuple[str, ...]:
    """The formats that are asked for, each once, in the order asked; ``all`` is every one.

    >>> parse_formats(["srt,textgrid", "TXT"])
    ('srt', 'TextGrid', 'txt')

    Raises:
        ConfigError: a name is unknown, or there is none where some were expected.
    """
    known = {name.lower(): (name,) for name in FORMATS} | {"all": FORMATS}
    found: dict[str, None] = {}
    for name in (part.strip() for each in asked for part in each.split(",")):
        if not name:
            continue
        if name.lower() not in known:
            names = [*FORMATS, "all"]
            near = nearest(name.lower().lstrip("."), known)
            raise ConfigError(f"unknown format '{name}'{near} (known: {', '.join(names)})")
        found.update(dict.fromkeys(known[name.lower()]))
    if asked and not found:
        raise ConfigError(f"no format is named (known: {', '.join(FORMATS)}, all)")
    return tuple(found)


def render(
    transcript: Transcript, format: str, layout: Layout = Layout(), name: str = "", id_: str | None = None
) -> str:
    """The content of the file of one format.

    Args:
        format: one of ``FORMATS``.
        name: what ``jsonl`` and ``ctm`` call the recording, less an audio suffix; by default its file's name.
        id_: the same, as it is: an id may end like a file.
    """
    if format not in _WRITERS:
        raise ConfigError(f"unknown format '{format}'{nearest(format, FORMATS)} (known: {', '.join(FORMATS)})")
    own = recording_id(name or transcript.path.rpartition("/")[2]) if id_ is None else id_
    return _WRITERS[format](transcript, layout, own)


def on_stdout(format: str, inputs: int) -> bool:
    """Whether so many recordings can be printed one after the other, and what comes is of the format.

    >>> on_stdout("ctm", 3), on_stdout("txt", 3), on_stdout("txt", 1)
    (True, False, True)
    """
    return inputs <= 1 or format in _MANY
