"""Count what the server does, and write it in Prometheus's text format.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

#: upper ends of the histogram of a request's seconds
_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: methods that are counted apart; all others are one
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "WEBSOCKET"})
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Hold the counters; all belong to the server's one thread."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """
        Args:
            paths: addresses that are counted apart; all others are one, so that a scan makes no labels.
        """
        self._paths = frozenset(paths)
        self._began_s = time.time()
        self._requests: Counter[_Labels] = Counter()
        self._bytes = 0
        self._audio_s: defaultdict[str, float] = defaultdict(float)
        self._seconds: dict[str, list[int]] = {}
        self._sum_s: defaultdict[str, float] = defaultdict(float)
        #: what is measured when it is asked for: name -> (help, label's name, values by label)
        self.gauges: dict[str, tuple[str, str, Callable[[], Mapping[str, float]]]] = {}

    def count_request(self, method: str, path: str, status: int, num_bytes: int, seconds: float) -> None:
        """Count a request that has ended."""
        path = path if path in self._paths else "other"
        method = method if method in _METHODS else "other"
        self._requests[(("method", method), ("path", path), ("status", str(status)))] += 1
        self._bytes += num_bytes
        counts = self._seconds.setdefault(path, [0] * (len(_BUCKETS_S) + 1))
        counts[bisect_left(_BUCKETS_S, seconds)] += 1
        self._sum_s[path] += seconds

    def count_audio(self, model: str, seconds: float) -> None:
        """Count the audio that a model has transcribed."""
        self._audio_s[model] += seconds

    def text(self) -> str:
        """Return all in Prometheus's text format."""
        lines: list[str] = []

        def add(name: str, kind: str, help: str, rows: Iterable[tuple[str, _Labels, float]]) -> None:
            lines.append(f"# HELP {name} {help}")
            lines.append(f"# TYPE {name} {kind}")
            lines.extend(f"{name}{end}{_written(labels)} {value}" for end, labels, value in rows)

        requests = [("", labels, count) for labels, count in sorted(self._requests.items())]
        add("asr_requests_total", "counter", "Requests and sockets that have ended.", requests)
        add("asr_request_seconds", "histogram", "How long they took.", self._histogram())
        add("asr_request_bytes_total", "counter", "Bytes that were received.", [("", (), self._bytes)])
        audio = [("", (("model", name),), value) for name, value in sorted(self._audio_s.items())]
        add("asr_audio_seconds_total", "counter", "Audio that was transcribed.", audio)
        for name, (help, label, values) in self.gauges.items():
            rows = [("", ((label, key),) if label else (), value) for key, value in values().items()]
            add(name, "gauge", help, rows)
        add("process_start_time_seconds", "gauge", "When the server was started.", [("", (), self._began_s)])
        if memory := _resident_bytes():
            add("process_resident_memory_bytes", "gauge", "Memory of the process.", [("", (), memory)])
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterable[tuple[str, _Labels, float]]:
        for path, counts in sorted(self._seconds.items()):
            below = 0
            for end, count in zip([*map(str, _BUCKETS_S), "+Inf"], counts, strict=True):
                below += count
                yield "_bucket", (("path", path), ("le", end)), below
            yield "_sum", (("path", path),), self._sum_s[path]
            yield "_count", (("path", path),), below


def _written(labels: _Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
