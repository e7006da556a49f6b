"""Measure a network of the Hugging Face hub on a CPU: here in both precisions, and in ``transformers``, in one run.

    python -m benchmarks.hf FOLDER --threads 2                # noise of 10 s
    python -m benchmarks.hf FOLDER --threads 2 --wavs FOLDER  # recordings, at the model's rate

``transformers`` must be installed. FOLDER may have random weights: the time does not depend on them. Seconds are of the
fastest of the rounds, in which the three take turns; processor seconds are those of all threads. The last columns tell
how far log-probabilities are from float32 here, and at how many steps the likeliest token is the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.data.audio import load, resampled
from asr.infer import pipeline
from asr.model.contract import AcousticModel
from asr.model.hf.load import describe, load_network
from asr.model.prepared import prepared


def main() -> None:
    """Print one line for each of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wavs", type=Path)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    known = describe(f"hf:{args.folder}")
    model = AcousticModel(
        load_network(known), known.extractor, known.tokenizer, known.audio, known.text, known.training
    )
    rate_hz = known.audio.sample_rate_hz
    waves = _waves(args.wavs, args.files, rate_hz)
    audio_s = sum(map(len, waves)) / rate_hz
    features = [model.extractor(one) for one in waves]

    ways: dict[str, Callable[[], list[Any]]] = {"transformers": _transformers(args.folder, waves)}
    for precision in ("fp32", "bf16"):
        ready = prepared(model, precision)
        ways[precision] = lambda ready=ready: [
            out for _, out in pipeline(ready, enumerate(features), lambda log_probs_sv: log_probs_sv)
        ]
    best, answers = _race(ways, args.rounds)
    print(f"{len(waves)} recordings, {audio_s:.0f} s, {args.threads} threads, {model.num_parameters:,} parameters")
    for name, (wall_s, cpu_s) in best.items():
        line = (
            f"{name:>12}: {wall_s:6.2f} s, {cpu_s:6.2f} processor seconds, {best['transformers'][0] / wall_s:.2f} times"
        )
        if name == "bf16":
            line += "; " + _distance(answers["fp32"], answers["bf16"])
        print(line)


def _waves(folder: Path | None, files: int, rate_hz: int) -> list[np.ndarray]:
    if folder is None:
        rng = np.random.default_rng(0)
        return [0.1 * rng.standard_normal(10 * rate_hz, np.float32) for _ in range(files)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))[:files]
    return [resampled(*load(path), rate_hz) for path in paths]


def _transformers(folder: str, waves: list[np.ndarray]) -> Callable[[], list[Any]]:
    """Return what computes the logits of one recording after the other, as its documentation shows."""
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    network = AutoModelForCTC.from_pretrained(folder).eval()
    rate_hz = extractor.sampling_rate

    def run() -> list[Any]:
        with torch.inference_mode():
            inputs = [extractor(one, sampling_rate=rate_hz, return_tensors="pt").input_values for one in waves]
            return [network(one).logits for one in inputs]

    return run


def _race(
    ways: dict[str, Callable[[], list[Any]]], rounds: int
) -> tuple[dict[str, tuple[float, float]], dict[str, list[Any]]]:
    """Return the fastest time of each way, as (seconds, processor seconds), and its answers."""
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    answers: dict[str, list[Any]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            answers[name] = way()
            took = time.perf_counter() - start, time.process_time() - start_cpu
            best[name] = tuple(map(min, best[name], took))  # type: ignore[assignment]
    return best, answers


def _distance(exact: list[np.ndarray], other: list[np.ndarray]) -> str:
    exact_sv, other_sv = np.concatenate(exact), np.concatenate(other)
    far = np.abs(exact_sv - other_sv)
    same = (exact_sv.argmax(1) == other_sv.argmax(1)).mean()
    return (
        f"log-probabilities differ by {far.mean():.4f} (at most {far.max():.3f}), {same:.1%} of likeliest tokens same"
    )


if __name__ == "__main__":
    main()
