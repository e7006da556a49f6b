#!/usr/bin/env bash
# hidden_states[-1] of Wav2Vec2Model, HubertModel and WavLMModel where norms come first (do_stable_layer_norm: XLS-R, MMS
# and all large ones). In transformers 4.57.1 it is last_hidden_state: the last layer's output behind the final norm. In
# 5.24.0 it is the same output before that norm, with no error and no warning; every other entry is as it was. Features
# taken as hidden_states[-1], or as a weighted sum over all layers, are others in version 5, and a model that was trained
# on them is fed something else. Networks without do_stable_layer_norm are the same in both.
# Source: modeling_wav2vec2.py, 5.24.0: capture_outputs(tie_last_hidden_states=False) on Wav2Vec2Model.forward; 4.57.1:
# Wav2Vec2EncoderStableLayerNorm.forward, layer_norm, then all_hidden_states.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/hidden.py" <<'PY'
import sys

import torch
import transformers
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

print("transformers", transformers.__version__)
KINDS = [(Wav2Vec2Config, Wav2Vec2Model), (HubertConfig, HubertModel), (WavLMConfig, WavLMModel)]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
SMALL |= {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


@torch.no_grad()
def states(config, model, norms_first):
    """Return the hidden states, the last one behind the final norm, and last_hidden_state; the weights are drawn."""
    network = model(config(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=norms_first)).eval()
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(network.named_parameters()):
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    outputs = network(torch.randn(1, 16000, generator=generator), output_hidden_states=True)
    normed = network.encoder.layer_norm(outputs.hidden_states[-1])
    return outputs.hidden_states, normed, outputs.last_hidden_state


found, kept = set(), {}
for config, model in KINDS:
    for norms_first in (False, True):
        hidden, normed, last = states(config, model, norms_first)
        same, same_normed = torch.allclose(hidden[-1], last, atol=1e-5), torch.allclose(normed, last, atol=1e-5)
        print(f"{model.__name__}, norms first: {norms_first}: hidden_states[-1] is last_hidden_state: {same}", end="; ")
        print(f"with the final norm it would be: {same_normed}")
        found.add((norms_first, same, same_normed if norms_first else None))
        kept[model.__name__, norms_first] = [*hidden[:-1], last]

if sys.argv[1] == "write":
    torch.save(kept, sys.argv[2])
    expected = {(False, True, None), (True, True, False)}
else:
    before = torch.load(sys.argv[2])
    for key in kept:
        for old, new in zip(before[key], kept[key], strict=True):
            torch.testing.assert_close(new, old)
    print("all other hidden states, and last_hidden_state, are those of version 4")
    expected = {(False, True, None), (True, False, True)}
sys.exit(None if found == expected else "changed: the last of the hidden states")
PY

run() {
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==$1"
    "$folder/venv/bin/python" "$folder/hidden.py" "$2" "$folder/states.pt"
}
run 4.57.1 write
run 5.24.0 compare
