#!/usr/bin/env bash
# transformers' ParakeetFeatureExtractor: a recording with one valid frame (160 to 319 samples at 16 kHz, as a
# detector of speech may cut) gives features that are all NaN, with no warning: the deviation is taken over n - 1 frames.
# A guess would be: zeros, as the mean is taken away (NVIDIA NeMo's source, read but not run, has a case for it). One
# such recording in a batch of training is the end of the network: batch norm spreads NaN to the whole batch, and its
# running statistics stay NaN.
# Seen: transformers 5.24.0; source: feature_extraction_parakeet.py, __call__.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import torch
import transformers
from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

print("transformers", transformers.__version__)
extractor = ParakeetFeatureExtractor(feature_size=80, sampling_rate=16000)
noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)


def features(*lengths):
    waves = [noise[:length] for length in lengths]
    return extractor(waves, sampling_rate=16000, return_attention_mask=True, return_tensors="pt")


found = []
for length in (319, 320):
    inputs = features(length)
    found.append(inputs["input_features"].isnan().any().item())
    print(f"{length} samples, {inputs['attention_mask'].sum()} valid frames: NaN: {found[-1]}")

torch.manual_seed(0)
small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
small |= {"subsampling_conv_channels": 16, "num_mel_bins": 80, "layerdrop": 0.0}
network = ParakeetForCTC(ParakeetCTCConfig(vocab_size=20, pad_token_id=19, encoder_config=small))
for training, lengths in ((False, [16000]), (False, [16000, 319]), (True, [16000, 319]), (False, [16000])):
    network.train(training)
    with torch.no_grad():
        logits = network(**features(*lengths)).logits
    found.append([row.isnan().any().item() for row in logits])
    print(f"{'in training' if training else 'in use'}, recordings of {lengths} samples: NaN: {found[-1]}")

as_described = found == [True, False, [False], [False, True], [True, True], [True]]
sys.exit(None if as_described else "changed: Parakeet's features of one frame")
PY
