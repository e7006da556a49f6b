"""Load on a server over HTTP: errors, latency, memory, and whether the texts are those of ``asr transcribe``.

    python -m benchmarks.serve MODEL AUDIO... --clients 8 --requests 2000

The server is started on 127.0.0.1 with the options behind ``--``. First each file is sent once, and its text compared
with that of the library. Then the clients send the files in turn, each over one connection that stays open; what is
refused with 429 is sent again after the seconds in ``retry-after``, and its time counts from the first try. The memory
of the server is read while requests come: the median of the last quarter is compared with that of the first.
At the end the server is asked to stop (SIGTERM) while every client still sends; what was under way must be answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from asr.transcribe import Failure, Recognizer

PATH = "/v1/audio/transcriptions"
BOUNDARY = "asr-benchmark-0123456789"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
#: how often the memory of the server is read
EVERY_S = 0.05


@dataclass
class Server:
    """A running server, and what its start took."""

    process: subprocess.Popen[str]
    netloc: str
    began_s: float
    log: list[str] = field(default_factory=list)

    @property
    def resident_mb(self) -> float:
        """Memory that it holds now; 0 where the system does not say, or once it has ended."""
        try:
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        except OSError:
            return 0.0
        return int(found[1]) / 1000 if found else 0.0


@contextmanager
def started(model: str, options: Sequence[str]) -> Iterator[Server]:
    """Start ``asr serve`` on a free port; its log is read so that it never waits for us."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "asr", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        while not (found := re.search(r"http://(\S+)", line)):
            line = process.stderr.readline()
            if not line:
                sys.exit(f"the server ended with {process.wait()}")
            if not found and "http://" not in line:
                print(line, end="", file=sys.stderr)
        server = Server(process, found[1], began_s)
        reader = threading.Thread(target=lambda: server.log.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield server
    finally:
        process.kill()
        process.wait()


def form(path: Path) -> bytes:
    """A request's body."""
    disposition = f'Content-Disposition: form-data; name="file"; filename="{path.name}"'
    return f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


class Client:
    """One connection that is opened again when it was closed."""

    def __init__(self, netloc: str) -> None:
        self._connection = http.client.HTTPConnection(netloc, timeout=600)

    def send(self, body: bytes) -> tuple[int, float, dict[str, Any]]:
        """The status, the seconds to wait if it is 429, and the answer."""
        self._connection.request("POST", PATH, body, HEADERS)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, float(answer.getheader("retry-after") or 0), content

    def close(self) -> None:
        self._connection.close()


def differing(server: Server, recognizer: Recognizer, paths: Sequence[Path]) -> list[str]:
    """Files whose texts over HTTP are not those of the library."""
    client = Client(server.netloc)
    wrong = []
    for path, known in zip(paths, recognizer.transcribe_all(paths), strict=True):
        status, _, answer = client.send(form(path))
        text = None if isinstance(known, Failure) else known.text
        if (answer.get("text") if status == 200 else None) != text:
            wrong.append(path.name)
    client.close()
    return wrong


@dataclass
class Load:
    """What clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0


def load(server: Server, bodies: Sequence[bytes], clients: int, requests: int) -> Load:
    """Send requests from several clients at once."""
    seen, numbers, over = Load(), count(), threading.Event()

    def run() -> None:
        client = Client(server.netloc)
        while (number := next(numbers)) < requests:
            began_s = time.monotonic()
            try:
                status, wait_s, _ = client.send(bodies[number % len(bodies)])
                while status == 429:
                    seen.statuses["429"] += 1
                    time.sleep(wait_s)
                    status, wait_s, _ = client.send(bodies[number % len(bodies)])
            except (OSError, http.client.HTTPException) as error:
                seen.statuses[type(error).__name__] += 1
                client.close()
                continue
            seen.statuses[str(status)] += 1
            seen.latencies_s.append(time.monotonic() - began_s)
        client.close()

    def watch() -> None:
        seen.memory_mb.append(server.resident_mb)
        while not over.wait(EVERY_S):
            seen.memory_mb.append(server.resident_mb)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    watcher = threading.Thread(target=watch)
    began_s = time.monotonic()
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds = time.monotonic() - began_s
    over.set()
    watcher.join()
    return seen


def stop_under_load(server: Server, bodies: Sequence[bytes], clients: int) -> dict[str, Any]:
    """Ask the server to stop while clients send: how many requests were answered, cut off, and refused."""
    seen: Counter[str] = Counter()
    begun = threading.Barrier(clients + 1)

    def run(number: int) -> None:
        client = Client(server.netloc)
        begun.wait()
        for turn in count(number):
            try:
                status, _, _ = client.send(bodies[turn % len(bodies)])
                seen[str(status)] += 1
            except ConnectionRefusedError:
                break
            except (OSError, http.client.HTTPException) as error:
                seen[type(error).__name__] += 1
                client.close()
                # A connection that was idle is closed. One that was closed in the middle of an answer is a fault.
                if isinstance(error, http.client.IncompleteRead):
                    break

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(60)
    for thread in threads:
        thread.join()
    logged = [json.loads(line)["status"] for line in server.log if line.startswith("{")]
    return {"exit": code, "clients saw": dict(seen), "server cut off": sum(status >= 499 for status in logged)}


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    size = max(1, len(values) // 4)
    return median(values[:size]), median(values[-size:])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(
    model: str, recognizer: Recognizer, paths: Sequence[Path], clients: int, requests: int, options: Sequence[str]
) -> dict[str, Any]:
    """Start a server of a model, and measure it; the recognizer is that of the same model and options."""
    bodies = [form(path) for path in paths]
    with started(model, options) as server:
        first = Client(server.netloc)
        status, _, _ = first.send(bodies[0])
        first.close()
        facts: dict[str, Any] = {
            "first answer s": round(time.monotonic() - server.began_s, 2),
            "first status": status,
            "memory after it MB": server.resident_mb,
            "files": len(paths),
            "other texts": differing(server, recognizer, paths),
        }
        seen = load(server, bodies, clients, requests)
        begin_mb, end_mb = quarters(seen.memory_mb)
        facts |= {
            "clients": clients,
            "statuses": dict(seen.statuses),
            "requests per s": round(len(seen.latencies_s) / seen.seconds, 1),
            "latency ms": {f"{share:.0%}": round(1e3 * percentile(seen.latencies_s, share), 1) for share in
                           (0.5, 0.9, 0.99, 1.0)},
            "memory MB, first and last quarter": [begin_mb, end_mb],
            "memory grows by %": round(100 * (end_mb / begin_mb - 1), 2),
        }  # fmt: skip
        facts["SIGTERM under load"] = stop_under_load(server, bodies, clients)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("audio", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    words = sys.argv[1:]
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    args = parser.parse_args(own)
    facts = measure(args.model, Recognizer.load(args.model), args.audio, args.clients, args.requests, options)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
