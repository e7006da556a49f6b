"""The decoders that are compared, with one interface: settings in, a function from utterances to their texts out.

For every decoder, some work is not timed: reading the language model, making a trie of its word list, and bringing the
input into the form that the decoder takes (fast-ctc-decoder: probabilities; the others: log-probabilities).

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import CharTokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy
from asr.decode.settings import BeamConfig
from asr.decode.types import LogProbs
from asr.lm import ngram

Settings = dict[str, Any]
Decode = Callable[[Sequence[Any]], list[str]]


@dataclass
class Bench:
    """Hold what every decoder is made from: the symbols (the blank left out), the ARPA file and its words."""

    symbols: tuple[str, ...]
    arpa: Path
    lm: ngram.NgramModel
    cache: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is expensive to make and shared by settings."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    @property
    def words(self) -> list[str]:
        """Return the language model's words that the symbols can write; <unk>, <s> and </s> left out."""
        letters = set(self.symbols)
        return [word for word in self.lm.words[3:] if not set(word) - letters]


def _each(decode: Callable[[Any], str]) -> Decode:
    """Return a function that decodes utterances one by one."""
    return lambda utterances: [decode(one) for one in utterances]


def _decoder(bench: Bench, settings: Settings, with_lm: bool) -> BeamDecoder:
    config = BeamConfig.model_validate(settings)
    return BeamDecoder(CharTokenizer(bench.symbols), config, bench.lm if with_lm else None)


def _ours(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    decoder = _decoder(bench, settings, with_lm)
    return lambda utterances: decoder.texts(utterances, threads=1)


def _ours_with_times(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    decoder = _decoder(bench, settings, with_lm)
    return _each(lambda log_probs_sv: decoder.decode(log_probs_sv)[0].text)


def _ours_plain(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    config = BeamConfig.model_validate(settings)
    decoder = BeamDecoder(CharTokenizer(bench.symbols), config, bench.lm if with_lm else None, "numpy")
    return _each(lambda log_probs_sv: decoder.decode(log_probs_sv)[0].text)


def _greedy(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    tokenizer = CharTokenizer(bench.symbols)
    return _each(lambda log_probs_sv: greedy(log_probs_sv, tokenizer).text)


def _pyctcdecode(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    from pyctcdecode.decoder import build_ctcdecoder

    labels = ["", *bench.symbols]
    if with_lm:
        arpa, words = str(bench.arpa), bench.words
        decoder = bench.once("pyctcdecode lm", lambda: build_ctcdecoder(labels, arpa, words))
    else:
        decoder = bench.once("pyctcdecode", lambda: build_ctcdecoder(labels))
    search = {k: v for k, v in settings.items() if k in ("beam_width", "beam_prune_logp", "token_min_logp")}
    # given every time: the decoder is shared, and what another setting changed would stay
    weights = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0}
    weights |= {k: v for k, v in settings.items() if k in weights}

    def decode(log_probs_sv: LogProbs) -> str:
        if with_lm:
            decoder.reset_params(**weights)
        return str(decoder.decode(log_probs_sv, **search))

    return _each(decode)


def _ctc_beam_decoder(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    from ctc_beam_decoder import build_ctcdecoder

    search = {k: v for k, v in settings.items() if k in ("beam_width", "beam_prune_logp", "token_min_logp")}
    weights = {k: v for k, v in settings.items() if k not in search}
    model = (str(bench.arpa), bench.words) if with_lm else ()
    key = ("ctc-beam-decoder", with_lm, *weights.items())
    decoder = bench.once(key, lambda: build_ctcdecoder(["", *bench.symbols], *model, **weights))
    return _each(lambda log_probs_sv: str(decoder.decode(log_probs_sv, **search)))


def _flashlight(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    from flashlight.lib.text import decoder as fl

    size = len(bench.symbols) + 1
    space = bench.symbols.index(" ") + 1
    common = {
        "beam_size": 100,
        "beam_size_token": size,
        "beam_threshold": 50.0,
        "sil_score": 0.0,
        "log_add": True,
        "criterion_type": fl.CriterionType.CTC,
        "lm_weight": 1.0,
    }
    common |= settings
    if with_lm:
        trie, lm, unknown = bench.once("flashlight", lambda: _flashlight_lexicon(bench, size, space))
        options = fl.LexiconDecoderOptions(**{"word_score": 0.0, "unk_score": -math.inf} | common)
        decoder = fl.LexiconDecoder(options, trie, lm, space, 0, unknown, [], False)
    else:
        decoder = fl.LexiconFreeDecoder(fl.LexiconFreeDecoderOptions(**common), fl.ZeroLM(), space, 0, [])
    pieces = ["", *bench.symbols]

    def decode(log_probs_sv: LogProbs) -> str:
        results = decoder.decode(log_probs_sv.ctypes.data, *log_probs_sv.shape)
        # spelled from the tokens: <unk> is written by its letters where unk_score allows it
        text = "".join(pieces[token] for token, _ in groupby(results[0].tokens) if token >= 0) if results else ""
        return " ".join(text.split())

    return _each(decode)


def _flashlight_lexicon(bench: Bench, size: int, space: int) -> tuple[Any, Any, int]:
    """Return the trie of the language model's words with smeared scores, the model, and <unk>'s id."""
    from flashlight.lib.text import decoder as fl
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    words = Dictionary([*bench.words, "<unk>"])
    lm = KenLM(str(bench.arpa), words)
    trie, start = fl.Trie(size, space), lm.start(False)
    ids = {symbol: i for i, symbol in enumerate(bench.symbols, start=1)}
    for word in bench.words:
        index = words.get_index(word)
        trie.insert([*(ids[letter] for letter in word), space], index, lm.score(start, index)[1])
    trie.smear(fl.SmearingMode.MAX)
    return trie, lm, words.get_index("<unk>")


def _fast_ctc_decoder(bench: Bench, settings: Settings, with_lm: bool) -> Decode:
    from fast_ctc_decoder import beam_search

    alphabet = ["_", *bench.symbols]

    def decode(probs_sv: npt.NDArray[np.float32]) -> str:
        return " ".join(beam_search(probs_sv, alphabet, **settings)[0].split())

    return _each(decode)


@dataclass(frozen=True)
class Peer:
    """Describe a decoder: how it is made, where its width is set, and the settings it is tried with."""

    name: str
    make: Callable[[Bench, Settings, bool], Decode]
    modules: tuple[str, ...]
    #: settings of the operating point, those of moderate effort at which weights are tuned, and the sweep's
    point: Settings
    tuning: tuple[Settings, ...]
    sweep: tuple[Settings, ...]
    #: values tried: of the price of an unknown word, of the LM's weight, of a word's bonus, of others; defaults first
    weights: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    #: the setting that is its width, if it is compared at each of ``WIDTHS``, all else as it comes
    width: str = ""
    with_lm: bool = True
    takes_probs: bool = False

    def prepare(self, log_probs_sv: LogProbs) -> Any:
        """Bring an utterance into the form that the decoder takes."""
        array = np.ascontiguousarray(log_probs_sv, np.float32)
        return np.exp(array) if self.takes_probs else array

    def why_absent(self) -> str | None:
        """Return why the decoder cannot run here, or None."""
        import importlib

        try:
            for module in self.modules:
                importlib.import_module(module)
        except Exception as error:  # a wheel that does not load can raise anything
            return f"{self.name} is left out: {type(error).__name__}: {error}"
        return None


def _grid(width: str, widths: tuple[int, ...], *prunings: Settings) -> tuple[Settings, ...]:
    return tuple({width: w} | pruning for pruning in prunings for w in widths)


WIDTHS = (2, 5, 10, 25, 50, 100)
_OURS_WEIGHTS = {
    "unknown_log_prob": (-10.0, -15.0, -5.0, -3.0),
    "alpha": (0.5, 0.2, 0.35, 0.7),
    "beta": (1.5, 0.0, 0.75),
}
_OUR_PRUNINGS = tuple(
    {"min_token_log_prob": token, "beam_prune_log_prob": beam}
    for token, beam in (
        (-3.0, -4.0),
        (-3.5, -6.0),
        (-4.0, -8.0),
        (-5.0, -10.0),
        (-6.0, -12.0),
        (-7.0, -14.0),
        (-9.0, -18.0),
    )
)
_PYCTC_PRUNINGS = (
    {"token_min_logp": -5.0, "beam_prune_logp": -10.0},
    {"token_min_logp": -3.5, "beam_prune_logp": -6.0},
)

PEERS = (
    Peer(
        "ours, numba",
        _ours,
        (),
        {"beam_width": 100},
        ({"beam_width": 50}, {"beam_width": 50, "min_token_log_prob": -7.0, "beam_prune_log_prob": -14.0}),
        _grid("beam_width", (5, 10, 25, 50, 100, 200, 400), *_OUR_PRUNINGS),
        _OURS_WEIGHTS,
        width="beam_width",
    ),
    Peer("ours, one by one with times", _ours_with_times, (), {"beam_width": 100}, (), ()),
    Peer("ours, plain Python", _ours_plain, (), {"beam_width": 100}, (), ()),
    Peer(
        "ctc-beam-decoder",
        _ctc_beam_decoder,
        ("ctc_beam_decoder",),
        {"beam_width": 100},
        ({"beam_width": 25}, {"beam_width": 25, "token_min_logp": -3.5, "beam_prune_logp": -6.0}),
        _grid("beam_width", (5, 10, 25, 50, 100), *_PYCTC_PRUNINGS),
        {"unk_score_offset": (-10.0, -15.0, -5.0, -3.0), "alpha": (0.5, 0.2, 0.35, 0.7), "beta": (1.5, 0.0, 0.75)},
        width="beam_width",
    ),
    Peer(
        "pyctcdecode",
        _pyctcdecode,
        ("pyctcdecode", "kenlm"),
        {"beam_width": 100},
        ({"beam_width": 25}, {"beam_width": 25, "token_min_logp": -3.5, "beam_prune_logp": -6.0}),
        (
            *_grid("beam_width", (5, 10, 25, 50, 100), *_PYCTC_PRUNINGS),
            {"beam_width": 50, "token_min_logp": -7.0, "beam_prune_logp": -14.0},
        ),
        {"unk_score_offset": (-10.0, -15.0, -5.0, -3.0), "alpha": (0.5, 0.2, 0.35, 0.7), "beta": (1.5, 0.0, 0.75)},
        width="beam_width",
    ),
    Peer(
        "flashlight, lexicon",
        _flashlight,
        ("flashlight.lib.text.decoder.kenlm",),
        {"beam_size": 100},
        (
            {"beam_size": 50, "beam_size_token": 10, "beam_threshold": 15.0},
            {"beam_size": 50, "beam_size_token": 5, "beam_threshold": 10.0},
        ),
        (
            *_grid(
                "beam_size",
                (5, 10, 25, 50, 100, 250),
                {"beam_size_token": 5, "beam_threshold": 10.0},
                {"beam_size_token": 10, "beam_threshold": 15.0},
            ),
            {"beam_size": 50, "beam_size_token": 29, "beam_threshold": 25.0},
        ),
        {
            "unk_score": (-math.inf, -5.0, -3.0, -2.0),
            "lm_weight": (1.15, 0.6, 1.6, 2.2),
            "word_score": (1.5, 0.0, 0.75),
            "log_add": (True, False),
        },
    ),
)

PEERS_WITHOUT_LM = (
    Peer(
        "ours, numba",
        _ours,
        (),
        {"beam_width": 100},
        (),
        _grid("beam_width", (1, 2, 5, 10, 25, 50, 100, 200), *_OUR_PRUNINGS),
        width="beam_width",
        with_lm=False,
    ),
    Peer("ours, one by one with times", _ours_with_times, (), {"beam_width": 100}, (), (), with_lm=False),
    Peer("ours, greedy", _greedy, (), {}, (), (), with_lm=False),
    Peer(
        "fast-ctc-decoder",
        _fast_ctc_decoder,
        ("fast_ctc_decoder",),
        {"beam_size": 100, "beam_cut_threshold": 0.0067},
        (),
        _grid(
            "beam_size",
            (2, 5, 10, 25, 50, 100, 200),
            {"beam_cut_threshold": 0.03},
            {"beam_cut_threshold": 0.0067},
            {"beam_cut_threshold": 0.001},
        ),
        width="beam_size",
        with_lm=False,
        takes_probs=True,
    ),
    Peer(
        "ctc-beam-decoder",
        _ctc_beam_decoder,
        ("ctc_beam_decoder",),
        {"beam_width": 100},
        (),
        _grid("beam_width", (5, 25), *_PYCTC_PRUNINGS),
        width="beam_width",
        with_lm=False,
    ),
    Peer(
        "pyctcdecode",
        _pyctcdecode,
        ("pyctcdecode",),
        {"beam_width": 100},
        (),
        _grid("beam_width", (5, 25), *_PYCTC_PRUNINGS),
        with_lm=False,
    ),
    Peer(
        "flashlight, lexicon-free",
        _flashlight,
        ("flashlight.lib.text.decoder",),
        {"beam_size": 100},
        (),
        _grid("beam_size", (5, 25, 100), {"beam_size_token": 5, "beam_threshold": 10.0}),
        with_lm=False,
    ),
)
