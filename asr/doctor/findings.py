"""What the doctor can find: one code per kind of trouble, with its severity and what to do about it.

An **error** stops training or evaluation, or is a pair that cannot be right; a **warning** most likely harms what is
trained or measured; a **note** is good to know.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from asr.data.manifest import Utterance
from asr.errors import AsrError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

#: severity (unless the check says otherwise), code and what it is; on the next line what to do. In a report's order.
_KINDS = """
error manifest-empty: the manifest has no rows
    prepare it again
error row-invalid: not a valid row, so nothing can read the manifest
    correct the line, or use --fix
error duplicate-id: the id is taken by an earlier row
    make ids unique, say with the speaker in front
error audio-missing: the audio file is not there
    paths are relative to the manifest's folder: correct audio_path, fetch the files, or use --fix
error audio-unreadable: the file cannot be read as audio
    fetch or convert it again, or use --fix
error audio-truncated: the file is cut or damaged
    fetch it again, or use --fix
error audio-empty: the file has no samples
    use --fix
error audio-not-finite: samples are not finite numbers
    write the file again, or use --fix
error rate: another sample rate than the model's
    set audio.resample=true, or resample the corpus
error channels: several channels, of which the row takes none, or one that is not there
    prepare again with --mix or --channel N, or set 'channel' in the manifest
error duration: the manifest and the file disagree on where the utterance ends
    measure duration_s (and offset_s) again; the table and the audio may not belong together
error characters: characters outside the vocabulary
    normalise all texts the same way (text.normalization), or correct them
error too-short-for-text: the labels need more steps than the model makes of the audio
    most likely a wrong pair; else lower the time strides in model (conv, tdnn, mlp)
error wrong-pairs: texts that belong to other audio
    a row too many or too few in a table of texts: pair them again
error overlap-audio: audio of another set is in the training set
    take it out of training, or use --fix
warning overlap-speaker: a speaker is in two sets
    split by speaker, or say so beside the result
warning overlap-text: a text of five words or more is in two sets
    the error rate will be too good for new sentences: split by text, or say so beside the result
warning duplicate-audio: the same audio again
    keep one row; with two texts at most one is right
warning text-empty: no text
    training leaves it out; in a test set all output counts as errors
warning text-unicode: control characters, U+FFFD, UTF-8 read as something else, or letters in pieces (not NFC)
    decode the texts in their own encoding; text.normalization upper or lower composes letters
warning text-lookalike: characters that look like others, say of another alphabet inside a word
    write the letter that is meant: each is a token of its own
warning text-invisible: characters that nobody sees: zero-width spaces, byte-order marks, no-break spaces
    every text.normalization takes them out; write a space where words meet
warning text-markup: what is written and not spoken: entities, escapes, markers of noise
    decode entities and escapes; take markers out, or leave such rows out of training
warning digits-in-text: digits
    write numbers as they are spoken
note character-rare: a character of three rows or fewer
    a slip? each is a token of the model
warning rate-of-speech: far more or fewer characters per second than the rest
    listen to the first ones: a wrong text, a part of one, or much silence
warning speed: audio that seems to play at another speed
    listen to it: most likely a wrong sample rate
warning too-long: longer than batch.max_utterance_s
    training leaves it out: cut it, or raise the limit
warning silence: next to nothing to hear
    listen to it; cut the silence, or leave it out
warning clipping: clipped
    record or convert with less gain; a few are harmless
warning dc-offset: the wave does not swing around zero
    remove the offset, say with a high-pass filter
note narrow-band: nothing above 4 kHz: recorded or sent at 8 kHz, and brought to a higher rate
    train and use a model at 8 kHz, or keep it apart from speech of the full band
note manifest-twice: the same manifest was given twice
    it was looked at once
"""


class Kind(NamedTuple):
    """A kind of trouble: its severity unless the check says otherwise, what it is, and what to do."""

    severity: Severity
    what: str
    todo: str


def _parse_kinds() -> dict[str, Kind]:
    kinds = {}
    lines = _KINDS.strip().splitlines()
    for title, todo in zip(lines[::2], lines[1::2], strict=True):
        head, _, what = title.partition(": ")
        severity, code = head.split()
        kinds[code] = Kind(cast(Severity, severity), what, todo.strip())
    return kinds


KINDS = _parse_kinds()


@dataclass(slots=True, eq=False)
class ManifestRow:
    """A row of a manifest, with its text as a model sees it and the path of its audio file."""

    manifest: LoadedManifest
    line: int
    utterance: Utterance
    text: str
    audio_path: str
    #: equal for rows with equal audio; None if it is unknown
    audio_key: object = None

    @property
    def has_error(self) -> bool:
        return self.line in self.manifest.errors


@dataclass
class LoadedManifest:
    """A manifest as far as it can be read; ``role`` is what it is for, by its name."""

    path: Path
    role: str
    rows: list[ManifestRow] = field(default_factory=list)
    #: lines that are not blank, refused ones included
    num_lines: int = 0
    #: line -> id, of rows whose id an earlier row has
    duplicates: dict[int, str] = field(default_factory=dict)
    #: line with an error -> code and value of its first one
    errors: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        return self.role == "train"

    @property
    def audio_s(self) -> float:
        return sum(row.utterance.duration_s for row in self.rows)

    @property
    def speakers(self) -> Counter[str]:
        """Rows of each speaker that has a name."""
        return Counter(row.utterance.speaker for row in self.rows if row.utterance.speaker)


@dataclass(frozen=True)
class FindingExample:
    """One row with a finding, and what was measured."""

    manifest: str
    line: int | None
    id: str | None
    value: str

    def __str__(self) -> str:
        where = self.manifest if self.line is None else f"{self.manifest}:{self.line}"
        return str(AsrError(f"{where}{f' {self.id}' if self.id else ''}: {self.value}"))


@dataclass
class Finding:
    """All rows with one kind of trouble at one severity."""

    code: str
    severity: Severity
    count: int = 0
    audio_s: float = 0.0
    examples: list[FindingExample] = field(default_factory=list)
    #: facts about all of them together
    details: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as an entry of the report's JSON, with its counts and examples."""
        return {
            "code": self.code,
            "severity": self.severity,
            "count": self.count,
            "what": KINDS[self.code].what,
            "todo": KINDS[self.code].todo,
            "details": self.details,
            "audio_s": round(self.audio_s, 3),
            "examples": [vars(example) for example in self.examples],
        }
