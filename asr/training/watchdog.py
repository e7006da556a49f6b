"""Tell whether a model that emits almost nothing is in its usual early phase, or broken.

A CTC model first learns that blank is likely everywhere, and for a while emits almost nothing: the plateau. A model
that will never learn looks the same. The difference is how long it lasts, and in the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.data.tokenizer import BLANK_ID
from asr.decode.types import LogProbs

#: with fewer emitted tokens per reference token than this, the output counts as blank
_NEARLY_NOTHING = 0.1
#: steps after which a plateau is no longer usual; AN4's runs leave it within 200, larger corpora take longer
_PLATEAU_STEPS = 2000


@dataclass(frozen=True)
class Health:
    """The blanks of a validation.

    ``blank_fraction``: share of steps whose most probable token is blank; ``emitted_ratio``: tokens emitted per
    reference token; ``steps_per_token``: output steps per reference token.
    """

    blank_fraction: float
    emitted_ratio: float
    steps_per_token: float


@dataclass
class Tally:
    """Counts of utterances, from which ``Health`` is computed."""

    steps: int = 0
    blanks: int = 0
    emitted: int = 0
    reference: int = 0

    def add(self, log_probs_sv: LogProbs, num_emitted: int, num_reference: int) -> None:
        """Count one utterance: its steps, the tokens it emitted, the tokens of its text."""
        self.steps += len(log_probs_sv)
        self.blanks += int((log_probs_sv.argmax(axis=1) == BLANK_ID).sum())
        self.emitted += num_emitted
        self.reference += num_reference

    def health(self) -> Health:
        """Return the measures of all utterances counted."""
        tokens = max(1, self.reference)
        return Health(self.blanks / max(1, self.steps), self.emitted / tokens, self.steps / tokens)


def cases_differ(train_texts: Iterable[str], dev_texts: Iterable[str]) -> bool:
    """Check whether most letters of the dev text occur in the training text mainly in the other case."""
    train = Counter("".join(train_texts))
    dev = Counter("".join(dev_texts))
    letters = {c: n for c, n in dev.items() if c.swapcase() != c}
    lost = sum(n for c, n in letters.items() if train[c.swapcase()] > 10 * train[c])
    return 2 * lost > sum(letters.values())


def diagnosis(
    now: Health,
    *,
    step: int,
    total_steps: int,
    lr: float,
    losses_nats: Sequence[float],
    frozen_steps: int = 0,
    lost_case: bool = False,
) -> str | None:
    """Return a line with the likely reason if the output is almost all blank, else None.

    Args:
        frozen_steps: how many steps a part is frozen that is trained later.
        losses_nats: mean training loss of each epoch so far.
        lost_case: the result of ``cases_differ`` for the texts.
    """
    if now.emitted_ratio >= _NEARLY_NOTHING:
        return None

    seen = f"{now.blank_fraction:.0%} of steps are blank, {now.emitted_ratio:.2f} tokens emitted for each in the text"

    if lost_case:
        return f"{seen}: likely a mistake: dev and training text differ in case; set text.normalization"

    if now.steps_per_token < 1.2:
        return (
            f"{seen}: likely a mistake: only {now.steps_per_token:.1f} output steps per token; "
            "lower the time strides in model (conv, tdnn, mlp), or use subwords"
        )

    if len(losses_nats) >= 3 and losses_nats[-1] > 1.5 * min(losses_nats):
        return (
            f"{seen}: likely a mistake: the loss rose from {min(losses_nats):.1f} to {losses_nats[-1]:.1f} nats; "
            f"lower optim.lr (now {lr:.1e}) or lengthen optim.warmup_fraction"
        )

    if step < frozen_steps:
        return f"{seen}: not all of the network is trained before step {frozen_steps:,} (train.freeze)"
    if step - frozen_steps < min(_PLATEAU_STEPS, max(200, total_steps // 3)):
        return f"{seen}: the usual early plateau (step {step:,}); it ends by itself"
    return (
        f"{seen}: still so after {step:,} steps, likely a mistake: check that the transcripts belong to the audio "
        f"('asr evaluate MODEL MANIFEST --hypotheses FILE'), then try another optim.lr (now {lr:.1e})"
    )
