"""The kernels of the CTC loss on a GPU, in Triton (``asr.model.cuda.ctc`` says what they are for).

A probability is held as mantissa x 2^exponent: a float32 in [1, 2) (0 for what is impossible) and an int32. Sums and
products are then as exact far from the best path as on it, over any number of steps, and no step needs the maximum of
all states. Logarithms would lose a digit with each power of ten of their size.

A lane holds the two states at one place of the text: the blank before label i, and label i. A step takes from other
lanes only the label before, so one exchange between lanes is enough. The walk back from the end is the walk forward
over mirrored labels and steps. States past the end of a text compute what nobody reads: nothing flows back from them.

No sum runs across lanes, so results depend neither on the number of lanes nor on other utterances.

Axes: b batch, s steps, v vocabulary, u targets, i places (u + 1); k numbers that the host hands over, see ``FACTS``.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

#: numbers of an utterance before its labels: steps, labels
FACTS = tl.constexpr(2)
#: the exponent of an impossible state
LOW = tl.constexpr(-(2**29))
#: log-probabilities below it count as zero probability: 37,000 steps of it reach the exponent ``LOW``
LEAST = tl.constexpr(-10000.0)
INVERSE_LN_2 = tl.constexpr(1.4426950408889634)
#: ln 2 as a sum: the first part has few bits, so its product with an exponent is exact
LN_2_HIGH = tl.constexpr(0.693359375)
LN_2_LOW = tl.constexpr(-2.12194440e-4)
LN_2 = tl.constexpr(0.6931471805599453)
#: sizes that differ from batch to batch: Triton would compile a kernel anew for 1, and for multiples of 16
CHANGING = ["most_steps", "most_labels"]


@triton.jit
def _power_of_2(exponent):
    """Return 2^exponent in float32; it is at least 2^-126."""
    bits = (tl.maximum(exponent, -126) + 127) << 23
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _add(mantissa, exponent, other_mantissa, other_exponent):
    """Add two numbers. The mantissa of the sum is in [1, 4), or up to 6 where one of the two was a sum."""
    largest = tl.maximum(exponent, other_exponent)
    mantissa = mantissa * _power_of_2(exponent - largest)
    return mantissa + other_mantissa * _power_of_2(other_exponent - largest), largest


@triton.jit
def _times_exp(mantissa, exponent, log_prob):
    """Multiply by the exponential of a log-probability, and bring the mantissa back to [1, 2)."""
    # exp(x) = 2^n (1 + q), where q is the Taylor series of exp(r) - 1 at |r| <= ln(2) / 2 (the first term left out is
    # 2e-8 of q). Multiplied as m + m q, which keeps a log-probability of 1e-7 that 1 + q would round.
    powers = tl.floor(tl.maximum(log_prob, LEAST) * INVERSE_LN_2 + 0.5)
    r = (log_prob - powers * LN_2_HIGH) - powers * LN_2_LOW
    q = 1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040)))
    q = r * (1.0 + r * (0.5 + r * (1 / 6 + r * q)))
    q = tl.where(log_prob < LEAST, -1.0, q)
    mantissa = mantissa + mantissa * q

    # not a number stays one: a comparison with it is false
    possible = mantissa > 0.0
    bits = mantissa.to(tl.int32, bitcast=True)
    exponent = tl.where(possible, exponent + powers.to(tl.int32) + (bits >> 23) - 127, LOW)
    in_1_to_2 = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return tl.where(possible, in_1_to_2, mantissa), exponent


@triton.jit
def _of_lane_before(mantissa, exponent, lane):
    """Return each lane's left neighbour; nothing is possible before the first."""
    both = (exponent.to(tl.int64) << 32) | mantissa.to(tl.uint32, bitcast=True).to(tl.int64)
    both = tl.gather(both, tl.maximum(lane - 1, 0), 0)
    before = both.to(tl.int32).to(tl.float32, bitcast=True)
    return tl.where(lane > 0, before, 0.0), tl.where(lane > 0, (both >> 32).to(tl.int32), LOW)


@triton.jit
def _start(lane):
    """Return the states before the first step: nothing written, so the first blank."""
    blank = tl.where(lane == 0, 1.0, 0.0)
    blank_exponent = tl.where(lane == 0, 0, LOW)
    return blank, blank_exponent, blank * 0.0, tl.zeros_like(blank_exponent) + LOW


@triton.jit
def _advance(blank, blank_exponent, label, label_exponent, may_skip, lane):
    """Sum over the ways into each state, without the probability of the step. Source: Graves et al., equation 6."""
    before, before_exponent = _of_lane_before(label, label_exponent, lane)
    to_blank, to_blank_exponent = _add(blank, blank_exponent, before, before_exponent)
    # From the label before, past the blank, only to another label.
    other = tl.where(may_skip, to_blank, blank)
    other_exponent = tl.where(may_skip, to_blank_exponent, blank_exponent)
    to_label, to_label_exponent = _add(label, label_exponent, other, other_exponent)
    return to_blank, to_blank_exponent, to_label, to_label_exponent


@triton.jit(do_not_specialize=CHANGING)
def forward_kernel(
    log_probs_bsv,
    facts_bk,
    losses_b,
    exponents_b,
    mantissas_bs2i,
    exponents_bs2i,
    most_steps,
    vocabulary,
    most_labels,
    BLANK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Walk through one utterance, and write all states, the loss, and the exponent of the text's probability."""
    utterance = tl.program_id(0).to(tl.int64)
    facts_k = facts_bk + utterance * (FACTS + 3 * most_labels)
    steps = tl.load(facts_k)
    labels = tl.load(facts_k + 1)

    lane = tl.arange(0, LANES)
    is_label = lane < labels
    is_blank = lane <= labels
    ids = tl.load(facts_k + FACTS + lane, mask=is_label, other=BLANK)
    ids_before = tl.load(facts_k + FACTS + lane - 1, mask=is_label & (lane > 0), other=BLANK)
    may_skip = ids != ids_before

    row_v = log_probs_bsv + utterance * most_steps * vocabulary
    places = most_labels + 1
    at = utterance * most_steps * 2 * places + lane
    blank, blank_exponent, label, label_exponent = _start(lane)
    for _ in range(steps):
        blank_log_prob = tl.load(row_v + BLANK)
        log_prob = tl.load(row_v + ids, mask=is_label, other=0.0)

        blank, blank_exponent, label, label_exponent = _advance(
            blank, blank_exponent, label, label_exponent, may_skip, lane
        )
        blank, blank_exponent = _times_exp(blank, blank_exponent, blank_log_prob)
        label, label_exponent = _times_exp(label, label_exponent, log_prob)
        tl.store(mantissas_bs2i + at, blank, mask=is_blank)
        tl.store(exponents_bs2i + at, blank_exponent, mask=is_blank)
        tl.store(mantissas_bs2i + at + places, label, mask=is_label)
        tl.store(exponents_bs2i + at + places, label_exponent, mask=is_label)
        row_v += vocabulary
        at += 2 * places

    # The text ends with its last label or the blank after it. Each of these sums has one term that is not zero.
    last_blank = tl.sum(tl.where(lane == labels, blank, 0.0), 0)
    last_blank_exponent = tl.sum(tl.where(lane == labels, blank_exponent, 0), 0)
    last_label = tl.sum(tl.where(lane == labels - 1, label, 0.0), 0)
    last_label_exponent = tl.sum(tl.where(lane == labels - 1, label_exponent, 0), 0)
    last_label_exponent = tl.where(labels > 0, last_label_exponent, LOW)
    total, total_exponent = _add(last_blank, last_blank_exponent, last_label, last_label_exponent)
    log_total = tl.log(total.to(tl.float64)) + total_exponent.to(tl.float64) * LN_2
    tl.store(losses_b + utterance, (-log_total).to(tl.float32))
    tl.store(exponents_b + utterance, total_exponent)


@triton.jit(do_not_specialize=CHANGING)
def backward_kernel(
    log_probs_bsv,
    facts_bk,
    exponents_b,
    mantissas_bs2i,
    exponents_bs2i,
    most_steps,
    vocabulary,
    most_labels,
    BLANK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Walk back through one utterance, and write each state's share of the probability over its mantissa."""
    utterance = tl.program_id(0).to(tl.int64)
    facts_k = facts_bk + utterance * (FACTS + 3 * most_labels)
    steps = tl.load(facts_k)
    labels = tl.load(facts_k + 1)

    lane = tl.arange(0, LANES)
    is_label = lane < labels
    is_blank = lane <= labels
    ids = tl.load(facts_k + FACTS + labels - 1 - lane, mask=is_label, other=BLANK)
    ids_before = tl.load(facts_k + FACTS + labels - lane, mask=is_label & (lane > 0), other=BLANK)
    may_skip = ids != ids_before

    total_exponent = tl.load(exponents_b + utterance)

    row_v = log_probs_bsv + (utterance * most_steps + steps - 1) * vocabulary
    places = most_labels + 1
    at = (utterance * most_steps + steps - 1) * 2 * places + labels - lane
    blank, blank_exponent, label, label_exponent = _start(lane)
    for _ in range(steps):
        blank_log_prob = tl.load(row_v + BLANK)
        log_prob = tl.load(row_v + ids, mask=is_label, other=0.0)
        so_far = tl.load(mantissas_bs2i + at, mask=is_blank, other=0.0)
        so_far_exponent = tl.load(exponents_bs2i + at, mask=is_blank, other=LOW)
        so_far_label = tl.load(mantissas_bs2i + at + places - 1, mask=is_label, other=0.0)
        so_far_label_exponent = tl.load(exponents_bs2i + at + places - 1, mask=is_label, other=LOW)

        blank, blank_exponent, label, label_exponent = _advance(
            blank, blank_exponent, label, label_exponent, may_skip, lane
        )
        share = so_far * blank * _power_of_2(so_far_exponent + blank_exponent - total_exponent)
        tl.store(mantissas_bs2i + at, share, mask=is_blank)
        share = so_far_label * label * _power_of_2(so_far_label_exponent + label_exponent - total_exponent)
        tl.store(mantissas_bs2i + at + places - 1, share, mask=is_label)

        blank, blank_exponent = _times_exp(blank, blank_exponent, blank_log_prob)
        label, label_exponent = _times_exp(label, label_exponent, log_prob)
        row_v -= vocabulary
        at -= 2 * places


@triton.jit(do_not_specialize=CHANGING)
def collect_kernel(
    shares_bs2i,
    facts_bk,
    grad_losses_b,
    grads_bsv,
    most_steps,
    vocabulary,
    most_labels,
    BLANK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Add up the shares of each token, one lane a step, in the order of the tokens: equal ones follow one another."""
    utterance = tl.program_id(1).to(tl.int64)
    facts_k = facts_bk + utterance * (FACTS + 3 * most_labels)
    steps = tl.load(facts_k)
    labels = tl.load(facts_k + 1)
    sorted_u = facts_k + FACTS + most_labels
    order_u = sorted_u + most_labels
    grad_loss = tl.load(grad_losses_b + utterance)

    step = tl.program_id(0) * LANES + tl.arange(0, LANES)
    is_step = step < steps
    row = utterance * most_steps + step
    grads_v = grads_bsv + row * vocabulary
    places = most_labels + 1
    shares_i = shares_bs2i + row * 2 * places

    # Divided by their own sum, the shares of a step lose the rounding that they have in common, which is most of it.
    blank = tl.load(shares_i + labels, mask=is_step, other=0.0)
    total = tl.zeros_like(blank)
    for n in range(labels):
        blank += tl.load(shares_i + n, mask=is_step, other=0.0)
        total += tl.load(shares_i + places + n, mask=is_step, other=0.0)
    factor = -grad_loss / (total + blank)
    tl.store(grads_v + BLANK, blank * factor, mask=is_step)

    label = tl.zeros_like(blank)
    for n in range(labels):
        token = tl.load(sorted_u + n)
        label += tl.load(shares_i + places + tl.load(order_u + n), mask=is_step, other=0.0)

        is_last = tl.load(sorted_u + n + 1, mask=n + 1 < labels, other=BLANK) != token
        tl.store(grads_v + token, label * factor, mask=is_step & is_last)
        label = tl.where(is_last, 0.0, label)
