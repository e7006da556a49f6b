"""One long recording against the same speech cut by hand: word error rate, memory and time.

    python -m benchmarks.long_audio MODEL MANIFEST [--hours 1] [--pause 0.3 1.2] [--no-align] [--live] [-- OPTIONS]

Utterances of the manifest are joined, again and again until there is enough, with pauses of the given lengths between
them, filled with noise like that in the quietest tenth of the utterance before (``--pause 0 0``: nothing between them).
The recording, and each utterance as a file of its own, are transcribed by ``asr transcribe`` with the OPTIONS, in two
processes whose peak memory and time are measured. The recording is also aligned to its text by ``asr align``; the
words' times are compared with those of the utterances aligned one by one.

With ``--live``, for models that stream, the recording is a live stream instead: ``Recognizer.stream``, in chunks of
160 ms, with the default rules and greedy decoding.

Words of the long transcript are given to utterances by their time: paired differences are over utterances.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asr.data import audio
from asr.data import manifest as manifests
from asr.data.text import normalize
from asr.model.folder import find_model, read_model_config
from asr.scoring.compare import format_comparison
from asr.scoring.files import compare_files
from asr.scoring.wer import format_score, score, word_counts
from asr.transcribe import Recognizer

#: what a live stream is fed at once
CHUNK_S = 0.16


@dataclass(frozen=True)
class Spoken:
    """Hold an utterance in the long recording."""

    id: str
    text: str
    speaker: str | None
    start_s: float
    end_s: float


def main() -> None:
    own, options = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, options = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_audio", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.3, 1.2), metavar=("LOW", "HIGH"), help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-align", action="store_true")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep recording, texts and transcripts here")
    args = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as temporary:
        run(args, options, args.keep or Path(temporary))


def run(args: argparse.Namespace, options: Sequence[str], folder: Path) -> None:
    config = read_model_config(find_model(args.model))
    rate = config.audio.sample_rate_hz
    spoken = write_recording(args, folder, rate, config.text.normalization)
    hours = spoken[-1].end_s / 3600
    words = sum(len(s.text.split()) for s in spoken)
    print(f"{len(spoken):,} utterances, {words:,} words, {hours:.3f} h, seed {args.seed}")
    cli = [sys.executable, "-m", "asr"]
    ways = {}
    sources = {"joined": folder / "long.flac", "by hand": folder / "pieces"}
    if args.live:
        del sources["joined"]
        listen(args.model, folder)
    for way, source in sources.items():
        command = [*cli, "transcribe", str(args.model), str(source), "-f", "json", "-o", str(folder / way), *options]
        used = measured(command)
        ways[way] = used
        print(
            f"{way}: {used['seconds']:.1f} s, RTF {used['seconds'] / (hours * 3600):.4f}, peak {used['mib']:,.0f} MiB"
        )
    document = json.loads((folder / "joined" / "long.json").read_text())
    if not args.live:
        kinds = [seam["kind"] for seam in document["seams"]]
        print(f"seams: {kinds.count('pause')} in pauses, {kinds.count('overlap')} without")
    reference = " ".join(s.text for s in spoken)
    whole = word_counts([(reference, document["text"])])[0]
    print(f"WER of the recording as one text: {whole.errors / whole.reference_length:.4%}")
    joined = by_time(spoken, document)
    by_hand = {s.id: json.loads((folder / "by hand" / f"{s.id}.json").read_text())["text"] for s in spoken}
    rows = {"joined": joined, "by hand": by_hand}
    for name, texts in rows.items():
        lines = (
            {"id": s.id, "reference": s.text, "hypothesis": texts[s.id].strip(), "speaker": s.speaker} for s in spoken
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = score([(s.id, s.text, texts[s.id].strip()) for s in spoken])
        print(f"{name}, utterance by utterance:\n{format_score(result)}")
    compared, _ = compare_files(None, folder / "joined.jsonl", folder / "by hand.jsonl")
    print(format_comparison(compared, 5))
    if not (args.no_align or args.live):
        align(args, cli, folder, spoken)


def listen(model: Path, folder: Path) -> None:
    """Recognise ``long.flac`` as a live stream; write its words as ``asr transcribe -f json`` does."""
    stream = Recognizer.load(model).stream(soundfile.info(folder / "long.flac").samplerate)
    passages = []
    began = time.perf_counter()
    with soundfile.SoundFile(folder / "long.flac") as file:
        for samples in file.blocks(round(CHUNK_S * file.samplerate), dtype="float32"):
            passages += [result for result in stream.feed(samples) if result.final]
        length_s = file.frames / file.samplerate
    passages += [result for result in stream.finish() if result.final]
    seconds = time.perf_counter() - began
    print(f"live: {seconds:.1f} s, RTF {seconds / length_s:.4f}, {len(passages):,} passages")
    segments = [
        {"words": [{"word": word.word, "start": word.start_s, "end": word.end_s} for word in passage.words]}
        for passage in passages
    ]
    text = " ".join(passage.text for passage in passages if passage.text)
    (folder / "joined").mkdir()
    (folder / "joined" / "long.json").write_text(json.dumps({"text": text, "segments": segments}))


def write_recording(args: argparse.Namespace, folder: Path, rate: int, profile: str) -> list[Spoken]:
    """Write ``long.flac``, ``long.txt`` and ``pieces/``; return the utterances and their times."""
    (folder / "pieces").mkdir(parents=True, exist_ok=True)
    rows = manifests.read(args.manifest)
    random = np.random.default_rng(args.seed)
    spoken: list[Spoken] = []
    at_n = 0
    with soundfile.SoundFile(folder / "long.flac", "w", rate, 1, "PCM_16") as file:
        while at_n < args.hours * 3600 * rate:
            for i in random.permutation(len(rows.utterances)).tolist():
                row = rows.utterances[i]
                offset = {"offset_s": row.offset_s, "duration_s": row.duration_s} if row.offset_s else {}
                wave_n, from_hz = audio.load(rows.audio_path(row), **offset)
                wave_n = audio.resampled(wave_n, from_hz, rate)
                id_ = f"{len(spoken):05d}"
                soundfile.write(folder / "pieces" / f"{id_}.flac", wave_n, rate, subtype="PCM_16")
                file.write(wave_n)
                text = normalize(row.text, profile)
                spoken.append(Spoken(id_, text, row.speaker, at_n / rate, (at_n + len(wave_n)) / rate))
                pause_n = room(wave_n, round(random.uniform(*args.pause) * rate), rate, random)
                file.write(pause_n)
                at_n += len(wave_n) + len(pause_n)
                if at_n >= args.hours * 3600 * rate:
                    break
    (folder / "long.txt").write_text("\n".join(s.text for s in spoken) + "\n")
    lines = (
        {"id": s.id, "audio_path": f"pieces/{s.id}.flac", "duration_s": round(s.end_s - s.start_s, 4), "text": s.text}
        for s in spoken
    )
    (folder / "pieces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return spoken


def room(wave_n: audio.Wave, size: int, rate: int, random: np.random.Generator) -> audio.Wave:
    """Make noise with the mean spectrum of the quietest tenth of the wave's frames. Shapes: (n,) -> (size,)."""
    frame = max(2, rate // 40)
    frames = wave_n[: len(wave_n) // frame * frame].reshape(-1, frame)
    if not len(frames) or not size:
        return np.zeros(size, np.float32)
    quiet = frames[np.argsort(np.square(frames).mean(1))[: max(1, len(frames) // 10)]]
    window = np.hanning(frame)
    power = (np.abs(np.fft.rfft(quiet * window)) ** 2).mean(0) / np.square(window).sum()
    spectrum = np.fft.rfft(random.standard_normal(size))
    gain = np.sqrt(np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(power)), power))
    noise_n: audio.Wave = np.fft.irfft(spectrum * gain, size).astype(np.float32)
    return noise_n


def measured(command: Sequence[str]) -> dict[str, float]:
    """Measure wall-clock seconds and peak resident MiB of a command; its output goes to stderr."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.perf_counter() - began, "mib": usage.ru_maxrss / 1024}


def by_time(spoken: Sequence[Spoken], document: dict[str, Any]) -> dict[str, str]:
    """Assign each word of the long transcript to the utterance that its middle lies in, or is nearest to."""
    words: dict[str, list[str]] = {s.id: [] for s in spoken}
    at = 0
    for word in (word for segment in document["segments"] for word in segment["words"]):
        middle_s = (word["start"] + word["end"]) / 2
        while at + 1 < len(spoken) and middle_s > (spoken[at].end_s + spoken[at + 1].start_s) / 2:
            at += 1
        words[spoken[at].id].append(word["word"].strip())
    return {id_: " ".join(one) for id_, one in words.items()}


def align(args: argparse.Namespace, cli: Sequence[str], folder: Path, spoken: Sequence[Spoken]) -> None:
    """Align the recording, and each utterance; print how far the starts of words are apart."""
    long = [*cli, "align", str(args.model), str(folder / "long.flac"), "--text", str(folder / "long.txt")]
    used = measured([*long, "-f", "json", "-o", str(folder / "aligned")])
    print(f"aligned: {used['seconds']:.1f} s, peak {used['mib']:,.0f} MiB")
    measured([*cli, "align", str(args.model), str(folder / "pieces.jsonl"), "-f", "json", "-o", str(folder / "each")])
    document = json.loads((folder / "aligned" / "long.json").read_text())
    found_s = [word["start"] for segment in document["segments"] for word in segment["words"]]
    expected_s = []
    for one in spoken:
        segments = json.loads((folder / "each" / f"{one.id}.json").read_text())["segments"]
        expected_s += [one.start_s + word["start"] for segment in segments for word in segment["words"]]
    apart_s = sorted(abs(a - b) for a, b in zip(found_s, expected_s, strict=True))
    shares = ", ".join(f"{np.mean(np.array(apart_s) <= limit):.2%} within {limit:g} s" for limit in (0.05, 0.1, 0.5))
    print(f"{len(apart_s):,} words: starts {statistics.median(apart_s):.3f} s apart in the middle, {shares}")


if __name__ == "__main__":
    main()
