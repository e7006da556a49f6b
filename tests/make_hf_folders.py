"""Make the small Hugging Face folders of ``tests/data/hf`` and what ``transformers`` answers for them.

``python -m tests.make_hf_folders`` needs torch and ``transformers`` (5.24 made what is stored). The weights are random,
from fixed seeds. The tests read what is stored and need no ``transformers``. Each folder also has something that its
family's published folders have: old names of weights, a ``pytorch_model.bin``, shards, a blank that is not first.

    base     wav2vec 2.0, group norm; weight norm under its old names; blank first; files as transformers 4 wrote them
    large    wav2vec 2.0, layer norm; [UNK] and [PAD] last, <s> and </s> beyond the head; files of transformers 5
    hubert   layer norm; two shards with an index; do_lower_case
    wavlm    group norm, samples as they are; pytorch_model.bin; " " between words; digits, a token of two letters
    mms      wav2vec 2.0 with adapters for English and German, of 12 and 14 tokens

Beside each: ``NAME_1.npy`` and ``NAME_0.003.npy``, log-probabilities of ``wave.npy`` alone at these amplitudes, and
``NAME_short.npy``, those of its first ``SHORT`` samples. ``texts.json`` has the texts of the three. ``hidden.npz`` has
what the first and the last layer give for ``wave.npy``: ``NAME_1``, ``NAME_last``.
``NAME_step.safetensors`` has the gradients of one training step on the wave and its beginning, and their loss.

Axes: b batch, n samples, s steps, u targets, c columns of the head, h units.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "data" / "hf"
RATE_HZ = 16000
#: samples of the stored wave, and of its beginning that is an utterance of its own
LENGTH, SHORT = 6400, 4500
AMPLITUDES = (1, 0.003)
NAMES = ("base", "large", "hubert", "wavlm", "mms#eng", "mms#deu")
#: the targets of the two utterances of a training step, as columns of the head that no special token has
TARGETS = ([6, 5, 5, 8, 7], [9, 6])

_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_FIRST = ("<pad>", "<s>", "</s>", "<unk>", "|")


def make_all() -> None:
    """Write every folder, the wave and the answers."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    wave_n = _wave()
    np.save(FOLDER / "wave.npy", wave_n)
    for make in (make_base, make_large, make_hubert, make_wavlm, make_mms):
        torch.manual_seed(0)
        make()

    texts = {}
    hidden: dict[str, np.ndarray] = {}
    for name in NAMES:
        for what, one_n in _utterances(wave_n):
            log_probs_sc, text = answer(FOLDER / name.partition("#")[0], one_n, name.partition("#")[2])
            np.save(FOLDER / f"{name.replace('#', '-')}_{what}.npy", log_probs_sc)
            texts[f"{name}_{what}"] = text
        hidden |= hidden_values(name, wave_n)
    _write_json(FOLDER / "texts.json", texts)
    np.savez(FOLDER / "hidden.npz", **hidden)
    write_steps()


def write_steps() -> None:
    """Write the gradients of a training step on the utterances of ``TARGETS``."""
    from safetensors.torch import save_file

    wave_n = _wave()
    for name in ("base", "large", "hubert", "wavlm", "mms"):
        gradients, loss = step(FOLDER / name, [wave_n, wave_n[:SHORT]], TARGETS)
        save_file({**gradients, "loss": torch.tensor(loss)}, FOLDER / f"{name}_step.safetensors")


def step(
    folder: Path, waves: list[np.ndarray], targets: Sequence[list[int]], masked_bs: torch.Tensor | None = None
) -> tuple[dict[str, torch.Tensor], float]:
    """Compute the gradients of the sum of transformers' losses, and the sum; without dropout, in float64.

    transformers casts to float32 before the loss. So the gradients are those of torch's loss of its outputs, which must
    be the loss that it returns.

    A model with a group norm is trained on one utterance after the other: its extractor gives no mask, and in a batch
    the padding would be in the norm's statistics.

    Args:
        masked_bs: steps that are masked; None: none.
    """
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    off = dict.fromkeys(("hidden", "attention", "activation", "feat_proj", "final"), 0.0)
    model = AutoModelForCTC.from_pretrained(
        folder, **{f"{where}_dropout": p for where, p in off.items()}, layerdrop=0.0, ctc_loss_reduction="sum"
    )
    model.train().double()
    if masked_bs is None:
        model.config.apply_spec_augment = False
    model.config.mask_time_prob = model.config.mask_feature_prob = 0.0
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    # Each alone, as the extractor takes mean and variance over the padding if it is asked for no mask.
    inputs = [extractor(one, sampling_rate=RATE_HZ, return_tensors="pt").input_values[0].double() for one in waves]

    rows = range(len(waves))
    loss = 0.0
    for batch in [[row] for row in rows] if model.config.feat_extract_norm == "group" else [list(rows)]:
        waves_bn = torch.nn.utils.rnn.pad_sequence([inputs[row] for row in batch], batch_first=True)
        mask_bn = torch.arange(waves_bn.shape[1]) < torch.tensor([len(inputs[row]) for row in batch])[:, None]
        labels = [torch.tensor(targets[row]) for row in batch]
        labels_bu = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        more = {}
        if masked_bs is not None:
            steps = int(model._get_feat_extract_output_lengths(waves_bn.shape[1]))
            more = {"mask_time_indices": masked_bs[batch, :steps]}
        out = model(waves_bn, attention_mask=mask_bn.long() if len(batch) > 1 else None, labels=labels_bu, **more)
        log_probs_sbc = out.logits.log_softmax(-1).transpose(0, 1)
        num_steps_b = model._get_feat_extract_output_lengths(mask_bn.sum(1))
        num_targets_b = (labels_bu >= 0).sum(1)
        exact = torch.nn.functional.ctc_loss(
            log_probs_sbc,
            labels_bu,
            num_steps_b,
            num_targets_b,
            blank=model.config.pad_token_id,
            reduction=model.config.ctc_loss_reduction,
        )
        torch.testing.assert_close(exact.float(), out.loss, rtol=1e-6, atol=0)
        exact.backward()
        loss += exact.item()
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return found, loss


def answer(folder: Path, wave_n: np.ndarray, language: str = "") -> tuple[np.ndarray, str]:
    """Compute what transformers answers to one recording alone. Shapes: (n,) -> (s, c), and the most likely text."""
    from transformers import Wav2Vec2CTCTokenizer

    model, inputs = _model_and_inputs(folder, wave_n, language)
    with torch.inference_mode():
        log_probs_sc = model(**inputs).logits[0].log_softmax(-1).numpy()
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder, **({"target_lang": language} if language else {}))
    # skip_special_tokens=True would drop blanks before it merges repeats
    return log_probs_sc, tokenizer.decode(log_probs_sc.argmax(-1).tolist(), skip_special_tokens=False)


def hidden_values(name: str, wave_n: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what the first and the last layer give for a recording alone. Shapes: (n,) -> (s, h)."""
    folder, _, language = name.partition("#")
    model, inputs = _model_and_inputs(FOLDER / folder, wave_n, language)
    with torch.inference_mode():
        made = model.base_model(**inputs, output_hidden_states=True)
    # Not hidden_states[-1] for the last: since transformers 5 the norm behind the layers is missing there.
    first, last = made.hidden_states[1], made.last_hidden_state
    return {f"{name}_1": first[0].numpy(), f"{name}_last": last[0].numpy()}


def _model_and_inputs(folder: Path, wave_n: np.ndarray, language: str) -> tuple[Any, Any]:
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    more = {"target_lang": language, "ignore_mismatched_sizes": True} if language else {}
    model = AutoModelForCTC.from_pretrained(folder, **more).eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)(wave_n, sampling_rate=RATE_HZ, return_tensors="pt")
    return model, inputs


def make_base() -> None:
    """Write ``base``: the form of wav2vec2-base-960h."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    vocabulary = _vocabulary(*_FIRST, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
    model = spread(Wav2Vec2ForCTC(Wav2Vec2Config(**_SMALL, vocab_size=len(vocabulary), pad_token_id=0)), 1)
    folder = FOLDER / "base"
    model.save_pretrained(folder)
    _rename(folder / "model.safetensors", "parametrizations.weight.original0", "weight_g")
    _rename(folder / "model.safetensors", "parametrizations.weight.original1", "weight_v")

    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "preprocessor_config.json", _preprocessor(return_attention_mask=False))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"do_lower_case": False, "return_attention_mask": False, "do_normalize": True}
    _write_json(folder / "tokenizer_config.json", special | settings | {"word_delimiter_token": "|"})


def make_large() -> None:
    """Write ``large``: the form of a fine-tuned XLS-R, saved by transformers 5."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    vocabulary = _vocabulary("|", *"'abcdefghijklmnopqrstuvwxyzäöüß", "[UNK]", "[PAD]")
    config = Wav2Vec2Config(**_SMALL, **_STABLE, vocab_size=len(vocabulary), pad_token_id=len(vocabulary) - 1)
    folder = FOLDER / "large"
    spread(Wav2Vec2ForCTC(config), 2).save_pretrained(folder)
    _write_json(folder / "vocab.json", vocabulary)
    tokenizer = Wav2Vec2CTCTokenizer(folder / "vocab.json", unk_token="[UNK]", pad_token="[PAD]")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)


def make_hubert() -> None:
    """Write ``hubert``: the form of hubert-large-ls960-ft, in two shards."""
    from transformers import HubertConfig, HubertForCTC

    vocabulary = _vocabulary(*_FIRST, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
    folder = FOLDER / "hubert"
    model = spread(HubertForCTC(HubertConfig(**_SMALL, **_STABLE, vocab_size=len(vocabulary), pad_token_id=0)), 3)
    model.save_pretrained(folder, max_shard_size="30KB")
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "preprocessor_config.json", _preprocessor(return_attention_mask=True))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _write_json(folder / "tokenizer_config.json", special | {"do_lower_case": True, "word_delimiter_token": "|"})


def make_wavlm() -> None:
    """Write ``wavlm``: the form of wavlm-base, its weights as torch pickles them."""
    from transformers import WavLMConfig, WavLMForCTC

    vocabulary = _vocabulary(" ", *"abcdefghijklmnopqrstuvwxyz0123456789", "sh", "<pad>", "<s>", "</s>", "<unk>")
    config = WavLMConfig(
        **_SMALL, vocab_size=len(vocabulary), pad_token_id=vocabulary["<pad>"], num_buckets=32, max_bucket_distance=80
    )
    folder = FOLDER / "wavlm"
    model = spread(WavLMForCTC(config), 4)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "preprocessor_config.json", _preprocessor(return_attention_mask=False, do_normalize=False))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _write_json(folder / "tokenizer_config.json", special | {"word_delimiter_token": " "})


def make_mms() -> None:
    """Write ``mms``: the form of mms-1b-all, a head and adapters for each language."""
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

    first = ("<pad>", "<s>", "</s>", "<unk>", "|")
    vocabularies = {"eng": _vocabulary(*first, *"eniast'"), "deu": _vocabulary(*first, *"enirstäöß")}
    folder = FOLDER / "mms"
    for seed, (language, vocabulary) in enumerate(vocabularies.items()):
        config = Wav2Vec2Config(**_SMALL, **_STABLE, vocab_size=len(vocabulary), pad_token_id=0, adapter_attn_dim=8)
        model = spread(Wav2Vec2ForCTC(config), 5)
        parts = model._get_adapters()
        torch.manual_seed(50 + seed)
        for parameter in parts.values():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        level(model)
        parts = model._get_adapters()
        if language == "eng":
            model.save_pretrained(folder)
        save_file({key: part.data.clone() for key, part in parts.items()}, folder / f"adapter.{language}.safetensors")

    _write_json(folder / "vocab.json", vocabularies)
    Wav2Vec2CTCTokenizer(folder / "vocab.json", target_lang="eng").save_pretrained(folder)
    _write_json(folder / "preprocessor_config.json", _preprocessor(return_attention_mask=True))


def spread(model: Any, seed: int) -> Any:
    """Draw a model's weights wider than its own start, so that it says something; norms are changed a little too."""
    torch.manual_seed(seed)
    for key, parameter in model.named_parameters():
        if key.startswith("lm_head"):
            parameter.data = torch.randn_like(parameter) * 2 / model.config.hidden_size**0.5
        elif parameter.ndim > 1 and "original" not in key:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn_like(parameter) * (1.5 / fan_in) ** 0.5
        else:
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return level(model.eval())


def level(model: Any) -> Any:
    """Set the bias of the head so that no token wins at every step; tokens that write nothing seldom win."""
    wave_1n = torch.from_numpy(_wave())[None]
    with torch.inference_mode():
        mean_c = model((wave_1n - wave_1n.mean()) / wave_1n.std()).logits[0].mean(0)
    blank = model.config.pad_token_id
    bias_c = model.lm_head.bias.data - mean_c
    bias_c[blank + 1 : blank + 4] -= 2  # <s>, </s> and <unk>, where they follow the blank
    model.lm_head.bias.data = bias_c.clone()
    return model


def _wave() -> np.ndarray:
    """Draw a wave whose pitch moves, with noise and a quiet end; its peak is 1. Shapes: () -> (n,)."""
    time_n = np.arange(LENGTH) / RATE_HZ
    rng = np.random.default_rng(0)
    pitch_n = np.sin(2 * np.pi * (200 + 1500 * time_n) * time_n) + 0.5 * np.sin(2 * np.pi * 1300 * time_n)
    wave_n = pitch_n * (1 + np.sin(2 * np.pi * 9 * time_n)) + 0.3 * rng.standard_normal(LENGTH) + 0.05
    wave_n[-1000:] *= 0.05
    return (wave_n / np.abs(wave_n).max()).astype(np.float32)


def _utterances(wave_n: np.ndarray) -> list[tuple[str, np.ndarray]]:
    loud = [(str(amplitude), wave_n * np.float32(amplitude)) for amplitude in AMPLITUDES]
    return [*loud, ("short", wave_n[:SHORT])]


def _vocabulary(*tokens: str) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _preprocessor(return_attention_mask: bool, do_normalize: bool = True) -> dict[str, Any]:
    return {
        "do_normalize": do_normalize,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": return_attention_mask,
        "sampling_rate": RATE_HZ,
    }


def _rename(path: Path, old: str, new: str) -> None:
    from safetensors.torch import load_file, save_file

    save_file({key.replace(old, new): tensor for key, tensor in load_file(path).items()}, path, {"format": "pt"})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_all()
