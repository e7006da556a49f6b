"""Masks over steps and channels in training, as spans of one length that may overlap.

Axes: b batch, p places (steps or channels).
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_spans(num_places_b: Tensor, places: int, probability: float, length: int, least: int = 0) -> Tensor:
    """Draw from torch's generator which places are masked. Shapes: (b,) on the CPU -> (b, p) bool.

    Args:
        num_places_b: places of each utterance; those behind are never masked.
        places: of the longest one.
        probability: share of places at which a span begins. As spans overlap, less than ``probability * length`` of
            the places is masked.
        least: spans of each utterance, if it has the places.

    Source: Baevski et al. 2020, "wav2vec 2.0", section 4.2 and appendix B; fairseq, ``compute_mask_indices``, whose
    ``mask_prob`` (``mask_time_prob`` in ``transformers``) is ``probability * length``.
    """
    masked_bp = torch.zeros(len(num_places_b), places, dtype=torch.bool)
    for masked_p, own in zip(masked_bp, num_places_b.tolist(), strict=True):
        # A share of a span is one span more with that probability.
        spans = max(int(probability * own + float(torch.rand(()))), least)
        spans = min(spans, own // length)
        if spans > 0:
            starts = torch.randperm(own - length + 1)[:spans]
            masked_p[(starts[:, None] + torch.arange(length)).flatten()] = True
    return masked_bp
