"""Fine-tuning on real speech goes down step by step as in ``transformers``: 40 utterances of AN4, a tiny network.

``transformers`` computed the stored losses; the slow test computes them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.batch import Batch
from asr.data import manifest as manifests
from asr.model.hf.export import export_model
from asr.training.step import Learner
from asr.training.trial import build_trial
from tests.test_export import saved
from tests.test_finetune import config
from tests.test_real_an4 import an4  # noqa: F401  # the fixture

STORED = Path(__file__).parent / "data" / "hf" / "finetune_an4.json"
STEPS, LR = 20, 0.003
PLAIN = (
    "model.wav2vec2.mask_time_probability=0",
    "model.wav2vec2.mask_channel_probability=0",
    "model.wav2vec2.activation_dropout=0",
    "model.wav2vec2.layer_drop=0",
    "text.normalization=lower",
    "text.tokenizer=init",
    "batch.max_utterances=8",
    "batch.max_batch_s=60",
)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A folder of the hub, the head of which has the tokens and the blank alone."""
    folder = tmp_path_factory.mktemp("start")
    export_model(saved("large", folder / "model", *PLAIN), folder / "hub")
    return folder / "hub"


@pytest.fixture(scope="module")
def learner(an4, start) -> Learner:  # noqa: F811
    """What trains our network on the first 40 utterances."""
    rows = [
        manifests.Utterance(u.id, str(an4 / u.audio_path), u.duration_s, u.text, u.speaker)
        for u in islice(manifests.read(an4 / "train.jsonl"), 40)
    ]
    manifests.write(an4 / "forty" / "train.jsonl", rows)
    return build_trial(config(f"hf:{start}", *PLAIN), an4 / "forty")


@pytest.fixture(scope="module")
def batches(learner) -> list[Batch]:
    """The batches of the first steps."""
    return list(islice(each_epoch(learner), STEPS))


def each_epoch(learner: Learner) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    for epoch in range(1, 100):
        with closing(learner.data.batches(learner.data.plan(epoch))) as batches:
            yield from batches


def test_the_loss_goes_down_as_in_transformers(learner, batches):
    losses = [learner.step([batch], number, LR).result().loss_nats for number, batch in enumerate(batches)]
    np.testing.assert_allclose(losses, json.loads(STORED.read_text()), rtol=1e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_the_stored_losses_are_those_of_transformers(start, batches):
    np.testing.assert_allclose(losses_of_transformers(start, batches), json.loads(STORED.read_text()), rtol=1e-4)


def losses_of_transformers(folder: Path, batches: list[Batch]) -> list[float]:
    """Train with transformers' own network and loss and torch's AdamW; the mean loss of an utterance in each step."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCTC.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), LR, (0.9, 0.98), weight_decay=0)
    losses = []
    for batch in batches:
        waves_bn = batch.features_btf[:, :, 0]
        inside_bn = torch.arange(waves_bn.shape[1]) < batch.num_frames_b[:, None]
        inside_bu = torch.arange(batch.targets_bu.shape[1]) < batch.num_targets_b[:, None]
        labels_bu = batch.targets_bu.masked_fill(~inside_bu, -100)
        loss = model(waves_bn, attention_mask=inside_bn.long(), labels=labels_bu).loss / len(batch.ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
