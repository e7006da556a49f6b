"""Emissions to decode: those of a trained model by ``asr.infer``, or synthetic ones with their references.

    python -m benchmarks.emissions --model work/an4/default-seed1 --manifest work/an4/data/test.jsonl --out test.npz

writes a model's emissions for ``benchmarks.decode --emissions test.npz``.

Axes: s steps, v vocabulary, n letters of a text.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.types import LogProbs, check_log_probs
from asr.errors import DataError

SYMBOLS = (" ", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
#: letters that sound alike; the apostrophe is most often missed
SIMILAR = ("MN", "BPDTVG", "FSXZC", "CKQ", "GJ", "LR", "VW", "AEIOUY", "SZ", "TD", "AE", "EI", "OU", "H'")
STEPS, STEPS_A_SECOND = 500, 50


@dataclass(frozen=True)
class Emissions:
    """Hold log-probabilities of utterances, their references, and the vocabulary (the blank, id 0, left out)."""

    log_probs: list[LogProbs]
    texts: list[str]
    symbols: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Audio, for synthetic emissions."""
        return sum(len(one_sv) for one_sv in self.log_probs) / STEPS_A_SECOND


def save(emissions: Emissions, path: Path) -> None:
    """Write emissions as one npz file."""
    arrays: dict[str, Any] = {f"log_probs_{i}": one_sv for i, one_sv in enumerate(emissions.log_probs)}
    np.savez(path, texts=np.array(emissions.texts), symbols=np.array(emissions.symbols), **arrays)


def load(path: Path) -> Emissions:
    """Read what ``save`` wrote.

    Raises:
        DataError: it is something else, or its rows are no log-probabilities.
    """
    try:
        with np.load(path) as file:
            texts, symbols = file["texts"].tolist(), tuple(file["symbols"].tolist())
            log_probs = [np.asarray(file[f"log_probs_{i}"], np.float32) for i in range(len(texts))]
        for one_sv in log_probs:
            check_log_probs(one_sv)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"no emissions of benchmarks.emissions ({error})", path) from error
    return Emissions(log_probs, texts, symbols)


def of_model(model_path: str, manifest_path: str) -> Emissions:
    """Compute the emissions of a trained model for a manifest, as ``asr evaluate`` makes them."""
    from asr.data import manifest as manifests
    from asr.data.text import normalize
    from asr.infer import all_log_probs
    from asr.model.checkpoint import load_model
    from asr.utterance import extract, load_wave

    model, manifest = load_model(model_path), manifests.read(manifest_path)
    said: set[int] = set()
    waves = [
        load_wave(manifest, u, model.audio.sample_rate_hz, model.audio.resample, said) for u in manifest.utterances
    ]
    log_probs = all_log_probs(model, [extract(model.extractor, wave_n) for wave_n in waves])
    texts = [normalize(u.text, model.text.normalization) for u in manifest.utterances]
    return Emissions(log_probs, texts, tuple(model.tokenizer.symbols))


def read_text(path: Path) -> list[str]:
    """Read the lines of a text (may be gzip); those with other symbols than A-Z and the apostrophe are left out.

    Raises:
        DataError: it cannot be read, or has too few lines.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        lines = [" ".join(line.upper().split()) for line in content.decode().splitlines()]
    except (OSError, EOFError, UnicodeError) as error:
        raise DataError(f"cannot read as text: {error}", path) from error
    lines = [line for line in lines if line and not set(line) - set(SYMBOLS)]
    if len(lines) < 2000:
        raise DataError(f"{len(lines)} lines of A-Z and apostrophe, expected at least 2000: a book or more", path)
    return lines


def hold_out(lines: list[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw lines of 100 to 160 letters (10 s of speech) to be decoded; return these and all others, for the model."""
    fitting = [i for i, line in enumerate(lines) if 100 <= len(line) <= 160]
    drawn = np.random.default_rng(seed).permutation(fitting)[:count].tolist()
    out = set(drawn)
    return [lines[i] for i in drawn], [line for i, line in enumerate(lines) if i not in out]


@dataclass(frozen=True)
class Noise:
    """Describe the noise: mean natural log-odds of the true letter over others. Greedy WER about 28 %."""

    #: over a letter that sounds alike, over any other letter, over the blank
    similar: float = 17.0
    other: float = 36.0
    blank: float = 12.0
    #: each letter's own clarity, by which its log-odds are multiplied: gamma with mean 1 and this shape
    clarity: float = 6.0
    #: of the blank over all letters between letters; and the share of gaps that sound a little like a space
    between: float = 9.0
    ghost_spaces: float = 0.1
    ghost: float = 4.0
    #: log-odds are divided by this: above 1 the probabilities are too timid, and more tokens stay possible
    temperature: float = 1.0
    #: the share of letters whose neighbour step shows them too, weakly
    smeared: float = 0.6


#: a model that is much less confident than it could be; the greedy text is about as good
BLURRED = Noise(temperature=3.0)


def synthetic(texts: list[str], seed: int, noise: Noise | None = None) -> Emissions:
    """Make emissions of 500 steps per text that look like a trained CTC model's: short peaks, blank between them.

    Each letter is put at a step of its own, with silence at both ends and uneven gaps. There the letter competes with
    those that sound like it, with all others, and with the blank: mostly it wins, else most often one that sounds
    alike, or the blank (a letter or a word border is lost). Most letters show weakly in a step beside their own, and
    some gaps sound a little like a space. Between letters the blank is certain: in about 64 % of the steps no other
    token is above e^-5.

    The log-odds of the true letter over another token are drawn from a normal distribution of mean m and variance 2 m:
    the one for which the probabilities are right (a letter given 0.1 was said one time in ten), as a trained model's
    nearly are. With any other variance, pruning tokens would reveal something about the truth to the decoder.
    """
    noise, rng = noise or Noise(), np.random.default_rng(seed)
    near_vv = _similar()
    return Emissions([_one(text, noise, near_vv, rng) for text in texts], list(texts), SYMBOLS)


def _similar() -> npt.NDArray[np.bool_]:
    """Return which tokens sound alike: tokens by tokens, the blank first."""
    size = len(SYMBOLS) + 1
    near_vv = np.zeros((size, size), np.bool_)
    for group in SIMILAR:
        ids = [SYMBOLS.index(letter) + 1 for letter in group]
        near_vv[np.ix_(ids, ids)] = True
    return near_vv


def _one(text: str, noise: Noise, near_vv: npt.NDArray[np.bool_], rng: np.random.Generator) -> LogProbs:
    ids_n = np.array([SYMBOLS.index(letter) + 1 for letter in text])
    at_n = _places(len(ids_n), rng)
    logits_sv = rng.normal(-noise.between, 1.0, (STEPS, len(SYMBOLS) + 1))
    logits_sv[:, 0] = 0.0
    for token, step in zip(ids_n.tolist(), at_n.tolist(), strict=True):
        odds_v = np.where(near_vv[token], noise.similar, noise.other)
        odds_v[0] = noise.blank
        heard_v = -_log_odds(odds_v * rng.gamma(noise.clarity, 1 / noise.clarity), rng)
        heard_v[token] = 0.0
        heard_v /= noise.temperature
        logits_sv[step] = np.maximum(heard_v, heard_v.max() - 25)
        if rng.random() < noise.smeared:
            weak_v = heard_v - heard_v.max() - rng.gamma(3.0, 1.5)
            weak_v[0] = 0.0
            beside = step + (1 if rng.random() < 0.5 else -1)
            if beside not in at_n:
                logits_sv[beside] = np.logaddexp(logits_sv[beside], weak_v)
    for step in (at_n[:-1] + 1)[rng.random(len(at_n) - 1) < noise.ghost_spaces].tolist():
        if step not in at_n:
            logits_sv[step, 1] = -_log_odds(np.array(noise.ghost), rng) / noise.temperature
    peak_s1 = logits_sv.max(axis=1, keepdims=True)
    log_sum_s1 = peak_s1 + np.log(np.exp(logits_sv - peak_s1).sum(axis=1, keepdims=True))
    log_probs_sv: LogProbs = (logits_sv - log_sum_s1).astype(np.float32)
    return log_probs_sv


def _log_odds(means: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.asarray(rng.normal(means, np.sqrt(2 * means)))


def _places(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw ascending steps for letters: at least two apart, 10 to 25 steps of silence at both ends, uneven gaps."""
    first, last = rng.integers(10, 25, 2)
    free = STEPS - first - last - 2 * count
    if free < 0:
        raise ValueError(f"a text of {count} letters does not fit into {STEPS} steps")
    shares_n = rng.gamma(1.0, size=count)
    extra_n = np.floor(np.cumsum(shares_n) / shares_n.sum() * free).astype(np.int64)
    return np.asarray(first + 2 * np.arange(count) + extra_n)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a trained model's emissions for benchmarks.decode.")
    parser.add_argument("--model", required=True, help="a run or model folder")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--out", required=True, type=Path, help="npz file")
    arguments = parser.parse_args()
    save(of_model(arguments.model, arguments.manifest), arguments.out)


if __name__ == "__main__":
    main()
