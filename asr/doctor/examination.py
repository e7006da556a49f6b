"""What the doctor says: as a table for people, as JSON, and as columns for a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asr.doctor.findings import Finding, Loaded
from asr.errors import AsrError


@dataclass(frozen=True)
class Report:
    """An examination's result."""

    manifests: list[Loaded]
    #: by severity
    findings: list[Finding]
    #: (manifest, line) of each row with an error -> code and value of its first one
    bad: dict[tuple[int, int], tuple[str, str]]
    #: what could not be looked at, and how it can be
    skipped: list[str]
    num_files: int
    deep: bool

    @property
    def errors(self) -> int:
        """How many rows, lines and manifests have an error (one with two counts once for each kind)."""
        return self._rows("error")

    def _rows(self, severity: str) -> int:
        return sum(f.count for f in self.findings if f.severity == severity)

    def lines(self) -> Iterator[str]:
        """For people: the manifests, a table of the findings, then each with its first examples."""
        for one in self.manifests:
            yield _shown(
                f"{one.path}: {len(one.rows):,} utterances, {_hours(sum(r.utterance.duration_s for r in one.rows))}, "
                f"{len({r.utterance.speaker for r in one.rows if r.utterance.speaker}):,} speakers"
            )
        yield ""
        if self.findings:
            yield f"{'severity':8}  {'finding':18}  {'rows':>9}  {'audio':>9}  what"
            for f in self.findings:
                audio = _hours(f.audio_s) if f.audio_s else "-"
                yield f"{f.severity:8}  {f.code:18}  {f.count:>9,}  {audio:>9}  {f.what}"
            yield ""
        for f in self.findings:
            yield f"{f.severity} {f.code}: {f.todo}"
            yield from (f"  {_shown(detail)}" for detail in f.details)
            yield from (f"  {example}" for example in f.examples)
            # Examples of groups (speakers) stand for several rows.
            if len(f.examples) < f.count and f.code != "overlap-speaker":
                yield f"  … and {f.count - len(f.examples):,} more"
        yield from (_shown(f"not looked at: {one}") for one in self.skipped)
        yield self.verdict()

    def verdict(self) -> str:
        counts = {s: self._rows(s) for s in ("error", "warning", "note")}
        found = ", ".join(f"{n:,} {s}{'s' if n != 1 else ''}" for s, n in counts.items() if n) or "nothing wrong"
        rows = sum(one.num_lines for one in self.manifests)
        how = "decoded" if self.deep else "by their headers"
        return f"{found} in {rows:,} rows and {self.num_files:,} files ({how})"

    def to_json(self) -> dict[str, Any]:
        return {
            "manifests": [
                {
                    "path": str(one.path),
                    "set": one.role,
                    "rows": one.num_lines,
                    "utterances": len(one.rows),
                    "audio_s": round(sum(r.utterance.duration_s for r in one.rows), 3),
                    "speakers": len({r.utterance.speaker for r in one.rows if r.utterance.speaker}),
                }
                for one in self.manifests
            ],
            "findings": [f.to_json() for f in self.findings],
            "not_looked_at": self.skipped,
            "files": self.num_files,
            "deep": self.deep,
            "errors": self._rows("error"),
            "warnings": self._rows("warning"),
        }

    def reasons(self) -> dict[str, int]:
        """How many rows each code of error takes out, each row by its first error."""
        return dict(Counter(code for code, _ in self.bad.values()).most_common())


def _hours(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"


def _shown(text: str) -> str:
    return str(AsrError(text))
