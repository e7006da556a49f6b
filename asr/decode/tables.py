"""What both beam searches look up: how tokens spell words, the letter trie of the listed words, and the scores.

Axes: v vocabulary, l letters of a token, w words of a list, n nodes of the letter trie, e its edges.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.decode.settings import BeamConfig
from asr.errors import ConfigError
from asr.lm.model import no_ngrams

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

NO_FUSION, WORD_FUSION, TOKEN_FUSION = 0, 1, 2
#: by no less are masses divided: one over a number below 1e-308 is infinite
LEAST_SCALE = 1e-290


class LanguageModel(Protocol):
    """What the search needs of an n-gram model (``asr.lm.model.NgramModel``)."""

    @property
    def words(self) -> Sequence[str]: ...
    @property
    def arrays(self) -> Any: ...
    @property
    def begin_state(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...


class SearchTables(NamedTuple):
    """Everything a search looks up, as arrays and numbers that numba takes as they are."""

    #: the token that writes only a space; -1: there is none
    delimiter: int
    #: whether a token ends the open word before it writes its letters
    opens_v: npt.NDArray[np.bool_]
    #: the letters a token writes, as letter ids, -1 behind the last; and how many
    letters_vl: Ints
    num_letters_v: Ints
    #: whether letters are followed in the trie at all: there is a list of words
    listed: bool
    #: whether only listed words may come out
    closed: bool
    #: the letter trie, breadth first: edge e leads to node e + 1, with the ascending key node * num_letters + letter;
    #: a node's edges are first_edge[node] to first_edge[node + 1]
    num_letters: int
    edge_keys_e: npt.NDArray[np.int64]
    edge_letters_e: Ints
    first_edge_n: Ints
    #: the letters of a node's edges as bits; empty when there are more than 64 letters
    edge_mask_n: npt.NDArray[np.uint64]
    #: -1: no listed word ends here; -2: one that the language model does not know; else its id there
    word_n: Ints
    #: whether a word that ends here is known, and what it gains as a hotword
    known_n: npt.NDArray[np.bool_]
    bonus_n: Floats
    #: what an open word is worth while it may still become a hotword
    look_n: Floats
    #: what an open word that no listed word begins with is worth, by letters: off x max(1, letters / unknown_letters)
    off: float
    #: the language model and its weights
    fusion: int
    alpha: float
    beta: float
    unknown: float
    unknown_letters: float
    begin_state: int
    end_id: int
    unk_id: int
    lm_token_v: Ints
    lm: Any


def pieces_of(tokenizer: Tokenizer) -> list[str]:
    """What each token writes, by id; a space stands only at the start. The blank writes nothing.

    Raises:
        ConfigError: a token writes a space after a letter, or two tokens write only a space.
    """
    pieces = ["", *(symbol.replace(WORD_START, " ") for symbol in tokenizer.symbols)]
    inner = [p for p in pieces if " " in p[1:]]
    if inner:
        raise ConfigError(f"tokenizer: a token may have a space only at its start, got {inner[0]!r}")
    if pieces.count(" ") > 1:
        raise ConfigError(f"tokenizer: more than one token is a space ({' '!r} and {WORD_START!r})")
    return pieces


def build_tables(tokenizer: Tokenizer, config: BeamConfig, lm: LanguageModel | None) -> SearchTables:
    """The tables of a search.

    Raises:
        ConfigError: a hotword or every listed word has letters that the tokenizer cannot write, or two lists disagree.
    """
    pieces = pieces_of(tokenizer)
    letters = sorted(set("".join(pieces)) - {" "})
    place = {letter: i for i, letter in enumerate(letters)}
    spelled = [[place[c] for c in piece.replace(" ", "")] for piece in pieces]
    longest = max(len(s) for s in spelled)
    letters_vl = np.full((len(pieces), max(longest, 1)), -1, np.int32)
    for token, ids in enumerate(spelled):
        letters_vl[token, : len(ids)] = ids
    by_word = fusion_of(tokenizer, config, lm) == "word"
    fusion = NO_FUSION if lm is None else WORD_FUSION if by_word else TOKEN_FUSION
    if fusion == WORD_FUSION and not any(" " in piece for piece in pieces):
        logger.info(
            "the model writes no spaces: each of its texts is one word to the language model; for a language without "
            "spaces take a model of tokens (asr lm train TEXT --tokenizer MODEL --out LM)"
        )
    trie = _trie(letters, config, lm if fusion == WORD_FUSION else None)
    return SearchTables(
        delimiter=pieces.index(" ") if " " in pieces else -1,
        opens_v=np.array([p.startswith(" ") for p in pieces]),
        letters_vl=letters_vl,
        num_letters_v=np.array([len(s) for s in spelled], np.int32),
        listed=fusion == WORD_FUSION or bool(config.hotwords) or config.lexicon is not None,
        closed=config.lexicon is not None,
        num_letters=max(len(letters), 1),
        **trie,
        off=-math.inf if config.lexicon is not None else config.unknown_log_prob if fusion == WORD_FUSION else 0.0,
        fusion=fusion,
        alpha=float(config.alpha),
        beta=float(config.beta) if lm is not None else 0.0,
        unknown=float(config.unknown_log_prob) if lm is not None else 0.0,
        unknown_letters=float(config.unknown_letters),
        begin_state=int(lm.begin_state) if lm is not None else 0,
        end_id=int(lm.end_id) if lm is not None else 0,
        unk_id=int(lm.unk_id) if lm is not None else 0,
        lm_token_v=_lm_tokens(pieces, config, lm) if fusion == TOKEN_FUSION and lm else np.zeros(len(pieces), np.int32),
        lm=lm.arrays if lm is not None else no_ngrams(),
    )


def fusion_of(tokenizer: Tokenizer, config: BeamConfig, lm: LanguageModel | None) -> Literal["word", "token"]:
    """What the language model's words are. Where the config leaves it open: tokens, if all of them are some, with the
    space among them where the tokenizer has one; else words."""
    if config.fusion != "auto":
        return config.fusion
    tokens = {piece.replace(" ", config.space_symbol) for piece in pieces_of(tokenizer)[1:]}
    if lm is None or len(lm.words) > len(tokens) + 4:  # <unk>, <s>, </s>, <UNK>
        return "word"
    words = set(lm.words) - {"<s>", "</s>", "<unk>", "<UNK>"}
    spaced = {token for token in tokens if token.startswith(config.space_symbol)}
    if not words or not words <= tokens:
        return "word"
    if spaced and not words & spaced:
        logger.info(
            "all words of the language model are tokens, but the space is not among them: taken as a model of words "
            "(fusion: token where it is not)"
        )
        return "word"
    return "token"


def reweighted(tables: SearchTables, before: BeamConfig, after: BeamConfig) -> SearchTables:
    """The tables of a config that differs from the one they were built for in weights, widths and prunings only.

    Raises:
        ConfigError: words, hotwords or fusion differ; those need tables of their own.
    """
    fixed = ("hotwords", "lexicon", "fusion", "space_symbol")
    changed = [key for key in fixed if getattr(before, key) != getattr(after, key)]
    if changed:
        raise ConfigError(f"{changed[0]} cannot be changed in a decoder that is built; build another", key=changed[0])
    with_lm, by_word = tables.fusion != NO_FUSION, tables.fusion == WORD_FUSION
    return tables._replace(
        off=-math.inf if tables.closed else after.unknown_log_prob if by_word else 0.0,
        alpha=float(after.alpha),
        beta=float(after.beta) if with_lm else 0.0,
        unknown=float(after.unknown_log_prob) if with_lm else 0.0,
        unknown_letters=float(after.unknown_letters),
    )


def _lm_tokens(pieces: Sequence[str], config: BeamConfig, lm: LanguageModel) -> Ints:
    """The language model's word for each token, -1 where it has none."""
    known = {word: i for i, word in enumerate(lm.words)}
    ids = [known.get(piece.replace(" ", config.space_symbol), -1) for piece in pieces]
    ids[BLANK_ID] = -1
    ids = [-1 if i == lm.unk_id else i for i in ids]
    missing = [p for p, i in zip(pieces[1:], ids[1:], strict=True) if i < 0]
    if len(missing) == len(pieces) - 1 and missing:
        raise ConfigError(
            f"the language model knows none of the {len(missing)} tokens (first: {missing[0]!r}); "
            "is it a model of words? then set fusion: word",
            key="fusion",
        )
    if missing:
        logger.info("the language model does not know %d of %d tokens: %s", len(missing), len(pieces) - 1, missing[:10])
    return np.array(ids, np.int32)


def _trie(letters: Sequence[str], config: BeamConfig, lm: LanguageModel | None) -> dict[str, Any]:
    """The letter trie of the lexicon, or else of the language model's words and the hotwords."""
    special = {"<s>", "</s>", "<unk>", "<UNK>"}
    lm_ids = {w: i for i, w in enumerate(lm.words) if w not in special and i != lm.unk_id} if lm is not None else {}
    for word in config.hotwords:
        unknown = sorted(set(word) - set(letters))
        if unknown:
            raise ConfigError(f"hotword {word!r}: the tokenizer cannot write {unknown[0]!r}", key="hotwords")
    if config.lexicon is not None:
        words, source = list(dict.fromkeys(config.lexicon)), "lexicon"
    else:
        words, source = list(dict.fromkeys([*lm_ids, *config.hotwords])), "language model"
    node_w, edge_keys, num_nodes = _build_trie(words, letters)
    lost = int((node_w < 0).sum())
    if lost and lost == len(words):
        raise ConfigError(
            f"the tokenizer can write none of the {len(words)} words of the {source} (first: {words[0]!r}); "
            f"it writes {''.join(letters)!r}: is the case right?"
        )
    if lost:
        logger.info("kept %d of %d words of the %s (%d have letters that the tokenizer cannot write)",
                    len(words) - lost, len(words), source, lost)  # fmt: skip
    word_n = np.full(num_nodes, -1, np.int32)
    known_n = np.zeros(num_nodes, np.bool_)
    written = np.flatnonzero(node_w >= 0)
    ids_w = np.array([lm_ids.get(w, -2) for w in words], np.int32)
    word_n[node_w[written]] = ids_w[written]
    num_letters = max(len(letters), 1)
    hot = {int(node_w[i]): config.hotwords[word] for i, word in enumerate(words) if word in config.hotwords}
    known_n[node_w[written]] = (ids_w[written] >= 0) | (lm is None)
    known_n[list(hot)] = True
    bonus_n, look_n = _hotwords(hot, edge_keys, num_letters, num_nodes)
    first_edge_n = np.searchsorted(edge_keys, np.arange(num_nodes + 1) * num_letters).astype(np.int32)
    edge_mask_n = np.zeros(num_nodes if num_letters <= 64 else 0, np.uint64)
    if len(edge_mask_n):
        bits_e = np.left_shift(np.uint64(1), (edge_keys % num_letters).astype(np.uint64))
        np.bitwise_or.at(edge_mask_n, edge_keys // num_letters, bits_e)
    return {
        "edge_keys_e": edge_keys,
        "edge_letters_e": (edge_keys % num_letters).astype(np.int32),
        "first_edge_n": first_edge_n,
        "edge_mask_n": edge_mask_n,
        "word_n": word_n,
        "known_n": known_n,
        "bonus_n": bonus_n,
        "look_n": look_n,
    }


def _build_trie(
    words: Sequence[str], letters: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The node of each word (-1: it has other letters), the edges' keys, the number of nodes. Node 0 is the root.

    >>> nodes, keys, count = _build_trie(["b", "ab", "c"], "ab")
    >>> nodes.tolist(), keys.tolist(), count
    ([2, 3, -1], [0, 1, 3], 4)
    """
    codes = np.frombuffer("\n".join([*words, ""]).encode("utf-32-le"), np.uint32)
    alphabet = np.array([ord(c) for c in letters] or [0], np.uint32)
    ids = np.minimum(np.searchsorted(alphabet, codes), len(alphabet) - 1)
    ends_w = np.flatnonzero(codes == ord("\n"))
    starts_w = np.append(0, ends_w[:-1] + 1)[: len(ends_w)]
    foreign = np.append(0, np.cumsum((alphabet[ids] != codes) & (codes != ord("\n"))))
    usable = (foreign[ends_w] == foreign[starts_w]) if len(words) else np.zeros(0, np.bool_)
    lengths_w = np.where(usable, ends_w - starts_w, 0)
    node_w = np.zeros(len(words), np.int64)
    keys, num_nodes = [np.zeros(0, np.int64)], 1
    for level in range(int(lengths_w.max(initial=0))):
        active = np.flatnonzero(lengths_w > level)
        key = node_w[active] * len(alphabet) + ids[starts_w[active] + level]
        distinct, inverse = np.unique(key, return_inverse=True)
        node_w[active] = num_nodes + inverse
        keys.append(distinct)
        num_nodes += len(distinct)
    node_w[~usable] = -1
    return node_w, np.concatenate(keys), num_nodes


def _hotwords(
    hot: Mapping[int, float], edge_keys: npt.NDArray[np.int64], num_letters: int, num_nodes: int
) -> tuple[Floats, Floats]:
    """What a word that ends at a node gains, and what an open word at a node may still hope for.

    An open word gets its share of letters of the best hotword that it begins, so that a hotword is not pruned before it
    is complete; the share is taken back when the word turns out to be another.
    """
    bonus_n, look_n = np.zeros(num_nodes), np.zeros(num_nodes)
    for end, weight in hot.items():
        bonus_n[end] = weight
        path = [end]
        while (parent := int(edge_keys[path[-1] - 1]) // num_letters) > 0:
            path.append(parent)
        for missing, node in enumerate(path):
            look_n[node] = max(look_n[node], weight * (len(path) - missing) / len(path))
    return bonus_n, look_n
