"""The tables of both beam searches: how tokens spell words, the letter trie of the listed words, and the weights.

Axes: v vocabulary, l letters of a token, n nodes of the letter trie, e its edges.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.decode.phrases import Phrases, build_phrases, no_phrases
from asr.decode.settings import BeamConfig
from asr.decode.trie import best_words, letter_trie
from asr.decode.types import Floats, Ints
from asr.errors import ConfigError
from asr.lm.arrays import no_ngrams
from asr.lm.model import advance_many

logger = logging.getLogger(__name__)

NO_FUSION, WORD_FUSION, TOKEN_FUSION = 0, 1, 2
#: masses are divided by no less than this: one over a number below 1e-308 is infinite
LEAST_SCALE = 1e-290
#: words of a language model that no text has
SPECIAL_WORDS = {"<s>", "</s>", "<unk>", "<UNK>"}
#: an open word that no listed word begins with costs no more from this many letters on
MOST_LETTERS = 63
#: no open word that may come out costs more than this, in nats, as its price is also held as a factor
_MOST_PRICE = 400.0
#: settings that the tables are made of; the others can be changed in a decoder that is built
_FIXED = ("lexicon", "fusion", "space_symbol")


class LanguageModel(Protocol):
    """An n-gram model, as far as the search needs it (``asr.lm.model.NgramModel``)."""

    @property
    def words(self) -> Sequence[str]: ...
    @property
    def known_words(self) -> Set[str] | None: ...
    @property
    def arrays(self) -> Any: ...
    @property
    def begin_state(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...


class Limits(NamedTuple):
    """Bounds of the prefixes and tokens that a search keeps; numba takes it as it is."""

    beam_width: int
    #: a token's least log-probability in a step, a float32
    floor: float
    #: a prefix's least mass, as a share of the best one's
    prune: float
    #: no letter multiplies a mass by more
    most_growth: float
    #: whether only the best of the prefixes with the same future stays where there are too many
    recombine: bool


class SearchTables(NamedTuple):
    """Everything that a search looks up, as arrays and numbers; numba takes it as it is."""

    #: the token that writes only a space; -1: there is none
    delimiter: int
    #: whether a token ends the open word before it writes its letters
    opens_v: npt.NDArray[np.bool_]
    #: the letters that a token writes, as letter ids, -1 behind the last; and how many
    letters_vl: Ints
    num_letters_v: Ints
    #: whether there is a list of words, so that letters are followed in the trie
    listed: bool
    #: whether only listed words may come out
    closed: bool
    #: the letter trie, breadth first: edge e leads to node e + 1; a node's edges are first_edge[node] to
    #: first_edge[node + 1], with ascending letters
    edge_letters_e: Ints
    first_edge_n: Ints
    #: the letters of a node's edges as bits; empty when there are more than 64 letters
    edge_mask_n: npt.NDArray[np.uint64]
    #: -1: no listed word ends here; -2: one that the language model does not know; else its id there
    word_n: Ints
    #: whether a word that ends here is known
    known_n: npt.NDArray[np.bool_]
    #: the highest ln P without context of the words that begin so, of those that are known and of those that are not;
    #: -inf: there is none. Of no use without a language model of words
    best_known_n: Floats
    best_unknown_n: Floats
    #: score of an open word for the time being, and e to it
    look_n: Floats
    gain_n: Floats
    #: the same of an open word that no listed word begins with, by its number of letters
    off_look_l: Floats
    off_gain_l: Floats
    #: the hotwords, and what an open word costs that may become one which the language model does not know
    phrases: Phrases
    new_look: float
    new_gain: float
    #: the language model and its weights
    fusion: int
    alpha: float
    beta: float
    unknown: float
    begin_state: int
    end_id: int
    unk_id: int
    #: ln P of an unknown word without context
    unk_log_prob: float
    lm_token_v: Ints
    lm: Any


def limits_of(config: BeamConfig, tables: SearchTables) -> Limits:
    """Return the widths and prunings of a search as numbers."""
    floor, prune = config.min_token_log_prob, config.beam_prune_log_prob
    most_growth = math.inf
    if tables.fusion != TOKEN_FUSION:
        most = max(float(tables.look_n.max()), float(tables.off_look_l.max()), tables.new_look)
        hope = float(tables.phrases.hope_n.max())
        most_growth = math.exp(min(most - min(0.0, float(tables.look_n.min())) + hope, 700.0))
    return Limits(
        beam_width=config.beam_width,
        floor=-math.inf if floor is None else float(np.float32(floor)),
        prune=0.0 if prune is None else math.exp(prune),
        most_growth=most_growth,
        # Other texts are asked for, or another way to write the same one adds to it.
        recombine=config.nbest == 1 and not config.confidence and not config.mbr and not ambiguous(tables),
    )


def ambiguous(tables: SearchTables) -> bool:
    """Return true if tokens can write one text in two ways: only those of several letters can."""
    return bool((tables.num_letters_v[1:] + tables.opens_v[1:] != 1).any())


def spellings(tokenizer: Tokenizer) -> list[str]:
    """Return what each token writes, by id; a space stands only at the start. The blank writes nothing.

    Raises:
        ConfigError: a token writes a space after a letter, or two tokens write only a space.
    """
    pieces = ["", *(symbol.replace(WORD_START, " ") for symbol in tokenizer.symbols)]
    inner = [piece for piece in pieces if " " in piece[1:]]
    if inner:
        raise ConfigError(f"tokenizer: a token may have a space only at its start, got {inner[0]!r}")
    if pieces.count(" ") > 1:
        raise ConfigError(f"tokenizer: more than one token is a space ({' '!r} and {WORD_START!r})")
    return pieces


def build_tables(tokenizer: Tokenizer, config: BeamConfig, lm: LanguageModel | None) -> SearchTables:
    """Make the tables of a search.

    Raises:
        ConfigError: a hotword or every listed word has letters that the tokenizer cannot write, or two lists disagree.
    """
    pieces = spellings(tokenizer)
    fusion = NO_FUSION
    if lm is not None:
        fusion = WORD_FUSION if fusion_of(tokenizer, config, lm) == "word" else TOKEN_FUSION
    if fusion == WORD_FUSION and not any(" " in piece for piece in pieces):
        logger.info(
            "the model writes no spaces: each of its texts is one word to the language model; for a language without "
            "spaces take a model of tokens (asr lm train TEXT --tokenizer MODEL --out LM)"
        )

    letters = _letters(pieces)
    letter_ids = {letter: i for i, letter in enumerate(letters)}
    spelled = [[letter_ids[c] for c in piece.replace(" ", "")] for piece in pieces]
    letters_vl = np.full((len(pieces), max(1, *map(len, spelled))), -1, np.int32)
    for token, ids in enumerate(spelled):
        letters_vl[token, : len(ids)] = ids

    lm_words = None
    if lm is not None and fusion == WORD_FUSION:
        lm_words = {word: i for i, word in enumerate(lm.words) if word not in SPECIAL_WORDS and i != lm.unk_id}
    lm_token_v = np.zeros(len(pieces), np.int32)
    if lm is not None and fusion == TOKEN_FUSION:
        lm_token_v = _lm_tokens(pieces, config, lm)
    trie = letter_trie(letters, config, lm_words, lm.known_words if lm is not None else None)
    trie |= best_words(trie, lm.arrays if lm is not None and fusion == WORD_FUSION else None, lm.unk_id if lm else 0)
    tables = SearchTables(
        delimiter=pieces.index(" ") if " " in pieces else -1,
        opens_v=np.array([piece.startswith(" ") for piece in pieces]),
        letters_vl=letters_vl,
        num_letters_v=np.array([len(ids) for ids in spelled], np.int32),
        listed=fusion == WORD_FUSION or config.lexicon is not None,
        closed=config.lexicon is not None,
        **trie,
        look_n=trie["best_known_n"],
        gain_n=trie["best_known_n"],
        off_look_l=np.zeros(MOST_LETTERS + 1),
        off_gain_l=np.zeros(MOST_LETTERS + 1),
        phrases=no_phrases(),
        new_look=0.0,
        new_gain=1.0,
        fusion=fusion,
        alpha=0.0,
        beta=0.0,
        unknown=0.0,
        begin_state=int(lm.begin_state) if lm is not None else 0,
        end_id=int(lm.end_id) if lm is not None else 0,
        unk_id=int(lm.unk_id) if lm is not None else 0,
        unk_log_prob=0.0 if lm is None else float(advance_many(lm.arrays, [0], [lm.unk_id])[0][0]),
        lm_token_v=lm_token_v,
        lm=lm.arrays if lm is not None else no_ngrams(),
    )
    return _weighted(with_hotwords(tables, tokenizer, config.hotwords, lm), config)


def with_hotwords(
    tables: SearchTables, tokenizer: Tokenizer, hotwords: Mapping[str, float], lm: LanguageModel | None
) -> SearchTables:
    """Return the tables with these hotwords in place of theirs, in a time that depends on the hotwords alone.

    Raises:
        ConfigError: a hotword has letters that the tokenizer cannot write.
    """
    lm_words = None
    if lm is not None and tables.fusion == WORD_FUSION:
        texts = {word for hotword in hotwords for word in hotword.split(" ")}
        lm_words = texts.intersection(lm.words) - SPECIAL_WORDS
        if lm.known_words is not None:
            lm_words &= lm.known_words
    return tables._replace(phrases=build_phrases(_letters(spellings(tokenizer)), hotwords, lm_words))


def _letters(pieces: Sequence[str]) -> list[str]:
    """Return the letters that tokens write, in their order; the space is none."""
    return sorted(set("".join(pieces)) - {" "})


def fusion_of(tokenizer: Tokenizer, config: BeamConfig, lm: LanguageModel | None) -> Literal["word", "token"]:
    """Return what the language model's words are: words, or the tokens of the acoustic model.

    Where the config leaves it open: tokens, if all of the model's words are tokens, with the space among them where the
    tokenizer has one.
    """
    if config.fusion != "auto":
        return config.fusion
    tokens = {piece.replace(" ", config.space_symbol) for piece in spellings(tokenizer)[1:]}
    if lm is None or len(lm.words) > len(tokens) + len(SPECIAL_WORDS):
        return "word"
    words = set(lm.words) - SPECIAL_WORDS
    if not words or not words <= tokens:
        return "word"

    spaced = {token for token in tokens if token.startswith(config.space_symbol)}
    if spaced and not words & spaced:
        logger.info(
            "all words of the language model are tokens, but the space is not among them: taken as a model of words "
            "(fusion: token where it is not)"
        )
        return "word"

    return "token"


def reweighted(tables: SearchTables, before: BeamConfig, after: BeamConfig) -> SearchTables:
    """Return the tables of a config that differs from the one they were built for in weights, widths and prunings only.

    Raises:
        ConfigError: lexicon or fusion differ; those need tables of their own.
    """
    changed = [key for key in _FIXED if getattr(before, key) != getattr(after, key)]
    if changed:
        raise ConfigError(f"{changed[0]} cannot be changed in a decoder that is built; build another", key=changed[0])
    return _weighted(tables, after)


def _weighted(tables: SearchTables, config: BeamConfig) -> SearchTables:
    """Return the tables with the weights of a config."""
    with_lm = tables.fusion != NO_FUSION
    alpha = float(config.alpha)
    beta = float(config.beta) if with_lm else 0.0
    unknown = float(config.unknown_log_prob) if with_lm else 0.0

    look_n = np.zeros(len(tables.word_n))
    new_look = 0.0
    off_look_l = np.zeros(MOST_LETTERS + 1)
    if tables.fusion == WORD_FUSION:
        # Look-ahead: an open word will cost what the likeliest word that it may become costs without context.
        known_n, unknown_n = _weighed(tables.best_known_n, alpha), _weighed(tables.best_unknown_n, alpha)
        look_n = np.maximum(np.maximum(known_n, unknown_n + unknown) + beta, -_MOST_PRICE)
        new_look = max(alpha * tables.unk_log_prob + beta, -_MOST_PRICE)
        look_n[0] = 0.0  # no letter yet
        prices_l = unknown * np.maximum(1.0, np.arange(MOST_LETTERS + 1) / config.unknown_letters)
        off_look_l = np.maximum(alpha * tables.unk_log_prob + beta + prices_l, -_MOST_PRICE)
    if tables.closed:
        off_look_l = np.full(MOST_LETTERS + 1, -math.inf)

    return tables._replace(
        alpha=alpha,
        beta=beta,
        unknown=unknown,
        look_n=look_n,
        gain_n=np.exp(look_n),
        off_look_l=off_look_l,
        off_gain_l=np.exp(off_look_l),
        new_look=new_look,
        new_gain=float(np.exp(new_look)),
    )


def _weighed(log_probs_n: Floats, alpha: float) -> Floats:
    """Return log-probabilities times alpha; -inf, which is none at all, stays."""
    weighed_n: Floats = np.multiply(log_probs_n, alpha, out=log_probs_n.copy(), where=log_probs_n > -math.inf)
    return weighed_n


def _lm_tokens(pieces: Sequence[str], config: BeamConfig, lm: LanguageModel) -> Ints:
    """Return the language model's word for each token, -1 where it has none."""
    known = {word: i for i, word in enumerate(lm.words) if i != lm.unk_id}
    ids = [known.get(piece.replace(" ", config.space_symbol), -1) for piece in pieces]
    ids[BLANK_ID] = -1
    tokens = len(pieces) - 1
    missing = [piece for piece, i in zip(pieces[1:], ids[1:], strict=True) if i < 0]
    if missing and len(missing) == tokens:
        raise ConfigError(
            f"the language model knows none of the {tokens} tokens (first: {missing[0]!r}); "
            "is it a model of words? then set fusion: word",
            key="fusion",
        )

    if missing:
        logger.info("the language model does not know %d of %d tokens: %s", len(missing), tokens, missing[:10])
    return np.array(ids, np.int32)
