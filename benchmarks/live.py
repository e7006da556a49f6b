"""Many live streams on a server at once: how late its answers come, how much of a core it needs, and their texts.

    python -m benchmarks.live MODEL AUDIO... --streams 75 150 --seconds 30 --chunk-ms 160 --core 0

The server is started on 127.0.0.1 with the options behind ``--``. Each stream plays the recordings one after the other
from a place of its own, in real time, over Vosk's protocol, which answers every message. So the time from sending a
chunk until its answer is the delay that the server adds to the chunk's own length. A server that cannot keep up answers
later and later. At the end the texts are compared with those of the library's stream of the same samples.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import ClientConnection, connect

from asr.streaming.pool import open_pool
from asr.transcribe import Recognizer
from benchmarks.serve import Server, percentile, quarters, started

RATE_HZ = 16000
SHARES = (0.5, 0.9, 0.99, 1.0)
Pcm = npt.NDArray[np.int16]


@dataclass
class Stream:
    """What one stream sent and got."""

    pcm_n: Pcm
    delays_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def played(waves: Sequence[Pcm], seconds: float, first: int) -> Pcm:
    """So many seconds of the recordings, from the given one on."""
    parts: list[Pcm] = []
    while sum(map(len, parts)) < seconds * RATE_HZ:
        parts.append(waves[(first + len(parts)) % len(waves)])
    return np.concatenate(parts)[: round(seconds * RATE_HZ)]


async def talk(netloc: str, stream: Stream, chunk_s: float, begins_s: float) -> None:
    """Send a stream in real time, and take the answers."""
    size = round(chunk_s * RATE_HZ)
    chunks = [stream.pcm_n[i : i + size].tobytes() for i in range(0, len(stream.pcm_n), size)]
    sent_s: list[float] = []

    async def listen(socket: ClientConnection) -> None:
        for number in range(len(chunks) + 1):
            answer = json.loads(await socket.recv())
            if number < len(chunks):
                stream.delays_s.append(time.monotonic() - sent_s[number])
            if answer.get("text"):
                stream.texts.append(answer["text"])

    async with connect(f"ws://{netloc}/vosk", compression=None) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": RATE_HZ, "words": False}}))
        listener = asyncio.create_task(listen(socket))
        for number, chunk in enumerate(chunks):
            await asyncio.sleep(max(0.0, begins_s + (number + 1) * chunk_s - time.monotonic()))
            sent_s.append(time.monotonic())
            await socket.send(chunk)
        await socket.send('{"eof" : 1}')
        await listener


async def run(server: Server, streams: Sequence[Stream], chunk_s: float) -> list[float]:
    """Run all streams, each with a phase of its own; the server's memory meanwhile, MB."""
    rng = random.Random(0)
    begins_s = time.monotonic() + 1.0
    tasks = [asyncio.create_task(talk(server.netloc, s, chunk_s, begins_s + rng.random() * chunk_s)) for s in streams]
    memory_mb = []
    while not all(task.done() for task in tasks):
        memory_mb.append(server.resident_mb)
        await asyncio.sleep(0.25)
    for task in tasks:
        task.result()
    return memory_mb


def cpu_s(process_id: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def known_text(recognizer: Recognizer, pcm_n: Pcm) -> str:
    """The text of the library's own stream."""
    pool = open_pool(recognizer)
    stream = pool.open(RATE_HZ)
    stream.push(pcm_n)
    stream.finish()
    return " ".join(r.text for _, results in pool.tick() for r in results if r.final and r.text)


def measure(
    recognizer: Recognizer, server: Server, waves: Sequence[Pcm], count: int, seconds: float, chunk_s: float
) -> dict[str, Any]:
    """Run so many streams, and say how it went."""
    streams = [Stream(played(waves, seconds, number * len(waves) // count)) for number in range(count)]
    used_s = cpu_s(server.process.pid)
    memory_mb = asyncio.run(run(server, streams, chunk_s))
    used_s = cpu_s(server.process.pid) - used_s
    wrong = sum(" ".join(stream.texts) != known_text(recognizer, stream.pcm_n) for stream in streams)
    delays_s = [delay_s for stream in streams for delay_s in stream.delays_s]
    first_s, last_s = quarters([max(column) for column in zip(*(stream.delays_s for stream in streams), strict=False)])
    return {
        "streams": count,
        "seconds of each": seconds,
        "chunk ms": round(1e3 * chunk_s),
        "added delay ms": {f"{share:.0%}": round(1e3 * percentile(delays_s, share), 1) for share in SHARES},
        "slowest stream's, first and last quarter ms": [round(1e3 * first_s, 1), round(1e3 * last_s, 1)],
        "cores of the server": round(used_s / seconds, 3),
        "memory MB, first and last quarter": list(quarters(memory_mb)),
        "other texts": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("audio", nargs="+", type=Path)
    parser.add_argument("--streams", type=int, nargs="+", default=[75, 150])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--chunk-ms", type=float, default=160.0)
    parser.add_argument("--core", type=int, help="run the server on this core alone")
    words = sys.argv[1:]
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    args = parser.parse_args(own)

    recognizer = Recognizer.load(args.model)
    waves = [np.round(recognizer.load_wave(path) * 32767).astype(np.int16) for path in args.audio]
    most = str(max(args.streams) + 8)
    with started(args.model, ["--max-streams", most, "--max-clients", most, *options]) as server:
        if args.core is not None:
            for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {args.core})
        for count in args.streams:
            facts = measure(recognizer, server, waves, count, args.seconds, args.chunk_ms / 1e3)
            print(json.dumps(facts, indent=2), flush=True)


if __name__ == "__main__":
    main()
