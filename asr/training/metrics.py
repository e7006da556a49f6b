"""``metrics.jsonl`` of a training: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError, os_reason
from asr.files import open_atomic, open_regular


class MetricsFile:
    """Add rows, and remove those that a resumed training will write again.

    Args:
        then: what to do after space is freed on a full disk.
    """

    def __init__(self, path: Path, then: str) -> None:
        self.path = path
        self.then = then

    def add(self, **values: Any) -> None:
        """Append one row.

        Raises:
            CheckpointError: it cannot be written; the checkpoints are kept.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write: {os_reason(error)}; free space, then {self.then}", self.path
            ) from error

    def keep(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Remove the rows that are not to be kept, and all from a damaged line on."""
        if not self.path.exists():
            return

        kept = []
        with open_regular(self.path) as rows:
            for raw in rows:
                try:
                    line = raw.decode("utf-8").rstrip("\r\n")
                    if is_kept(json.loads(line)):
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    break  # a line cut short by a kill; those after it are later still

        with open_atomic(self.path) as file:
            file.writelines(line + "\n" for line in kept)
