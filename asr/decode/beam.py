"""CTC prefix beam search in plain numpy: the definition that the compiled search is held against.

A prefix is a token sequence so far. Its mass is the probability of all paths that write it, kept in two parts: paths
that end in a blank, and paths that end in its last token. Each step every prefix stays (blank, or its last token
repeated) or grows by a token; what reaches the same prefix is added; the best prefixes are kept. The language model's
factor is part of the mass, so that one number ranks a prefix. A space after a space (or at the start) changes nothing:
texts differ by their words.

A batch of utterances is searched in lockstep, each through its own steps, as a numpy call costs much the same for the
prefixes of one utterance and of many. Steps in which only the blank is possible change every mass of an utterance by
the same factor: they are left out of the march. Nothing passes from one utterance to another. What is known of a prefix
but its mass is in ``asr.decode.prefixes``.

Axes: n utterances, s steps, v vocabulary, b prefixes in the beam, c candidates, k tokens possible in a step (those of
each utterance first, in order; then others, of probability 0, as many as the longest list needs).

Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", algorithm 1 (prefix beam search with a language model at word ends).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID
from asr.decode.prefixes import PrefixTree
from asr.decode.settings import BeamConfig
from asr.decode.tables import LEAST_SCALE, TOKEN_FUSION, Floats, SearchTables
from asr.decode.types import LogProbs, Span
from asr.decode.viterbi import allowed, spans_of

#: a text in the beam: its prefix, acoustic log-probability, score of everything else, and the prefix to align, which is
#: longer where an open word was left out
Final = tuple[int, float, float, int]

#: a prefix in the beam; an array of these is a beam
PREFIX = np.dtype(
    [
        ("node", np.int64),
        ("utterance", np.int64),
        ("blank", np.float64),  # mass of the paths that end in a blank
        ("token", np.float64),  # mass of the paths that end in the last token
    ]
)
Beam = npt.NDArray[np.void]
#: a mass is above zero when it is at least this
LEAST = float(np.nextafter(0.0, 1.0))


class NumpySearch:
    """A search over a batch: ``feed_all`` it steps, then ask for ``finals_of_all`` and their ``tokens_of``.

    As a search over one utterance (the default) it is also fed by ``feed`` and asked for its ``finals``.
    """

    def __init__(self, tables: SearchTables, config: BeamConfig, utterances: int = 1) -> None:
        self.tables = tables
        self.beam_width = config.beam_width
        floor, prune = config.min_token_log_prob, config.beam_prune_log_prob
        self.floor = -math.inf if floor is None else float(np.float32(floor))
        self.prune = 0.0 if prune is None else math.exp(prune)
        #: no letter multiplies a mass by more; a token with a score of its own may
        hope = math.inf if tables.fusion == TOKEN_FUSION else float(tables.look_n.max())
        self.most_growth = math.exp(hope)
        self.log_scale_n = np.zeros(utterances)  # natural log of what the masses were divided by in all
        self.scale_n = np.ones(utterances)  # the best mass, by which the next step divides
        self.tree = PrefixTree(tables, utterances)  # one for all; node n is the empty prefix of utterance n
        self.beam: Beam = np.array([(n, n, 1.0, 0.0) for n in range(utterances)], PREFIX)

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Searches on through more steps of the one utterance."""
        self.feed_all([log_probs_sv])

    def feed_all(self, log_probs: Sequence[LogProbs]) -> None:
        """Searches on through more steps of each utterance."""
        marches = [_march(log_probs_sv, self.floor) for log_probs_sv in log_probs]
        steps_n = np.array([len(step_s) for step_s, _, _, _ in marches])
        first_n = np.cumsum(steps_n) - steps_n
        # behind the last step: one without any token, for utterances that have no more
        probs_sv = np.concatenate([*(each_sv for _, each_sv, _, _ in marches), np.zeros((1, len(self.tables.opens_v)))])
        paused_s = np.concatenate([*(each_s[:-1] for _, _, each_s, _ in marches), [False]])
        self.log_scale_n += [log_prob for _, _, _, log_prob in marches]
        beam, ended = self.beam, []
        for step in range(int(steps_n.max(initial=0))):
            if (steps_n == step).any():
                ends_b = steps_n[beam["utterance"]] == step
                ended.append(beam[ends_b])
                beam = beam[~ends_b]
            at_n = np.where(step < steps_n, first_n + step, -1)
            _rest(beam, paused_s[at_n])
            grown = self._step(beam, probs_sv[at_n])
            lost_n = np.ones(len(log_probs), np.bool_)
            lost_n[grown["utterance"]] = False
            lost_b = lost_n[beam["utterance"]]
            if lost_b.any():  # a closed word list may forbid all that token pruning leaves: once more with all tokens
                every_nv = np.zeros((len(log_probs), probs_sv.shape[1]))
                for n in set(beam["utterance"][lost_b].tolist()):
                    every_nv[n] = _exp(log_probs[n][marches[n][0][step]])
                grown = np.concatenate([grown, self._step(beam[lost_b], every_nv)])
            beam = grown
        self.beam = np.concatenate([*ended, beam])
        _rest(self.beam, np.array([paused_s[-1] for _, _, paused_s, _ in marches]))

    def _step(self, beam: Beam, probs_nv: Floats) -> Beam:
        """The beam one step later, given the probabilities of all tokens. An utterance may have lost all prefixes."""
        nodes, delimiter = self.tree.nodes, self.tables.delimiter
        n_b, node_b, old_blank_b, old_token_b = (beam[x] for x in ("utterance", "node", "blank", "token"))
        last_b = nodes["last"][node_b]
        probs_nv = probs_nv * (1.0 / self.scale_n)[:, None]
        possible_nv = probs_nv[:, BLANK_ID + 1 :] > 0
        most = int(possible_nv.sum(axis=1).max())
        token_nk = np.argsort(~possible_nv, axis=1, kind="stable")[:, :most] + 1
        probs_nk = np.take_along_axis(probs_nv, token_nk, axis=1)
        total_b = old_blank_b + old_token_b
        at_space_b = (last_b == delimiter) & (last_b >= 0)
        p_last_b = np.where(last_b >= 0, probs_nv[n_b, last_b], 0.0)
        blank_b = total_b * probs_nv[n_b, BLANK_ID]
        token_b = np.where(at_space_b, total_b, old_token_b) * p_last_b
        mass_bk = total_b[:, None] * probs_nk[n_b]
        # the last token once more, as a new one, needs a blank between; a second space changes nothing
        again = np.flatnonzero(p_last_b > 0)
        place_nv = np.cumsum(possible_nv, axis=1) - 1  # of a token in its utterance's list
        place = place_nv[n_b[again], last_b[again] - 1]
        mass_bk[again, place] = np.where(at_space_b, 0.0, old_blank_b * p_last_b)[again]

        # a prefix that grows into one of the beam gives it its mass
        parent_row = self.tree.rows_of_parents(node_b)[again]
        inside = parent_row >= 0
        child, source = again[inside], (parent_row[inside], place[inside])
        token_b[child] += mass_bk[source] * nodes["growth"][node_b[child]]
        mass_bk[source] = 0.0

        # what a letter adds is not asked for prefixes that it cannot save
        mass_b = blank_b + token_b
        best_n = np.zeros(len(probs_nv))
        np.maximum.at(best_n, n_b, mass_b)
        hopeless_n = best_n * self.prune / self.most_growth
        least_nk = np.maximum(np.where(self.tables.opens_v[token_nk], 0.0, hopeless_n[:, None]), LEAST)
        row_c, column_c = np.nonzero(mass_bk >= least_nk[n_b])
        n_c = n_b[row_c]
        grown = self.tree.grow(node_b[row_c], token_nk[n_c, column_c])
        mass_c = mass_bk[row_c, column_c] * grown["growth"]
        np.maximum.at(best_n, n_c, mass_c)

        self.log_scale_n += np.log(np.where(best_n > 0, self.scale_n, 1.0))
        self.scale_n = np.where(best_n > 0, np.maximum(best_n, LEAST_SCALE), self.scale_n)
        least_n = np.maximum(best_n * self.prune, LEAST)
        kept = self._widest(np.concatenate([mass_b, mass_c]), np.concatenate([n_b, n_c]), least_n)
        stays = kept[: np.searchsorted(kept, len(beam))]
        grows = kept[len(stays) :] - len(beam)
        after = np.empty(len(kept), PREFIX)
        after["node"] = np.append(node_b[stays], self.tree.add(grown.take(grows)))
        after["utterance"] = np.append(n_b[stays], n_c[grows])
        after["blank"] = np.append(blank_b[stays], np.zeros(len(grows)))
        after["token"] = np.append(token_b[stays], mass_c[grows])
        return after

    def _widest(self, mass_c: Floats, n_c: npt.NDArray[np.int64], least_n: Floats) -> npt.NDArray[np.intp]:
        """The candidates that are kept, in order: at most ``beam_width`` of each utterance, ties to the earlier."""
        kept = np.flatnonzero(mass_c >= least_n[n_c])
        count_n = np.bincount(n_c[kept], minlength=len(least_n))
        if count_n.max() <= self.beam_width:
            return kept
        # a row for each utterance, filled up with 0 (int16: sorted by radix)
        kept = kept[np.argsort(n_c[kept].astype(np.int16), kind="stable")]
        place = n_c[kept], np.arange(len(kept)) - np.repeat(np.cumsum(count_n) - count_n, count_n)
        mass_nc = np.zeros((len(least_n), count_n.max()))
        mass_nc[place] = mass_c[kept]
        least_n1 = np.partition(mass_nc, -self.beam_width, axis=1)[:, [-self.beam_width]]
        better_nc, equal_nc = mass_nc > least_n1, mass_nc == least_n1
        room_n1 = self.beam_width - better_nc.sum(axis=1, keepdims=True)
        inside_nc = better_nc | equal_nc & (np.cumsum(equal_nc, axis=1) <= room_n1)
        return np.sort(kept[inside_nc[place]])

    def finals(self, limit: int | None) -> list[Final]:
        """The best texts in the beam of the one utterance, sentences ended; best first."""
        return self.finals_of_all(limit)[0]

    def finals_of_all(self, limit: int | None) -> list[list[Final]]:
        """The best texts in the beam, sentences ended; best first; of each utterance."""
        beam, prefix_b = self.beam, self.tree.nodes.take(self.beam["node"])
        acoustic_b = np.log(beam["blank"] + beam["token"]) + self.log_scale_n[beam["utterance"]]
        acoustic_b -= prefix_b["fusion"] + prefix_b["look"]
        node_b, fusion_b = self.tree.end(beam["node"])
        whole_b = node_b.copy()
        possible_n = np.zeros(len(self.scale_n), np.bool_)
        possible_n[beam["utterance"][fusion_b > -math.inf]] = True
        cut = np.flatnonzero(~possible_n[beam["utterance"]])
        if len(cut):  # no open word is a listed one: leave them out
            whole_b[cut] = beam["node"][cut]
            node_b[cut], fusion_b[cut] = self.tree.cut(whole_b[cut])
        found: list[dict[int, Final]] = [{} for _ in self.scale_n]
        columns = (each_b.tolist() for each_b in (beam["utterance"], node_b, acoustic_b, fusion_b, whole_b))
        for n, node, acoustic, fusion, whole in zip(*columns, strict=True):
            if fusion > -math.inf:
                if node in found[n]:  # with and without a space at the end: one text
                    acoustic, whole = float(np.logaddexp(found[n][node][1], acoustic)), found[n][node][3]
                found[n][node] = node, acoustic, fusion, whole
        return [sorted(texts.values(), key=lambda final: -(final[1] + final[2]))[:limit] for texts in found]

    def tokens_of(self, node: int) -> list[int]:
        """The tokens of a prefix, in order."""
        return self.tree.tokens_of(node)

    def spans_of(self, log_probs_sv: LogProbs, tokens: list[int]) -> tuple[Span, ...]:
        return spans_of(log_probs_sv, tokens, self.tables.delimiter, self.floor)

    def close(self) -> None:
        """Nothing to give back."""


def _march(log_probs_sv: LogProbs, floor: float) -> tuple[npt.NDArray[np.intp], Floats, npt.NDArray[np.bool_], float]:
    """An utterance without the steps in which only the blank is possible.

    Which steps are left; the probabilities of the tokens that are possible there; for each of them, and for the end,
    whether steps were left out just before; and the log-probability of these in all.
    """
    allowed_sv = allowed(log_probs_sv, floor)
    only_blank_s = ~allowed_sv[:, BLANK_ID + 1 :].any(axis=1)
    step_s = np.flatnonzero(~only_blank_s)
    paused_s = np.diff(step_s, prepend=-1, append=len(log_probs_sv)) > 1
    probs_sv = np.zeros((len(step_s), log_probs_sv.shape[1]))
    log_probs = log_probs_sv[step_s]
    chosen = allowed_sv[step_s] & (log_probs > -np.inf)
    probs_sv[chosen] = _exp(log_probs[chosen])
    return step_s, probs_sv, paused_s, float(log_probs_sv[only_blank_s, BLANK_ID].sum(dtype=np.float64))


def _exp(log_probs: LogProbs) -> list[float]:
    """By ``math.exp``, which compiled code calls too: numpy's differs in the last bit, and then ties are not ties."""
    return list(map(math.exp, log_probs.tolist()))


def _rest(beam: Beam, paused_n: npt.NDArray[np.bool_]) -> None:
    """Every path in some utterances has ended in a blank."""
    paused_b = paused_n[beam["utterance"]]
    beam["blank"] += np.where(paused_b, beam["token"], 0.0)
    beam["token"][paused_b] = 0.0
