"""Speed and word error rate of the beam search beside other CTC decoders: same emissions, same ARPA, one run.

    pip install -r benchmarks/requirements-decode.txt
    pip install --no-deps pyctcdecode
    python -m benchmarks.decode --text BOOKS.txt.gz --markdown --json decode.json --picture decode.png

(pyctcdecode asks for numpy below 2 but runs on 2, hence --no-deps.) A decoder that is not installed is left out, and
a line says so. ``--text`` is language-model text, one sentence per line; the default is the text in the folder that
ASR_TEST_DATA names.

Utterances are cut into blocks. A round gives one block to every decoder and every setting in turn, so that a change in
the machine's speed affects all alike. "ours" is ``BeamDecoder.texts``, which takes a block in one call; all others
decode utterances one by one, as "ours, one by one with times" does. Each decoder sees one utterance untimed first; fast
ones repeat a block. Speeds are medians over rounds, ratios medians of the ratios of each round, in processor time of
one thread. Language model weights are tuned for each decoder alike, by a grid at moderate width, on other utterances;
the sweep uses them.
``--emissions synthetic`` has sharp posteriors, as trained models do; ``blurred`` is a model that is far less sure.
The 3-gram is estimated by ``asr.lm.ngram.train`` on the text without the decoded lines; all decoders read its ARPA.
Nothing else should run on the machine while threads and start-up are measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from asr.data.tokenizer import CharTokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy
from asr.decode.settings import BeamConfig
from asr.errors import AsrError, ConfigError
from asr.lm import ngram
from asr.scoring.wer import score
from benchmarks import report, startup
from benchmarks.decoders import PEERS, PEERS_WITHOUT_LM, WIDTHS, Bench, Peer, Settings
from benchmarks.emissions import BLURRED, Emissions, Noise, hold_out, load, read_text, save, synthetic
from benchmarks.points import Point

#: a block is decoded again until this much time is measured
LEAST_S = 0.04
MOST_REPEATS = 20
PEER_PACKAGES = ("kenlm", "pyctcdecode", "ctc-beam-decoder", "flashlight-text", "fast-ctc-decoder")
SYNTHETIC = {"synthetic": Noise(), "blurred": BLURRED}


@dataclass(frozen=True)
class Size:
    """State how much is measured."""

    utterances: int = 128
    tuning_utterances: int = 48
    #: a round's block then has 32 utterances, as many as ``BeamDecoder.texts`` takes at a time
    rounds: int = 4
    #: only every nth point of a sweep is measured
    every: int = 1

    @classmethod
    def quick(cls) -> Size:
        return cls(utterances=16, tuning_utterances=4, rounds=2, every=5)


def tune(bench: Bench, peer: Peer, emissions: Emissions) -> Settings:
    """Find the weights with the fewest errors at any of the settings for tuning; of equals, those tried first."""
    prepared = [peer.prepare(one_sv) for one_sv in emissions.log_probs]

    def errors(settings: Settings) -> float:
        decode = peer.make(bench, settings, peer.with_lm)
        texts = decode(prepared)
        return score((str(i), *pair) for i, pair in enumerate(zip(emissions.texts, texts, strict=True))).wer.rate or 0.0

    fewest, best = min((_tune_at(peer, search, errors) for search in peer.tuning), key=lambda each: each[0])
    say(f"tuned {peer.name}: {best} ({100 * fewest:.2f} % WER on the tuning utterances)")
    return best


def _tune_at(peer: Peer, search: Settings, errors: Callable[[Settings], float]) -> tuple[float, Settings]:
    """Find the fewest errors and their weights: the price of an unknown word, two others, the price again, others."""
    price, *two, last = [*list(peer.weights)[:3], list(peer.weights)[3:]]
    best = {name: values[0] for name, values in peer.weights.items()}
    fewest = 1.0
    for stage in [[price], two, [price], *([name] for name in last)]:
        values_of_stage = product(*(peer.weights[name] for name in stage))
        tried = [dict(zip(stage, values, strict=True)) for values in values_of_stage]
        rates = [errors(search | best | weights) for weights in tried]
        fewest = min(rates)
        best |= tried[rates.index(fewest)]
    return fewest, best


def points_of(peer: Peer, weights: Settings, every: int) -> list[Point]:
    """Make the operating points, untuned and with tuned weights, and the sweep with tuned weights."""
    points = [Point(peer.name, peer.point, peer.with_lm, "defaults")]
    if peer.width:
        points += [Point(peer.name, peer.point | {peer.width: width}, peer.with_lm, "width") for width in WIDTHS]
    if weights:
        points.append(Point(peer.name, peer.point | weights, peer.with_lm, "tuned"))
    return points + [Point(peer.name, settings | weights, peer.with_lm) for settings in peer.sweep[::every]]


def measure(bench: Bench, peers: Sequence[Peer], points: Sequence[Point], emissions: Emissions, rounds: int) -> None:
    """Fill in the points: each round gives one block of utterances to all points in turn."""
    by_name = {peer.name: peer for peer in peers}
    made = [by_name[point.decoder].make(bench, point.settings, point.with_lm) for point in points]
    count = len(emissions.texts)
    for round_ in range(rounds):
        block = range(round_, count, rounds)
        inputs = {peer.name: [peer.prepare(emissions.log_probs[i]) for i in block] for peer in peers}
        for place in range(len(points)):
            at = (place + round_ * len(points) // rounds) % len(points)  # another order of neighbours each round
            point, decode, block_inputs = points[at], made[at], inputs[points[at].decoder]
            decode(block_inputs[-1:])
            seconds, repeats, texts = 0.0, 0, []
            while seconds < LEAST_S and repeats < MOST_REPEATS:
                began = time.process_time()
                texts = decode(block_inputs)
                seconds += time.process_time() - began
                repeats += 1
            point.seconds.append(seconds / repeats / len(block))
            point.texts.update(zip(block, texts, strict=True))
        say(f"round {round_ + 1} of {rounds}: {len(block)} utterances x {len(points)} points")
    for point in points:
        point.count_errors(emissions.texts)


def thread_gain(bench: Bench, emissions: Emissions, rounds: int) -> dict[str, float]:
    """Measure utterances per second of ``texts`` on one and two threads, in turns, and their ratio."""
    decoder = BeamDecoder(CharTokenizer(bench.symbols), BeamConfig(), bench.lm, "numba")
    many = emissions.log_probs * max(1, 1024 // len(emissions.log_probs))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    decoder.texts(many, threads=2)
    for _ in range(rounds):
        for threads in (1, 2):
            began = time.perf_counter()
            decoder.texts(many, threads=threads)
            seconds[threads].append(time.perf_counter() - began)
    gain = median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    return {"one": len(many) / median(seconds[1]), "two": len(many) / median(seconds[2]), "gain": gain}


def describe(emissions: Emissions, lm: ngram.NgramModel) -> dict[str, Any]:
    """Describe what is decoded, for the head of the report."""
    tokenizer = CharTokenizer(emissions.symbols)
    floor = BeamConfig().min_token_log_prob or -5.0
    sure = sum(int((one_sv[:, 1:].max(axis=1) < floor).sum()) for one_sv in emissions.log_probs)
    steps = sum(len(one_sv) for one_sv in emissions.log_probs)
    texts = (greedy(one_sv, tokenizer).text for one_sv in emissions.log_probs)
    found = score((str(i), emissions.texts[i], text) for i, text in enumerate(texts))
    return {
        "utterances": len(emissions.texts),
        "steps": steps,
        "vocabulary": len(emissions.symbols) + 1,
        "surely_blank": round(sure / steps, 4),
        "greedy_wer": round(found.wer.rate or 0.0, 4),
        "words": found.wer.reference_length,
        "lm_ngrams": list(lm.counts),
    }


def machine() -> dict[str, Any]:
    """Describe the machine, and the versions of the libraries."""
    from asr.machine import commit

    versions = {}
    for package in ("numpy", "numba", *PEER_PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        **commit(),
    }


def prepare(arguments: argparse.Namespace, size: Size, folder: Path) -> tuple[Emissions, Emissions, Path]:
    """Return the utterances to decode, those to tune on, and the ARPA file."""
    if arguments.emissions not in SYNTHETIC:
        if not (arguments.tune_emissions and arguments.lm):
            raise ConfigError("--emissions FILE also needs --tune-emissions FILE and --lm FILE.arpa")
        some, others = load(Path(arguments.emissions)), load(Path(arguments.tune_emissions))
        if some.symbols != others.symbols:
            raise ConfigError("--emissions and --tune-emissions are of models with different symbols")
        count = min(arguments.utterances or (size.utterances if arguments.quick else len(some.texts)), len(some.texts))
        few = Emissions(some.log_probs[:count], some.texts[:count], some.symbols)
        return few, others, Path(arguments.lm)
    text = arguments.text
    if text is None:
        if not os.environ.get("ASR_TEST_DATA"):
            raise ConfigError("no language-model text: give --text FILE, a sentence a line (or set ASR_TEST_DATA)")
        text = Path(os.environ["ASR_TEST_DATA"]) / "text" / "ljspeech-lm-text.txt.gz"
    held, rest = hold_out(read_text(Path(text)), size.utterances + size.tuning_utterances, arguments.seed)
    arpa = folder / "3gram.arpa"
    ngram.write(ngram.train(rest, 3), arpa)
    decoded, tuned = held[: size.utterances], held[size.utterances :]
    noise = SYNTHETIC[arguments.emissions]
    return synthetic(decoded, arguments.seed + 1, noise), synthetic(tuned, arguments.seed + 2, noise), arpa


def present(peers: Sequence[Peer], missing: list[str]) -> list[Peer]:
    """Return the decoders that can run here; for the others, the reason is added to ``missing``."""
    reasons = {peer.name: peer.why_absent() for peer in peers}
    missing += [reason for reason in reasons.values() if reason and reason not in missing]
    return [peer for peer in peers if not reasons[peer.name]]


def run(arguments: argparse.Namespace, size: Size, folder: Path) -> dict[str, Any]:
    """Measure everything that ``report`` shows."""
    began = time.perf_counter()
    emissions, tuning, arpa = prepare(arguments, size, folder)
    bench = Bench(emissions.symbols, arpa, ngram.load(arpa))
    about = describe(emissions, bench.lm)
    say(f"emissions: {about}")
    missing: list[str] = []
    points: list[Point] = []
    weights: dict[str, Settings] = {}
    for group in (PEERS, PEERS_WITHOUT_LM):
        peers = [clipped(peer, len(emissions.symbols) + 1) for peer in present(group, missing)]
        for peer in peers:
            if peer.with_lm and peer.weights:
                weights[peer.name] = tune(bench, peer, tuning)
        tuned = weights if group is PEERS else {}
        chosen = [p for peer in peers for p in points_of(peer, tuned.get(peer.name, {}), size.every)]
        measure(bench, peers, chosen, emissions, size.rounds)
        points += chosen
    for line in missing:
        say(line)
    threads = thread_gain(bench, emissions, rounds=max(3, size.rounds))
    first = folder / "first.npz"
    save(Emissions(emissions.log_probs[:1], emissions.texts[:1], emissions.symbols), first)
    return {
        "emissions": about,
        "points": points,
        "weights": weights,
        "missing": missing,
        "threads": threads,
        "startup": startup.measure(arpa, first),
        "machine": machine(),
        "seconds": time.perf_counter() - began,
    }


def clipped(peer: Peer, vocabulary: int) -> Peer:
    """Return the decoder with settings that fit a smaller vocabulary."""

    def fit(settings: Settings) -> Settings:
        return {k: min(v, vocabulary) if k == "beam_size_token" else v for k, v in settings.items()}

    return replace(peer, tuning=tuple(map(fit, peer.tuning)), sweep=tuple(map(fit, peer.sweep)))


say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731


def main() -> int:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=summary)
    parser.add_argument("--text", type=Path, help="language-model text, one sentence per line; may be gzip")
    parser.add_argument(
        "--emissions", default="synthetic", help="synthetic, blurred, or a file that benchmarks.emissions made"
    )
    parser.add_argument(
        "--utterances",
        type=int,
        metavar="N",
        help="how many to decode (default 128; file: all); blurred takes twice as long",
    )
    parser.add_argument("--tune-emissions", help="other utterances for the weights, with --emissions FILE")
    parser.add_argument("--lm", help="ARPA file, with --emissions FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke test of under a minute; its numbers mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw speed against WER")
    parser.add_argument("--markdown", action="store_true", help="print the tables for docs/performance.md")
    arguments = parser.parse_args()
    size = Size.quick() if arguments.quick else Size()
    if arguments.utterances is not None:
        if arguments.utterances < size.rounds:
            parser.error(f"--utterances: at least {size.rounds}, one for each round")
        size = replace(size, utterances=arguments.utterances)
    logging.disable(logging.WARNING)  # pyctcdecode warns about every vocabulary
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = run(arguments, size, Path(folder))
    except AsrError as error:
        say(f"error: {error}")
        return 2
    if arguments.json:
        content = result | {"points": [point.to_json() for point in result["points"]]}
        arguments.json.write_text(json.dumps(content, indent=1, default=str))
    if arguments.picture:
        report.draw(result, arguments.picture)
    print(report.tables(result, markdown=arguments.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
