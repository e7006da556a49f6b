"""The decoder that a command or a caller asks for, and what a record calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asr.config import parse
from asr.data.tokenizer import Tokenizer
from asr.decode.greedy import greedy
from asr.decode.hotword_file import read_hotwords
from asr.decode.options import DecoderOptions
from asr.decode.settings import BeamConfig
from asr.decode.tuned import FILE, lm_path, read_tuned
from asr.decode.types import Hypothesis, LogProbs
from asr.errors import AsrError, ConfigError, nearest

if TYPE_CHECKING:
    from asr.decode.decoder import Backend, BeamDecoder

DECODERS = ("greedy", "beam")
#: a language model's path that means: none, whatever was tuned
NO_LM = Path("none")


@dataclass(frozen=True)
class Decoder:
    """Log-probabilities to hypotheses, best first, never none."""

    name: str
    lm: str | None
    decode: Callable[[LogProbs], list[Hypothesis]]
    #: the file that its settings come from; empty: options and defaults
    source: str = ""
    #: the search, if ``decode`` does nothing more: it takes a stream as it comes
    search: BeamDecoder | None = None
    #: the best path is all there is to it
    is_greedy: bool = False
    #: returns the decoder that expects these words as well (``BeamConfig.hotwords``), over the same language model;
    #: None: greedy decoding was asked for, which can expect none
    with_hotwords: Callable[[Mapping[str, float]], Decoder] | None = None


def greedy_decoder(tokenizer: Tokenizer) -> Decoder:
    """Make a decoder that takes the best path."""
    return Decoder("greedy", None, lambda log_probs_sv: [greedy(log_probs_sv, tokenizer)], is_greedy=True)


def beam_decoder(
    tokenizer: Tokenizer,
    config: BeamConfig,
    lm_path: Path | None = None,
    source: str = "",
    backend: Backend = "auto",
    known_words: Path | None = None,
) -> Decoder:
    """Make a prefix beam search, with the n-gram model in a file when there is one.

    Args:
        known_words: A file with the only words of the language model that count as known; ``None``: all do.

    Raises:
        DataError: the language model cannot be read.
        ConfigError: tokenizer, language model, hotwords and lexicon do not fit together.
    """
    from asr.decode.decoder import BeamDecoder  # greedy decoding needs no search, nor language models
    from asr.lm import ngram

    if lm_path is not None and lm_path.is_dir():
        raise ConfigError(f"{lm_path}: is a folder; --lm takes an n-gram model's file; a neural model: --rescore")
    lm = None if lm_path is None else ngram.load(lm_path)
    if lm is not None and known_words is not None:
        lm.keep_known(ngram.read_lines([known_words]), str(known_words))
    search = BeamDecoder(tokenizer, config, lm, backend)
    lm_name = None if lm_path is None else short(lm_path)

    def of(search: BeamDecoder) -> Decoder:
        def with_hotwords(hotwords: Mapping[str, float]) -> Decoder:
            more = {"hotwords": {**config.hotwords, **hotwords}}
            return of(search.with_config(parse(BeamConfig, search.config.model_dump() | more, "hotwords")))

        name = describe_search(search.config, with_lm=lm is not None)
        return Decoder(name, lm_name, search.decode, source, search, with_hotwords=with_hotwords)

    return of(search)


def decoder_for(folder: Path, tokenizer: Tokenizer, options: DecoderOptions | None = None) -> Decoder:
    """Make the decoder of a model folder: greedy, or as it was tuned, or as the options override it.

    Rescoring by a neural language model is left to ``asr.tuning.rescore.rescoring_decoder_for``.

    Raises:
        CheckpointError: the tuned settings are damaged, or their language model is gone.
        DataError: the language model cannot be read.
        ConfigError: a setting is wrong, or things do not fit together.
    """
    options = options or DecoderOptions()
    name, lm = options.name, options.lm
    if name not in ("", *DECODERS):
        raise ConfigError(f"unknown decoder '{name}' ({', '.join(DECODERS)}){nearest(name, DECODERS)}", key="decoder")
    if name == "greedy":
        return greedy_decoder(tokenizer)

    settings = dict(options.settings)
    if options.hotword_file is not None:
        settings["hotwords"] = read_hotwords(options.hotword_file, tokenizer) | dict(settings.get("hotwords", {}))
    tuned = read_tuned(folder)
    source = str(folder / FILE) if tuned else ""
    if tuned is None and options.shipped is not None:
        tuned, source = options.shipped, str(options.shipped.lm)
    if not (name or settings or lm or tuned or options.backend != "auto"):

        def with_hotwords(hotwords: Mapping[str, float]) -> Decoder:
            return decoder_for(folder, tokenizer, replace(options, settings={"hotwords": dict(hotwords)}))

        return replace(greedy_decoder(tokenizer), with_hotwords=with_hotwords)

    base = tuned.config.model_dump() if tuned else {}
    if lm is not None and tuned and (tuned.lm is None or (folder / tuned.lm).resolve() != lm.resolve()):
        base["fusion"] = "auto"  # what was tuned was of another language model
    config = parse(BeamConfig, base | settings, "decoder options")
    if options.confidence:
        config = config.model_copy(update={"confidence": True})

    known_words = None
    if lm is None and tuned:
        lm = lm_path(folder, tuned)
        known_words = folder / tuned.lm_words if tuned.lm_words else None
    lm = None if lm == NO_LM else lm
    idle = [key for key in ("alpha", "beta", "unknown_log_prob") if lm is None and key in settings]
    if idle:
        raise ConfigError(f"{idle[0]} weighs a language model, and there is none; give one with --lm", key=idle[0])
    try:
        return beam_decoder(tokenizer, config, lm, source, options.backend, known_words)
    except AsrError as error:
        if tuned is not None and tuned is options.shipped:  # nobody asked for it
            raise ConfigError(f"{error} (--lm none leaves out {lm}, which came with the model)") from error
        raise


def short(path: Path) -> str:
    """Return a path as a person here would write it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def describe_search(config: BeamConfig, with_lm: bool) -> str:
    """Describe a beam search for a record: its width, its weights, and what else is not as usual."""
    usual = BeamConfig()
    parts = [f"beam {config.beam_width}"]
    if with_lm:
        parts.append(f"alpha {config.alpha:g}, beta {config.beta:g}")
        if config.unknown_log_prob != usual.unknown_log_prob:
            parts.append(f"unknown {config.unknown_log_prob:g}")
        if config.fusion == "token":
            parts.append("LM of tokens")

    if config.mbr:
        parts.append("least expected word errors")
    if config.hotwords:
        listed = [f"{word}:{weight:g}" for word, weight in config.hotwords.items()]
        parts.append(f"{len(listed):,} hotwords" if len(listed) > 5 else f"hotwords {' '.join(listed)}")
    if config.lexicon is not None:
        parts.append(f"lexicon of {len(config.lexicon):,}")

    for key, name in (("min_token_log_prob", "token floor"), ("beam_prune_log_prob", "pruning")):
        value = getattr(config, key)
        if value != getattr(usual, key):
            parts.append(f"{name} off" if value is None else f"{name} {value:g}")

    return ", ".join(parts)
