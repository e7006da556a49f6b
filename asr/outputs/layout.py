"""Lay out a transcript for reading: the choices that formats for people leave open."""

from __future__ import annotations

from dataclasses import dataclass

from asr.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Say what subtitles and plain text look like.

    ``word_times``: subtitles underline each word while it is said, and ``txt`` has one word per line with its times.
    ``max_line_width`` is in columns: a Latin letter is one, a Chinese character two.

    Source: Netflix Timed Text Style Guide, general requirements: 42 characters per line, two lines.

    Raises:
        ConfigError: a line or a count of lines below 1.
    """

    word_times: bool = False
    max_line_width: int = 42
    max_line_count: int = 2

    def __post_init__(self) -> None:
        if self.max_line_width < 1 or self.max_line_count < 1:
            got = f"{self.max_line_count} lines of {self.max_line_width} columns"
            raise ConfigError(f"subtitles need at least one line of one column, got {got}")
