"""Back-off n-gram models by definition: dictionaries of word tuples, one look-up at a time, for tiny models.

Source: Chen & Goodman 1998, TR-10-98, section 4.1.6 and equation 26 (interpolated modified Kneser-Ney); the treatment
of <s>, <unk> and pruning as Heafield et al. 2013 describe lmplz.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

Ngram = tuple[str, ...]
#: n-gram -> log10 probability, log10 back-off weight
Model = dict[Ngram, tuple[float, float]]


def read(arpa: str) -> Model:
    """The n-grams of an ARPA text."""
    model: Model = {}
    order = 0
    for line in arpa.splitlines():
        if line.endswith("-grams:"):
            order = int(line[1:-7])
        elif order and line and not line.startswith("\\"):
            fields = line.split()
            backoff = float(fields[1 + order]) if len(fields) > 1 + order else 0.0
            model[tuple(fields[1 : 1 + order])] = (float(fields[0]), backoff)
    return model


def log10_prob(model: Model, history: Ngram, word: str) -> float:
    """log10 p(word | history), by the recursion that defines back-off."""
    if (*history, word) in model:
        return model[(*history, word)][0]
    if not history:
        return model.get(("<unk>",), (-100.0, 0.0))[0]
    return model.get(history, (0.0, 0.0))[1] + log10_prob(model, history[1:], word)


def score_words(model: Model, words: Sequence[str], bos: bool = True, eos: bool = True) -> list[float]:
    """log10 p of each word of a sentence; words that are no unigrams are <unk>."""
    order = max(map(len, model))
    known = [w if (w,) in model else "<unk>" for w in words] + ["</s>"] * eos
    before: Ngram = ("<s>",) if bos else ()
    scores = []
    for word in known:
        history = before[max(0, len(before) - order + 1) :]
        scores.append(log10_prob(model, history, word))
        before = (*before, word)
    return scores


def kneser_ney(
    sentences: Iterable[Sequence[str]],
    order: int,
    fallback: tuple[float, float, float] = (0.5, 1.0, 1.5),
    prune: Sequence[int] = (0,),
    vocab: Collection[str] | None = None,
) -> Model:
    """The interpolated modified Kneser-Ney model of a text."""
    raw: Counter[Ngram] = Counter()
    windows: list[Ngram] = []
    for sentence in sentences:
        padded = ("<s>", *sentence, "</s>")
        for n in range(1, order + 1):
            raw.update(padded[i : i + n] for i in range(len(padded) - n + 1))
        padded = ("<s>",) * (order - 2) + padded
        windows += [padded[i : i + order] for i in range(len(padded) - order + 1)]
    counts: Counter[Ngram] = Counter()
    for ngram, count in raw.items():
        if len(ngram) == order or ngram[0] == "<s>":
            counts[ngram] = count
        if len(ngram) > 1:
            counts[ngram[1:]] += 1 if len(ngram) - 1 < order and ngram[1] != "<s>" else 0
    counts[("<s>",)] = 0
    counts[("<unk>",)] = 0
    special = {("<s>",), ("</s>",), ("<unk>",)}
    thresholds = [*prune, *[prune[-1]] * order]
    kept = {
        g
        for g in counts
        if g in special
        or (raw[g] > thresholds[len(g) - 1] and (vocab is None or all(w in vocab or (w,) in special for w in g)))
    }
    # lmplz's slip: the last n-gram of each lower order, sorted by the last word, then the one before it and so on,
    # enters the discounts with its occurrences.
    first_seen = {w: i for i, w in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *(g[0] for g in raw)]))}
    last = max(windows, key=lambda g: [first_seen[w] for w in g[::-1]])
    entered = counts | {last[-n:]: raw[last[-n:]] for n in range(1, order) if last[-n:] in raw}
    discount = [discounts([c for g, c in entered.items() if len(g) == n], fallback) for n in range(1, order + 1)]
    followers: dict[Ngram, list[Ngram]] = defaultdict(list)
    for ngram in counts:
        followers[ngram[:-1]].append(ngram)

    def given_up(context: Ngram) -> float:
        lost = [discount[len(context)][min(counts[g], 3)] if g in kept else counts[g] for g in followers[context]]
        return sum(lost) / sum(counts[g] for g in followers[context])

    num_words = sum(len(g) == 1 for g in kept) - 1

    def prob(ngram: Ngram) -> float:
        if not ngram:
            return 1 / num_words
        total = sum(counts[g] for g in followers[ngram[:-1]])
        own = (counts[ngram] - discount[len(ngram) - 1][min(counts[ngram], 3)]) / total
        return own + given_up(ngram[:-1]) * prob(ngram[1:])

    return {
        g: (
            0.0 if g == ("<s>",) else min(0.0, math.log10(prob(g))),
            math.log10(max(given_up(g), 1e-99)) if followers[g] else 0.0,
        )
        for g in kept
    }


def discounts(counts: Sequence[int], fallback: Sequence[float]) -> list[float]:
    """What modified Kneser-Ney takes from the counts 0, 1, 2, and 3 or more."""
    n = [sum(c == k for c in counts) for k in range(5)]
    if n[1] and n[2] and n[3]:
        y = n[1] / (n[1] + 2 * n[2])
        found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        if all(0 <= d <= k for k, d in enumerate(found, start=1)):
            return [0.0, *found]
    return [0.0, *fallback]


def mix(models: Sequence[Model], weights: Sequence[float]) -> Model:
    """The interpolated model: the n-grams of all, each with the weighted sum of its probabilities, and the back-off
    weights with which every context sums to one. A word that a model does not know has probability 0 in it."""

    def prob(ngram: Ngram) -> float:
        total = 0.0
        for model, weight in zip(models, weights, strict=True):
            if ngram[-1:] in model:
                history = tuple(w if (w,) in model else "<unk>" for w in ngram[:-1])
                total += weight * 10 ** log10_prob(model, history, ngram[-1])
        return total

    grams = sorted({gram for model in models for gram in model}, key=len)
    followers: dict[Ngram, list[str]] = defaultdict(list)
    for gram in grams:
        followers[gram[:-1]].append(gram[-1])
    mixed: Model = {}
    for gram in grams:
        mixed[gram] = (math.log10(min(1.0, prob(gram))), 0.0)
    for context in [gram for gram in grams if gram in followers]:  # shorter ones first
        left = 1.0 - sum(10 ** mixed[(*context, w)][0] for w in followers[context])
        below = 1.0 - sum(10 ** log10_prob(mixed, context[1:], w) for w in followers[context])
        mixed[context] = (mixed[context][0], math.log10(left / below))
    return mixed


def entropy_prune(model: Model, threshold: float) -> Model:
    """The model without the n-grams whose removal makes perplexity grow by less than the threshold.

    Source: Stolcke 1998, section 3, equations 3 to 5, one n-gram at a time, from the highest order down.
    """

    def history_prob(words: Ngram) -> float:
        total = 1.0
        for i in range(len(words)):
            if words[: i + 1] == ("<s>",):
                total *= 10 ** model[("</s>",)][0]  # as probable as the end, as in SRILM
            else:
                total *= 10 ** log10_prob(model, words[:i], words[i])
        return total

    kept = dict(model)
    followers: dict[Ngram, list[str]] = defaultdict(list)
    for gram in model:
        followers[gram[:-1]].append(gram[-1])
    for order in range(max(map(len, model)), 1, -1):
        for gram in [gram for gram in model if len(gram) == order]:
            if any(other[:-1] == gram for other in kept):
                continue
            context, word = gram[:-1], gram[-1]
            others = [w for w in followers[context] if w != word]
            # the weight of the context with and without this n-gram
            left = 1 - sum(10 ** model[(*context, w)][0] for w in followers[context])
            new = 1 - sum(10 ** model[(*context, w)][0] for w in others)
            new /= 1 - sum(10 ** log10_prob(model, context[1:], w) for w in others)
            prob = 10 ** model[gram][0]
            new_prob = new * 10 ** log10_prob(model, context[1:], word)
            change = prob * math.log(new_prob / prob)
            change += left * (math.log(new) - math.log(10) * model.get(context, (0.0, 0.0))[1])
            if math.expm1(-history_prob(context) * change) < threshold:
                del kept[gram]
    longest_first = sorted(kept, key=len)
    pruned = {gram: (kept[gram][0], 0.0) for gram in longest_first}
    followers.clear()
    for gram in kept:
        followers[gram[:-1]].append(gram[-1])
    for context in [gram for gram in longest_first if gram in followers]:
        left = 1 - sum(10 ** pruned[(*context, w)][0] for w in followers[context])
        below = 1 - sum(10 ** log10_prob(pruned, context[1:], w) for w in followers[context])
        pruned[context] = (pruned[context][0], math.log10(left / below))
    return pruned
