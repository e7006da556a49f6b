"""A feed-forward network over a window of frames, as hybrid recognisers had it, with CTC on top.

Source: Morgan & Bourlard 1990, "Continuous speech recognition using multilayer perceptrons with hidden Markov models";
Hinton et al. 2012, "Deep neural networks for acoustic modeling in speech recognition" (depth).
"""

from __future__ import annotations

from collections.abc import Iterator

from asr.model.tdnn import WindowNetwork


class WindowMlp(WindowNetwork):
    """``model.encoder: mlp``. The first layer sees a window of frames, the others one step each."""

    def windows(self) -> Iterator[dict[str, int]]:
        """Yield ``kernel`` and ``stride`` of the first layer; the others have neither."""
        mlp = self.cfg.mlp
        yield {"kernel": 2 * mlp.context + 1, "stride": mlp.stride}
        for _ in range(self.cfg.layers - 1):
            yield {}
