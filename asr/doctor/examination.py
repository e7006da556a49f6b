"""What the doctor looks at, and what it finds: as a table for people, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config import AudioConfig
from asr.data.tokenizer import Tokenizer
from asr.doctor.findings import (
    KINDS,
    SEVERITIES,
    Finding,
    FindingExample,
    LoadedManifest,
    ManifestRow,
    Severity,
)
from asr.doctor.sound import AudioHeader


@dataclass(frozen=True)
class Expected:
    """Hold what a model expects of the data; ``asr.doctor.expected`` makes it from a model folder or a config.

    ``num_steps``: samples to output steps; ``min_steps``: labels to the steps they need. Without a ``tokenizer`` the
    vocabulary is that of the training manifests. ``longest_s``: longer utterances are left out of training.
    """

    audio: AudioConfig
    normalization: str
    tokenizer: Tokenizer | None
    num_steps: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
    min_steps: Callable[[Sequence[int]], int]
    longest_s: float | None = None


class Examination:
    """Manifests and the headers of their audio; the checks add what they find, and every row is counted."""

    def __init__(self, expected: Expected | None = None, num_examples: int = 3) -> None:
        self.expected = expected
        #: how training reads audio, if that is known
        self.audio = expected.audio if expected is not None else None
        self.manifests: list[LoadedManifest] = []
        #: headers of the files that were read, by path
        self.headers: dict[str, AudioHeader] = {}
        self.deep = False
        #: what could not be looked at, and how it can be
        self.skipped: list[str] = []
        self._num_examples = num_examples
        self._found: dict[tuple[str, Severity], Finding] = {}

    @property
    def rows(self) -> Iterator[ManifestRow]:
        """The rows of all manifests."""
        return (row for manifest in self.manifests for row in manifest.rows)

    @property
    def files(self) -> list[str]:
        """The paths of all audio files, each once."""
        return list(dict.fromkeys(row.audio_path for row in self.rows))

    def add(self, code: str, row: ManifestRow, value: str, severity: Severity | None = None) -> None:
        """Count a row with a finding."""
        self.add_group(code, [row], value, severity)

    def add_group(self, code: str, rows: Sequence[ManifestRow], value: str, severity: Severity | None = None) -> None:
        """Count rows that have the same trouble; the first is the example."""
        first = rows[0]
        finding = self.finding(code, severity)
        finding.audio_s += sum(row.utterance.duration_s for row in rows)
        self._count(finding, first.manifest, first.line, first.utterance.id, value, len(rows))

    def add_line(self, code: str, manifest: LoadedManifest, line: int | None, value: str) -> None:
        """Count a line that is no utterance, or (without a line) a whole manifest."""
        self._count(self.finding(code), manifest, line, None, value, 1)

    def _count(
        self, finding: Finding, manifest: LoadedManifest, line: int | None, id_: str | None, value: str, count: int
    ) -> None:
        finding.count += count
        if len(finding.examples) < self._num_examples:
            finding.examples.append(FindingExample(str(manifest.path), line, id_, value))
        if finding.severity == "error" and line is not None:
            manifest.errors.setdefault(line, (finding.code, value))

    def finding(self, code: str, severity: Severity | None = None) -> Finding:
        """Return the finding of a code; make it if there is none."""
        severity = severity or KINDS[code].severity
        return self._found.setdefault((code, severity), Finding(code, severity))

    @property
    def findings(self) -> list[Finding]:
        """All findings, by severity, then in the order of ``KINDS``."""
        order = list(KINDS)
        return sorted(self._found.values(), key=lambda f: (SEVERITIES.index(f.severity), order.index(f.code)))

    @property
    def errors(self) -> int:
        """Number of rows, lines and manifests with an error; one with two kinds counts twice."""
        return self.num_rows("error")

    def num_rows(self, severity: str) -> int:
        """Return how many rows have findings of a severity."""
        return sum(finding.count for finding in self.findings if finding.severity == severity)

    def lines(self) -> Iterator[str]:
        """Yield lines for people: the manifests, a table of the findings, then each with its first examples."""
        for manifest in self.manifests:
            size = f"{len(manifest.rows):,} utterances, {_duration(manifest.audio_s)}"
            yield f"{manifest.path}: {size}, {len(manifest.speakers):,} speakers"
        yield ""

        findings = self.findings
        if findings:
            yield f"{'severity':8}  {'finding':18}  {'rows':>9}  {'audio':>9}  what"
            for finding in findings:
                audio = _duration(finding.audio_s) if finding.audio_s else "-"
                columns = f"{finding.severity:8}  {finding.code:18}  {finding.count:>9,}  {audio:>9}"
                yield f"{columns}  {KINDS[finding.code].what}"
            yield ""

        for finding in findings:
            yield f"{finding.severity} {finding.code}: {KINDS[finding.code].todo}"
            yield from (f"  {detail}" for detail in finding.details)
            yield from (f"  {example}" for example in finding.examples)
            # Examples of groups (speakers) stand for several rows.
            if len(finding.examples) < finding.count and finding.code != "overlap-speaker":
                yield f"  … and {finding.count - len(finding.examples):,} more"
        yield from (f"not looked at: {what}" for what in self.skipped)
        yield self.verdict()

    def verdict(self) -> str:
        """Return the last line: how much was found in how much data."""
        counts = {severity: self.num_rows(severity) for severity in SEVERITIES}
        found = ", ".join(f"{n:,} {severity}{'s' if n != 1 else ''}" for severity, n in counts.items() if n)
        num_lines = sum(manifest.num_lines for manifest in self.manifests)
        how = "decoded" if self.deep else "by their headers"
        return f"{found or 'nothing wrong'} in {num_lines:,} rows and {len(self.files):,} files ({how})"

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``asr doctor --json``."""
        return {
            "manifests": [
                {
                    "path": str(manifest.path),
                    "set": manifest.role,
                    "rows": manifest.num_lines,
                    "utterances": len(manifest.rows),
                    "audio_s": round(manifest.audio_s, 3),
                    "speakers": len(manifest.speakers),
                }
                for manifest in self.manifests
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "not_looked_at": self.skipped,
            "files": len(self.files),
            "deep": self.deep,
            "errors": self.num_rows("error"),
            "warnings": self.num_rows("warning"),
        }

    def reasons(self) -> dict[str, int]:
        """Return how many rows each code of error takes out, each row by its first error."""
        codes = (code for manifest in self.manifests for code, _ in manifest.errors.values())
        return dict(Counter(codes).most_common())


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"
