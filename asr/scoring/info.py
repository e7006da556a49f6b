"""What is known of an utterance beside its text: speaker, duration, free fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UtteranceInfo:
    """Hold the speaker, the duration and the ``meta`` fields of an utterance; empty or None: not known."""

    speaker: str = ""
    duration_s: float | None = None
    meta: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the speaker and the fields of ``meta`` by dotted names, such as ``meta.room.size``."""
        found = dict(_flat(self.meta or {}, "meta."))
        return {"speaker": self.speaker, **found} if self.speaker else found

    def to_json(self) -> dict[str, Any]:
        """Return what is known, under the names of a manifest."""
        row = {"speaker": self.speaker, "duration_s": self.duration_s, "meta": self.meta}
        return {name: value for name, value in row.items() if value or value == 0}


NO_INFO = UtteranceInfo()


def merge_info(*sources: Mapping[str, UtteranceInfo]) -> dict[str, UtteranceInfo]:
    """Merge what several files know of each utterance, field by field; the first file that knows a field wins."""
    merged: dict[str, UtteranceInfo] = {}

    for source in sources:
        for id_, info in source.items():
            # Sources come in the order of their rank: what an earlier one knows stays.
            first = merged.get(id_, NO_INFO)
            merged[id_] = UtteranceInfo(
                speaker=first.speaker or info.speaker,
                duration_s=info.duration_s if first.duration_s is None else first.duration_s,
                meta={**(info.meta or {}), **(first.meta or {})} or None,
            )
    return merged


def _flat(meta: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in meta.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
