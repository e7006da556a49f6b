from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr.infer
from asr.data import audio
from asr.data import manifest as manifests
from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy
from asr.errors import DataError
from asr.evaluate import MARKDOWN_HEADER, evaluate, markdown_row
from asr.model.checkpoint import build_model
from asr.model.contract import AcousticModel
from asr.scoring.info import UtteranceInfo
from asr.scoring.wer import score
from tests.builders import ALPHABET, build_corpus, noise, promising, tiny_config, write_wav
from tests.pretend_cuda import pretended_cuda


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifests.read(build_corpus(tmp_path_factory.mktemp("corpus"), 9, longest=12))


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    """Untrained, with an output that leans away from blank: transcripts are wrong, but not empty and not all alike."""
    cfg = tiny_config("text.normalization=lower")
    torch.manual_seed(3)
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(ALPHABET))))
    with torch.no_grad():
        model.network.output.weight.mul_(20)
    model.network.eval()
    return model


def _alone(model: AcousticModel, manifest: Manifest) -> list[tuple[str, str, str]]:
    """Each utterance by itself, step by step, without batch, padding or the library's loader."""
    rows = []
    for utterance in manifest:
        wave_n, rate = audio.load(manifest.path.parent / utterance.audio_path)
        assert rate == 16000
        features_btf = torch.from_numpy(model.extractor(wave_n))[None]
        with torch.no_grad():
            log_probs_bsv, num_steps_b = model.network(features_btf, torch.tensor([features_btf.shape[1]]))
        assert log_probs_bsv.shape[1] == int(num_steps_b[0])
        text = greedy(log_probs_bsv[0].numpy(), model.tokenizer).text
        rows.append((utterance.id, normalize(utterance.text, "lower"), " ".join(text.split())))
    return rows


def test_evaluate_is_the_pipeline_made_by_hand(corpus, model):
    upper = Manifest(corpus.path, [replace(u, text=u.text.upper()) for u in corpus])
    facts = {u.id: UtteranceInfo(u.speaker, u.duration_s) for u in corpus}
    expected = score(_alone(model, corpus), facts, normalization="lower")
    assert len({u.hypothesis for u in expected.per_utterance}) > 1, "the transcripts must differ to be worth comparing"
    for manifest in (corpus, upper):  # the model's normalisation makes them the same
        result = evaluate(model, manifest, no_speech_threshold=1)  # tones are no speech
        assert result.score == expected
        assert result.failed == {}
        assert result.audio_s == pytest.approx(corpus.duration_s)
        assert result.seconds > 0 and result.rtf == pytest.approx(result.seconds / result.audio_s)


def test_a_normalization_is_done_to_both_sides_and_what_cannot_be_written_is_counted(corpus, model):
    plain = AcousticModel(**{f.name: getattr(model, f.name) for f in fields(model)})
    object.__setattr__(plain, "text", model.text.model_copy(update={"normalization": "none"}))
    upper = Manifest(corpus.path, [replace(u, text=u.text.upper()) for u in corpus])
    expected = evaluate(plain, corpus, no_speech_threshold=1)
    assert expected.unwritable == "" and not expected.both_sides
    lost = evaluate(plain, upper, no_speech_threshold=1)
    assert lost.score.wer.errors > expected.score.wer.errors
    letters = sum(not c.isspace() for u in corpus for c in u.text)
    assert lost.unwritable.startswith(
        f"{letters:,} of {letters:,} characters of the references are none that the model"
    )
    assert lost.unwritable.endswith(": --normalization lower mends that")
    for profile in ("lower", "upper"):
        mended = evaluate(plain, upper, normalization=profile, with_words=True, no_speech_threshold=1)
        assert mended.score.wer == expected.score.wer and mended.score.normalization == profile
        assert mended.unwritable == "" and mended.to_json("m")["normalization"] == profile
        assert mended.reliability() == evaluate(plain, corpus, with_words=True, no_speech_threshold=1).reliability()


def test_tokens_are_counted_against_the_references_as_they_are_scored(corpus, model):
    spaced = Manifest(corpus.path, [replace(u, text=f" {u.text.replace(' ', '   ')}  ") for u in corpus])
    assert evaluate(model, spaced).health == evaluate(model, corpus).health


@pytest.mark.parametrize("batch_s", [0.001, 2.0, 1000.0])
def test_transcripts_do_not_depend_on_the_size_of_batches(corpus, model, monkeypatch, batch_s):
    expected = evaluate(model, corpus).score
    monkeypatch.setattr(asr.infer, "BATCH_S", batch_s)
    sizes: list[int] = []
    network = type(model.network)
    each = network.each
    monkeypatch.setattr(network, "each", lambda self, some: sizes.append(len(some)) or each(self, some))
    seconds: list[float] = []
    assert evaluate(model, corpus, progress=seconds.append).score == expected
    assert len(sizes) == 9 if batch_s < 1 else 1 <= len(sizes) < 9
    assert sum(sizes) == 9 and sum(seconds) == pytest.approx(corpus.duration_s)


def test_transcripts_do_not_depend_on_order_or_company(corpus, model):
    whole = {u.id: u for u in evaluate(model, corpus).score.per_utterance}
    backwards = evaluate(model, Manifest(corpus.path, corpus.utterances[::-1])).score.per_utterance
    assert [u.id for u in backwards] == [u.id for u in corpus.utterances[::-1]]
    assert all(u == whole[u.id] for u in backwards)
    (alone,) = evaluate(model, Manifest(corpus.path, corpus.utterances[4:5])).score.per_utterance
    assert alone == whole[alone.id]


def test_unreadable_audio_is_named_with_its_reason_and_the_rest_is_scored(corpus, model, tmp_path):
    shutil.copytree(corpus.path.parent, tmp_path / "c")
    manifest = manifests.read(tmp_path / "c" / "train.jsonl")
    rows = manifest.utterances
    paths = [manifest.audio_path(u) for u in rows[:4]]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    write_wav(paths[3], np.zeros(8000 * 3, np.float32), 8000)
    result = evaluate(model, manifest)
    assert set(result.failed) == {u.id for u in rows[:4]}
    reasons = ("no such file", "the file is empty", "truncated", "8000 Hz audio, the model wants 16000 Hz")
    for utterance, path, reason in zip(rows[:4], paths, reasons, strict=True):
        line = result.failed[utterance.id]
        assert line.startswith(f"utt '{utterance.id}': {path}: ") and reason in line and "\n" not in line
    assert result.score.utterances == 5
    assert [u.id for u in result.score.per_utterance] == [u.id for u in rows[4:]]
    assert result.score == evaluate(model, Manifest(corpus.path, corpus.utterances[4:])).score
    assert result.audio_s == pytest.approx(sum(u.duration_s for u in rows[4:]))


def test_a_header_that_promises_too_much_costs_its_own_row_only(corpus, model, tmp_path, monkeypatch):
    shutil.copytree(corpus.path.parent, tmp_path / "c")
    manifest = manifests.read(tmp_path / "c" / "train.jsonl")
    rows = manifest.utterances
    for i, (suffix, promise_s) in enumerate([("flac", 4_000_000), ("flac", 500_000), ("ogg", 90)]):
        path = tmp_path / "c" / f"{i}.{suffix}"
        soundfile.write(path, noise(3), 16000)
        path.write_bytes(promising(path.read_bytes(), promise_s * 16000))
        rows[i] = replace(rows[i], audio_path=path.name, duration_s=min(promise_s, 600_000.0))
    result = evaluate(model, manifest)
    reasons = ("more than 7 days", "too long for one utterance", "could be decoded")
    assert list(result.failed) == [u.id for u in rows[:3]]
    for line, reason in zip(result.failed.values(), reasons, strict=True):
        assert reason in line and "\n" not in line
    assert result.score.utterances == 6


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("place", ["load", "extract"])
def test_an_utterance_that_does_not_fit_into_the_memory_costs_its_own_row_only(
    corpus, model, monkeypatch, place, error
):
    longest = max(corpus, key=lambda u: u.duration_s)
    load, extract = audio.load, asr.infer.extract

    def load_or_fail(path, **options):
        if options["duration_s"] == longest.duration_s:
            raise error
        return load(path, **options)

    def extract_or_fail(extractor, wave_n):
        if len(wave_n) / 16000 > longest.duration_s - 0.02:
            raise error
        return extract(extractor, wave_n)

    if place == "load":
        monkeypatch.setattr(audio, "load", load_or_fail)
    else:
        monkeypatch.setattr(asr.infer, "extract", extract_or_fail)
    result = evaluate(model, corpus)
    assert longest.id in result.failed and result.score.utterances + len(result.failed) == len(corpus)
    assert result.score.utterances > 0
    assert all("minutes as one utterance do not fit into the memory; cut it" in line for line in result.failed.values())


def test_a_manifest_of_which_nothing_can_be_read_is_an_error_with_the_first_reason(corpus, model, tmp_path):
    manifest = Manifest(tmp_path / "gone.jsonl", corpus.utterances)
    with pytest.raises(
        DataError, match=r"gone\.jsonl: no utterance could be read; the first: utt 'train-0000': .*no such"
    ):
        evaluate(model, manifest)


def test_json_has_the_keys_that_are_promised(corpus, model):
    result = evaluate(model, corpus)
    row = json.loads(json.dumps(result.to_json("runs/x/best"), allow_nan=False))
    assert set(row) == {
        "wer",
        "cer",
        "utterances",
        "interval",
        "alignment",
        "failed",
        "blank_fraction",
        "emitted_ratio",
        "audio_s",
        "rtf",
        "decoder",
        "lm",
        "normalization",
        "model",
        "commit",
        "errors",
        "by",
    }
    assert row["interval"] == {"unit": "utterance", "units": 9, "level": 0.95, "resamples": 10_000}  # 4 speakers
    assert set(row["errors"]) == {"substitutions", "deletions", "insertions"}
    assert list(row["by"]) == ["speaker", "length"]
    assert [group["value"] for group in row["by"]["speaker"]] == [f"spk{i:02d}" for i in range(4)]
    counts = {"rate", "low", "high", "substitutions", "deletions", "insertions"}
    assert set(row["wer"]) == counts | {"reference_words"}
    assert set(row["cer"]) == counts | {"reference_characters"}
    assert row["wer"]["low"] <= row["wer"]["rate"] <= row["wer"]["high"]
    assert (row["utterances"], row["failed"], row["decoder"], row["lm"]) == (9, {}, "greedy", None)
    assert (row["normalization"], row["model"]) == ("lower", "runs/x/best")
    assert row["audio_s"] == pytest.approx(corpus.duration_s, abs=1e-3)


def test_evaluation_changes_neither_weights_nor_running_statistics(corpus, model):
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    evaluate(model, corpus)
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert not model.network.training


def test_another_rate_is_resampled_where_the_model_says_so(corpus, model, tmp_path):
    at_8k = manifests.read(build_corpus(tmp_path, 3, rate_hz=8000))
    with pytest.raises(DataError, match="8000 Hz audio, the model wants 16000 Hz"):
        evaluate(model, at_8k)
    resampling = replace(model, audio=model.audio.model_copy(update={"resample": True}))
    assert evaluate(resampling, at_8k).score.utterances == 3


def test_a_path_may_be_absolute(corpus, model, tmp_path):
    rows = [replace(u, audio_path=str(Path(corpus.audio_path(u)).resolve())) for u in corpus]
    assert evaluate(model, Manifest(tmp_path / "m.jsonl", rows)).score == evaluate(model, corpus).score


def test_words_have_their_times_when_they_are_asked_for(corpus, model):
    assert evaluate(model, corpus).words == {}
    result = evaluate(model, corpus, with_words=True)
    assert list(result.words) == [u.id for u in corpus]
    for utterance, scored in zip(corpus, result.score.per_utterance, strict=True):
        words = result.words[utterance.id]
        assert [word.word for word in words] == scored.hypothesis.split()
        assert all(0 <= word.start_s <= word.end_s <= utterance.duration_s for word in words)


def test_fields_of_the_manifest_make_tables(corpus, model):
    rows = [replace(u, meta={"half": i < 4}) for i, u in enumerate(corpus)]
    result = evaluate(model, Manifest(corpus.path, rows))
    groups = result.to_json("m", ["meta.half"])["by"]["meta.half"]
    assert [(group["value"], group["utterances"]) for group in groups] == [("false", 5), ("true", 4)]


def test_intervals_are_over_speakers_where_there_are_enough(corpus, model):
    rows = [replace(u, speaker=f"s{i % 5}") for i, u in enumerate(corpus)]
    result = evaluate(model, Manifest(corpus.path, rows))
    assert result.score.interval.drawn == "5 speakers"
    row = markdown_row(model, result)
    assert row.count(" | ") == MARKDOWN_HEADER.splitlines()[0].count(" | ")
    assert " | 5 speakers | " in row and " | greedy | none | lower | " in row


def test_words_can_be_aligned_as_sclite_does(corpus, model):
    result = evaluate(model, corpus, alignment="sclite")
    rows = [(u.id, u.reference, u.hypothesis) for u in evaluate(model, corpus).score.per_utterance]
    assert result.score.wer.errors == score(rows, alignment="sclite").wer.errors
    assert result.to_json("m")["alignment"] == "sclite"
    assert f"/ {result.score.wer.insertions} (sclite) |" in markdown_row(model, result)


def test_a_gpu_gives_the_score_of_a_cpu(corpus, model):
    expected = evaluate(model, corpus, with_words=True, no_speech_threshold=1)
    with pretended_cuda():
        on_gpu = replace(model, network=deepcopy(model.network).to("cuda:0"))
        found = evaluate(on_gpu, corpus, with_words=True, no_speech_threshold=1)
    assert found.score == expected.score and list(found.words) == list(expected.words)
    assert found.health == expected.health


def test_an_utterance_that_is_too_much_for_the_network_costs_its_own_row(corpus, model, monkeypatch):
    longest = max(corpus, key=lambda u: u.duration_s)
    most = int(longest.duration_s / model.frame_s) - 1
    each = type(model.network).each

    def limited(self, features):
        if max(map(len, features)) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return each(self, features)

    monkeypatch.setattr(type(model.network), "each", limited)
    found = evaluate(model, corpus, no_speech_threshold=1)
    assert list(found.failed) == [longest.id]
    assert found.failed[longest.id].startswith(
        f"utt '{longest.id}': {longest.duration_s:.1f} s at once do not fit into the memory; cut them"
    )
    assert found.score.utterances == len(corpus) - 1
