#!/usr/bin/env bash
# Given its attention mask, the loss of transformers' ParakeetForCTC in use does not depend on padding of the batch.
# A guess would be: nor in training. There the batch norm of each convolution module counts padded steps, as the mask
# clears them before the depthwise convolution and is not used behind it. So the loss depends on the padding, and so do
# the running statistics, which the model is used with later.
# Seen: transformers 5.24.0; source: modeling_parakeet.py, ParakeetEncoderConvolutionModule.forward.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import ParakeetCTCConfig, ParakeetForCTC

print("transformers", transformers.__version__)
torch.manual_seed(0)
small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
small |= {"subsampling_conv_channels": 16, "num_mel_bins": 80, "layerdrop": 0.0}
small |= {f"{place}dropout": 0.0 for place in ("", "attention_", "activation_")} | {"dropout_positions": 0.0}
network = ParakeetForCTC(ParakeetCTCConfig(vocab_size=20, pad_token_id=19, encoder_config=small))
for parameter in network.parameters():
    if parameter.ndim > 1:
        torch.nn.init.kaiming_normal_(parameter)  # the first values are so small that batch norm's eps hides all
norm = network.encoder.layers[0].conv.norm
norm.momentum = 1.0  # so that its running statistics are those of the batch
features, labels = torch.randn(2, 200, 80), torch.randint(0, 19, (2, 8))


@torch.no_grad()
def loss(training, padding):
    """Return the loss of two utterances of 200 frames (2 s) with so many frames of padding, which are masked."""
    network.train(training)
    padded = torch.nn.functional.pad(features, (0, 0, 0, padding))
    mask = (torch.arange(200 + padding) < 200).expand(2, -1)
    return network(input_features=padded, attention_mask=mask, labels=labels).loss.item()


in_use = [loss(False, padding) for padding in (0, 800)]
print(f"in use: loss {in_use[0]:.4f}; with 8 s of padding {in_use[1]:.4f}")

losses, variances = [], []
for padding in (0, 800):
    losses.append(loss(True, padding))
    variances.append(norm.running_var.mean().item())
print(f"in training: loss {losses[0]:.4f}; with 8 s of padding {losses[1]:.4f}")
print(f"variance in the first batch norm: {variances[0]:.2f}; with 8 s of padding {variances[1]:.2f}")
# Seen: 6.2765 twice in use; 6.3354 and 6.1290, 0.82 and 0.42 in training.
as_described = abs(in_use[0] - in_use[1]) < 1e-4 and abs(losses[0] - losses[1]) > 1e-2
as_described &= variances[1] < 0.7 * variances[0]
sys.exit(None if as_described else "changed: batch norm of Parakeet under padding")
PY
