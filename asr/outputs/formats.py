"""Choose output formats by name, and write a transcript in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asr.errors import ConfigError, nearest
from asr.outputs import plain, subtitles, textgrid, whisper
from asr.outputs.layout import Layout
from asr.outputs.names import recording_id
from asr.transcript import Transcript

#: the formats of transcripts; each is also the end of its file's name
FORMATS = ("txt", "srt", "vtt", "tsv", "json", "jsonl", "ctm", "TextGrid")
#: formats in which several recordings can follow each other in one file, each with its name
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
    """Return the formats that are asked for, each once, in the order asked; ``all`` is every one.

    >>> parse_formats(["srt,textgrid", "TXT"])
    ('srt', 'TextGrid', 'txt')

    Raises:
        ConfigError: a name is unknown, or only separators are given.
    """
    known = {name.lower(): (name,) for name in FORMATS} | {"all": FORMATS}
    found: list[str] = []
    for name in filter(None, map(str.strip, ",".join(asked).split(","))):
        if name.lower() not in known:
            near = nearest(name.lower().lstrip("."), known)
            raise ConfigError(f"unknown format '{name}'{near} (known: {', '.join(FORMATS)}, all)")
        found += known[name.lower()]
    if asked and not found:
        raise ConfigError(f"no format is named (known: {', '.join(FORMATS)}, all)")
    return tuple(dict.fromkeys(found))


def render(
    transcript: Transcript, format: str, layout: Layout = Layout(), name: str = "", id_: str | None = None
) -> str:
    """Return the content of the file of one format.

    Args:
        format: one of ``FORMATS``.
        name: the recording's name, which ``jsonl`` and ``ctm`` state without its audio suffix; default: the file's.
        id_: the recording's id, which is stated as it is.
    """
    if format not in _WRITERS:
        raise ConfigError(f"unknown format '{format}'{nearest(format, FORMATS)} (known: {', '.join(FORMATS)})")
    if id_ is None:
        id_ = recording_id(name or transcript.path.rpartition("/")[2])
    return _WRITERS[format](transcript, layout, id_)


def on_stdout(format: str, inputs: int) -> bool:
    """Check whether this many recordings can be printed one after the other in one file of the format.

    >>> on_stdout("ctm", 3), on_stdout("txt", 3), on_stdout("txt", 1)
    (True, False, True)
    """
    return inputs <= 1 or format in _MANY
