"""What the doctor can find: one code a kind of trouble, its severity, and what to do about it.

An **error** stops training or evaluation, or is a pair that cannot be right; a **warning** most likely harms what is
trained or measured; a **note** is good to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asr.data.manifest import Utterance
from asr.errors import AsrError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

#: code -> (severity unless the check says otherwise, what it is, what to do), in the order of a report
KINDS: dict[str, tuple[Severity, str, str]] = {
    "manifest-empty": ("error", "the manifest has no rows", "prepare it again"),
    "row-invalid": ("error", "not a valid row, so nothing can read the manifest", "correct the line, or use --fix"),
    "duplicate-id": ("error", "the id is taken by an earlier row", "make ids unique, say with the speaker in front"),
    "audio-missing": (
        "error", "the audio file is not there",
        "paths are relative to the manifest's folder: correct audio_path, fetch the files, or use --fix",
    ),
    "audio-unreadable": ("error", "the file cannot be read as audio", "fetch or convert it again, or use --fix"),
    "audio-truncated": ("error", "the file is cut or damaged", "fetch it again, or use --fix"),
    "audio-empty": ("error", "the file has no samples", "use --fix"),
    "audio-not-finite": ("error", "samples are not finite numbers", "write the file again, or use --fix"),
    "rate": ("error", "another sample rate than the model's", "set audio.resample=true, or resample the corpus"),
    "channels": (
        "error", "several channels, of which the row takes none, or one that is not there",
        "prepare again with --mix or --channel N, or set 'channel' in the manifest",
    ),
    "duration": (
        "error", "the manifest and the file disagree on where the utterance ends",
        "measure duration_s (and offset_s) again; the table and the audio may not belong together",
    ),
    "characters": (
        "error", "characters outside the vocabulary",
        "normalise all texts the same way (text.normalization), or correct them",
    ),
    "too-short-for-text": (
        "error", "the labels need more steps than the model makes of the audio",
        "most likely a wrong pair; else lower the time strides in model (conv, tdnn, mlp)",
    ),
    "wrong-pairs": (
        "error", "texts that belong to other audio", "a row too many or too few in a table of texts: pair them again",
    ),
    "overlap-audio": ("error", "audio of another set is in the training set", "take it out of training, or use --fix"),
    "overlap-speaker": ("warning", "a speaker is in two sets", "split by speaker, or say so beside the result"),
    "overlap-text": (
        "warning", "a text of five words or more is in two sets",
        "the error rate will be too good for new sentences: split by text, or say so beside the result",
    ),
    "duplicate-audio": ("warning", "the same audio again", "keep one row; with two texts at most one is right"),
    "text-empty": ("warning", "no text", "training leaves it out; in a test set all output counts as errors"),
    "text-unicode": (
        "warning", "control characters, U+FFFD, UTF-8 read as something else, or letters in pieces (not NFC)",
        "decode the texts in their own encoding; text.normalization upper or lower composes letters",
    ),
    "text-lookalike": (
        "warning", "characters that look like others, say of another alphabet inside a word",
        "write the letter that is meant: each is a token of its own",
    ),
    "text-invisible": (
        "warning", "characters that nobody sees: zero-width spaces, byte-order marks, no-break spaces",
        "every text.normalization takes them out; write a space where words meet",
    ),
    "text-markup": (
        "warning", "what is written and not spoken: entities, escapes, markers of noise",
        "decode entities and escapes; take markers out, or leave such rows out of training",
    ),
    "digits-in-text": ("warning", "digits", "write numbers as they are spoken"),
    "character-rare": ("note", "a character of three rows or fewer", "a slip? each is a token of the model"),
    "rate-of-speech": (
        "warning", "far more or fewer characters a second than the rest",
        "listen to the first ones: a wrong text, a part of one, or much silence",
    ),
    "speed": (
        "warning", "audio that seems to play at another speed", "listen to it: most likely a wrong sample rate",
    ),
    "too-long": ("warning", "longer than batch.max_utterance_s", "training leaves it out: cut it, or raise the limit"),
    "silence": ("warning", "next to nothing to hear", "listen to it; cut the silence, or leave it out"),
    "clipping": ("warning", "clipped", "record or convert with less gain; a few are harmless"),
    "dc-offset": ("warning", "the wave does not swing around zero", "remove the offset, say with a high-pass filter"),
    "narrow-band": (
        "note", "nothing above 4 kHz: recorded or sent at 8 kHz, and brought to a higher rate",
        "train and use a model at 8 kHz, or keep it apart from speech of the full band",
    ),
    "manifest-twice": ("note", "the same manifest was given twice", "it was looked at once"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest: which manifest (its place among those given), line, content, its text as a model sees it."""

    manifest: int
    line: int
    utterance: Utterance
    text: str


@dataclass
class Loaded:
    """A manifest as far as it can be read, and what it is for, by its name."""

    path: Path
    role: str
    rows: list[Row] = field(default_factory=list)
    #: lines that are not blank, refused ones included
    num_lines: int = 0
    #: line -> id, of rows whose id an earlier row has
    duplicates: dict[int, str] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        return self.role == "train"


@dataclass(frozen=True)
class Example:
    """One row with a finding: where, which, and what was measured."""

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
    examples: list[Example] = field(default_factory=list)
    #: facts about all of them together
    details: list[str] = field(default_factory=list)

    @property
    def what(self) -> str:
        return KINDS[self.code][1]

    @property
    def todo(self) -> str:
        return KINDS[self.code][2]

    def to_json(self) -> dict[str, Any]:
        keys = ("code", "severity", "count", "what", "todo", "details")
        found = {key: getattr(self, key) for key in keys}
        return found | {"audio_s": round(self.audio_s, 3), "examples": [vars(e) for e in self.examples]}


class Findings:
    """Collects findings: counts all of them, keeps the first few of each as examples."""

    def __init__(self, manifests: list[Loaded], num_examples: int) -> None:
        self._manifests, self._num_examples = manifests, num_examples
        self._found: dict[tuple[str, Severity], Finding] = {}
        #: (manifest, line) of a row with an error -> the code and value of its first one
        self.bad: dict[tuple[int, int], tuple[str, str]] = {}

    def add(self, code: str, row: Row, value: str, severity: Severity | None = None) -> None:
        """Counts a row."""
        self._count(code, severity, row.manifest, row.line, row.utterance.id, value, row.utterance.duration_s, 1)

    def add_group(self, code: str, rows: Sequence[Row], value: str, severity: Severity | None = None) -> None:
        """Counts rows that have the same trouble; the first is the example."""
        audio_s = sum(row.utterance.duration_s for row in rows)
        self._count(code, severity, rows[0].manifest, rows[0].line, rows[0].utterance.id, value, audio_s, len(rows))

    def add_line(self, code: str, manifest: int, line: int | None, value: str, id_: str | None = None) -> None:
        """Counts a line that is no utterance, or a whole manifest."""
        self._count(code, None, manifest, line, id_, value, 0.0, 1)

    def _count(
        self, code: str, severity: Severity | None, manifest: int, line: int | None, id_: str | None, value: str,
        audio_s: float, count: int,
    ) -> None:  # fmt: skip
        finding = self.of(code, severity)
        finding.count += count
        finding.audio_s += audio_s
        if len(finding.examples) < self._num_examples:
            finding.examples.append(Example(str(self._manifests[manifest].path), line, id_, value))
        if finding.severity == "error" and line is not None:
            self.bad.setdefault((manifest, line), (code, value))

    def of(self, code: str, severity: Severity | None = None) -> Finding:
        """The finding of a code, made when it is the first."""
        severity = severity or KINDS[code][0]
        return self._found.setdefault((code, severity), Finding(code, severity))

    def has_error(self, row: Row) -> bool:
        return (row.manifest, row.line) in self.bad

    def sorted(self) -> list[Finding]:
        """By severity, then in the order of ``KINDS``."""
        order = list(KINDS)
        return sorted(self._found.values(), key=lambda f: (SEVERITIES.index(f.severity), order.index(f.code)))
