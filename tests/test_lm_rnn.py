"""Neural language models: network (torch's own layers, finite differences), training, folders, commands."""

from __future__ import annotations

import itertools
import json
import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr import info
from asr.commands.lm import app
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, CheckpointError, ConfigError, DataError, TrainingError
from asr.lm.neural.config import RnnTrainConfig, read_config
from asr.lm.neural.folder import describe, load_rnn, save_rnn
from asr.lm.neural.network import BOUNDARY, RnnConfig, RnnModel, RnnNetwork, sample
from asr.lm.neural.perplexity import perplexity
from asr.lm.neural.place import find_rnn, is_rnn
from asr.lm.neural.record import begin_training
from asr.lm.neural.text import NO_TARGET, Streams, is_held_out, read
from asr.lm.neural.train import RnnTrainer, train
from asr.lm.neural.update import window_loss
from asr.model.checkpoint import load_state
from tests.models import save_random_model

SHAPES = [
    RnnConfig(cell=cell, layers=layers, hidden=6, embed=embed, tied=tied, dropout=0)
    for cell, layers, embed, tied in (
        ("lstm", 1, 5, False),
        ("lstm", 2, 6, True),
        ("gru", 2, 5, True),
        ("gru", 1, 4, False),
    )
]
LINES = [
    " ".join(words) for words in itertools.product(("THE", "A"), ("CAT", "DOG", "COW"), ("SAT", "RAN", "ATE", "SANG"))
]


def network(cfg: RnnConfig, size: int = 5, seed: int = 0) -> RnnNetwork:
    """Random weights, large enough that every token matters."""
    torch.manual_seed(seed)
    made = RnnNetwork(cfg, size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return made.eval()


def model(cfg: RnnConfig = SHAPES[0], symbols: str = "abcd") -> RnnModel:
    return RnnModel(network(cfg, len(symbols) + 1), CharTokenizer(tuple(symbols)))


def slow_score(made: RnnNetwork, sentence: list[int]) -> float:
    """By torch's own modules and the definition: the boundary, the tokens, the boundary, each given those before it."""
    reset = made.vocabulary_size
    tokens = torch.tensor([[reset], [BOUNDARY], *([t] for t in sentence)])
    with torch.no_grad():
        x = made.embedding(tokens)
        for i in range(made.cfg.layers):
            layer = made.layer(i)
            kind = torch.nn.LSTM if made.cfg.cell == "lstm" else torch.nn.GRU
            module = kind(x.shape[2], made.cfg.hidden)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(module, f"{name}_l0").copy_(getattr(layer, name))
            # the state after the reset: nothing (LSTM); with GRU tanh of what its embedding gives to the candidate
            if made.cfg.cell == "lstm":
                x = torch.cat([torch.zeros(1, 1, made.cfg.hidden), module(x[1:])[0]])
            else:
                gates = torch.nn.functional.linear(x[0], layer.weight_ih, layer.bias_ih)[:, 2 * made.cfg.hidden :]
                start = gates.tanh()
                x = torch.cat([start[None], module(x[1:], start[None])[0]])
        log_probs = made.output(x[1:, 0]).log_softmax(dim=1)
    return float(sum(log_probs[i, t] for i, t in enumerate([*sentence, BOUNDARY])))


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_a_sentences_log_probability_is_the_chain_rule_over_torchs_own_layers(cfg):
    made = model(cfg)
    sentences = [[], [1], [1, 2, 3], [4, 4, 4, 4, 4, 1], [1, 2]]
    expected = [slow_score(made.network, sentence) for sentence in sentences]
    np.testing.assert_allclose(made.score(sentences), expected, atol=1e-5)  # float32


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_the_probabilities_of_all_texts_sum_to_one(cfg):
    """Of all that have at most n tokens: 1 less the probability of going on; over one more token, the same."""
    made = model(cfg, "ab")
    texts = [list(t) for n in range(7) for t in itertools.product((1, 2), repeat=n)]
    ended = np.exp(made.score(texts)).sum()
    log_probs, states = made.begin()
    open_, alive = [(log_probs[0], states, 0.0)], 0.0
    for depth in range(7):
        grown = []
        for row, state, so_far in open_:
            for token in (1, 2):
                after, states = made.advance(state, torch.tensor([token]))
                grown.append((after[0], states, so_far + float(row[token])))
        open_ = grown
        if depth == 6:
            alive = sum(math.exp(so_far) for _, _, so_far in open_)
    assert ended + alive == pytest.approx(1, abs=1e-4)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(1, 4), max_size=9), min_size=1, max_size=12), st.randoms())
def test_a_score_depends_neither_on_its_neighbours_nor_on_their_order(sentences, random):
    made = model(SHAPES[1])
    together = made.score(sentences)
    np.testing.assert_allclose(together, [made.score([one])[0] for one in sentences], atol=2e-5)
    order = list(range(len(sentences)))
    random.shuffle(order)
    np.testing.assert_allclose(made.score([sentences[i] for i in order]), together[order], atol=2e-5)


def test_a_score_does_not_depend_on_the_number_of_threads():
    made = model()
    sentences = np.random.default_rng(0).integers(1, 5, (200, 12)).tolist()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = made.score(sentences)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(several, made.score(sentences), atol=2e-5)


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_training_computes_the_scores_of_use(cfg):
    """Sentences one behind the other in streams: the loss is that of each by itself, so the reset forgets all."""
    reading = read(LINES, held_out=0.1)
    made = RnnModel(network(cfg, reading.tokenizer.vocabulary_size), reading.tokenizer)
    corpus = reading.train
    streams = Streams(corpus, reading.tokenizer.vocabulary_size, 3, 7, np.arange(len(corpus)))
    states = torch.zeros(3, made.network.state_size)
    total, count = 0.0, 0
    for i in range(len(streams)):
        loss, targets, states = window_loss(made.network, *streams[i], states, "fp32")
        total, count = total + float(loss.detach()), count + targets
    scores = made.score([corpus.sentence(n) for n in range(len(corpus))])
    assert total == pytest.approx(-scores.sum(), rel=1e-5)
    assert count == len(corpus.tokens) + len(corpus)


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_windows_are_one_long_pass_cut_off_at_their_ends(cfg):
    """The states and losses of windows are those of the whole; the gradient is that of each window by itself."""
    made = network(cfg).double()
    inputs, targets = (np.random.default_rng(seed).integers(0, 5, (12, 2)) for seed in (1, 2))
    inputs[5, 1] = 5  # a reset in the middle of a window
    states = torch.zeros(2, made.state_size, dtype=torch.float64)

    def run(spans, state):
        losses = []
        for span in spans:
            logits, state = made(torch.from_numpy(inputs[span]), state.detach())
            wanted = torch.from_numpy(targets[span].ravel())
            losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"))
        return losses, state

    whole, end = run([slice(0, 12)], states)
    cut, cut_end = run([slice(0, 4), slice(4, 8), slice(8, 12)], states)
    assert float(sum(cut).detach()) == pytest.approx(float(whole[0].detach()), rel=1e-12)
    np.testing.assert_allclose(cut_end.detach(), end.detach(), atol=1e-12)

    # the second window's gradient by finite differences, its first state held fixed
    middle = run([slice(0, 4)], states)[1].detach()

    def second():
        return run([slice(4, 8)], middle)[0][0]

    grads = torch.autograd.grad(second(), list(made.parameters()), allow_unused=True)
    for parameter, grad in zip(made.parameters(), grads, strict=True):
        flat = parameter.detach().view(-1)
        for i in {0, flat.numel() // 2, flat.numel() - 1}:
            with torch.no_grad():
                old = float(flat[i])
                flat[i] = old + 1e-5
                up = float(second().detach())
                flat[i] = old - 1e-5
                down = float(second().detach())
                flat[i] = old
            expected = 0.0 if grad is None else float(grad.reshape(-1)[i])
            assert (up - down) / 2e-5 == pytest.approx(expected, abs=1e-6)  # differences of float64 are good to 1e-9


@given(st.lists(st.lists(st.integers(1, 9), max_size=7), min_size=1, max_size=20), st.integers(1, 5), st.integers(1, 6))
def test_streams_hold_every_sentence_once(sentences, streams, window):
    from asr.lm.neural.text import Corpus

    lengths = [len(s) for s in sentences]
    corpus = Corpus(np.array([t for s in sentences for t in s], np.uint16), np.cumsum([0, *lengths]), np.array(lengths))
    order = np.random.default_rng(0).permutation(len(sentences))
    made = Streams(corpus, 10, streams, window, order)
    inputs, targets = (np.concatenate([made[i][k] for i in range(len(made))]).T for k in (0, 1))
    found = []
    for row, wanted in zip(inputs, targets, strict=True):
        at = 0
        while at < len(row):
            if row[at] == 10:
                assert wanted[at] == NO_TARGET
                at += 1
                continue
            assert row[at] == BOUNDARY and row[at - 1] == 10
            end = at
            while wanted[end] != BOUNDARY:
                assert row[end + 1] == wanted[end]
                end += 1
            found.append(tuple(wanted[at:end].tolist()))
            at = end + 1
    assert sorted(found) == sorted(map(tuple, sentences))


def small(*more: str) -> RnnTrainConfig:
    where = ("precision=fp32", "threads=1", "device=cpu")
    return read_config(["hidden=12", "embed=6", "epochs=3", "streams=2", "window=8", "held_out=0.2", *where, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("lm") / "rnn"
    cfg = small("epochs=8", "lr=0.02", "dropout=0.1")
    train(read(LINES, held_out=0.2), cfg, out)
    return out


def test_training_learns_and_keeps_the_best(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = [row["held_out_bits"] for row in rows if row["kind"] == "valid"]
    assert measured[-1] < 0.7 * measured[0]
    made = load_rnn(trained)
    held_out = [line for line in LINES if is_held_out(line, 0.2)]
    assert perplexity(made, held_out).bits_per_character == pytest.approx(min(measured), abs=1e-5)
    assert made.training["held_out_bits_per_character"] == min(measured)


class Stop:
    """Interrupts a training after some updates, as Ctrl-C does."""

    def __init__(self, trainer: RnnTrainer, after: int) -> None:
        self.trainer, self.left = trainer, after

    def __call__(self, values) -> None:
        self.left -= 1
        if not self.left:
            self.trainer.interrupt.asked = True


@pytest.mark.parametrize(("after", "every"), [(1, 5000), (4, 5000), (7, 5000), (13, 5000), (4, 4), (5, 4)])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path, after, every):
    cfg = small("dropout=0.3", "layers=2", "cell=gru", f"validate_every={every}", "early_stop=100")
    reading = read(LINES, held_out=0.2)
    whole = train(reading, cfg, tmp_path / "whole")
    begin_training(tmp_path / "cut", reading, cfg)
    trainer = RnnTrainer(reading, cfg, tmp_path / "cut")
    assert trainer.run_to_end(Stop(trainer, after)).interrupted
    again = train(reading, cfg, tmp_path / "cut")
    assert not again.interrupted and again.progress.step == whole.progress.step
    assert again.progress.best_bits == whole.progress.best_bits
    for name in ("best/model.safetensors",):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ends = [load_state(tmp_path / name / "checkpoints")[0].tensors for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    kinds = [
        [json.loads(line)["step"] for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "cut")
    ]
    assert kinds[0] == kinds[1]


def test_the_same_command_again_does_nothing_and_another_one_is_refused(tmp_path):
    reading = read(LINES, held_out=0.2)
    cfg = small("epochs=1")
    first = train(reading, cfg, tmp_path / "m")
    again = train(reading, cfg, tmp_path / "m")
    assert again.progress.step == first.progress.step and again.progress.done
    with pytest.raises(ConfigError, match="a training with hidden 12, now it is 13; choose another --out"):
        train(reading, small("epochs=1", "hidden=13"), tmp_path / "m")
    with pytest.raises(DataError, match="on another text"):
        train(read([*LINES, "A NEW COW"], held_out=0.2), cfg, tmp_path / "m")
    save_random_model(tmp_path / "acoustic")
    with pytest.raises(ConfigError, match="holds something else"):
        train(reading, cfg, tmp_path / "acoustic")


@pytest.mark.parametrize("name", ["tokenizer.json", "train.jsonl", "checkpoints/step-00000001/state.json", "x"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, name):
    path = tmp_path / "m" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(ConfigError, match="holds something else; choose another --out"):
        train(read(LINES, held_out=0.2), small("epochs=1"), tmp_path / "m")
    assert path.read_text() == "precious" and [p for p in (tmp_path / "m").rglob("*") if p.is_file()] == [path]


def test_a_training_that_was_killed_before_its_tokenizer_was_written_resumes(tmp_path):
    reading, cfg = read(LINES, held_out=0.2), small("epochs=1")
    begin_training(tmp_path / "m", reading, cfg)
    (tmp_path / "m" / "tokenizer.json").unlink()
    assert train(reading, cfg, tmp_path / "m").progress.done
    assert (tmp_path / "m" / "tokenizer.json").exists()


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    reading = read(LINES, held_out=0.2)
    cfg = small("epochs=1")

    def second(values) -> None:
        with pytest.raises(ConfigError, match=r"m: another process is training this model; stop it first"):
            train(reading, cfg, tmp_path / "m")
        seen.append(values)

    seen: list = []
    assert train(reading, cfg, tmp_path / "m", second).progress.done and seen


def test_a_held_out_text_without_a_probability_ends_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.lm.neural.train.held_out_bits", lambda model, corpus: math.nan)
    with pytest.raises(TrainingError, match=r"update \d+: the held-out text has no finite probability.*lower lr"):
        train(read(LINES, held_out=0.2), small("epochs=1"), tmp_path / "m")
    assert not (tmp_path / "m" / "best").exists()


def test_early_stopping_ends_a_training_that_no_longer_helps(tmp_path):
    cfg = small("epochs=60", "lr=0.05", "early_stop=2", "hidden=24")
    report = train(read(LINES, held_out=0.2), cfg, tmp_path / "m")
    assert report.progress.done and report.progress.epoch < 60


def test_the_same_seed_gives_the_same_model_and_another_another(tmp_path):
    reading = read(LINES, held_out=0.2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(reading, small("epochs=1", f"seed={seed}"), tmp_path / name)
    weights = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_samples_follow_from_the_seed_whatever_their_number(trained):
    made = load_rnn(trained)
    texts = sample(made, 4, seed=3)
    assert sample(made, 2, seed=3) == texts[:2]
    assert sample(made, 4, seed=4) != texts
    assert all(text.startswith("A D") for text in sample(made, 3, prefix="A D"))
    assert len(set(sample(made, 3, temperature=0))) == 1
    assert all(len(text) <= 2 for text in sample(made, 3, longest=2))


def test_a_space_at_the_end_of_a_prefix_belongs_to_the_next_word():
    tokenizer = SubwordTokenizer.train(["ab cd", "ab ef", "cd ab"], 12)
    made = RnnModel(network(SHAPES[0], tokenizer.vocabulary_size), tokenizer)
    assert sample(made, 5, prefix="ab ", seed=2) == sample(made, 5, prefix="ab", seed=2)


def test_scoring_on_threads_leaves_torch_the_threads_it_had():
    made = model(SHAPES[0], "ab")
    before: int = torch.get_num_threads()
    found: list[int] = []
    torch.set_num_threads(2)
    try:
        made.score([[1, 2] * (1 + i % 7) for i in range(3000)])
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_samples_are_drawn_from_the_models_distribution():
    made = model(SHAPES[0], "ab")
    drawn = sample(made, 3000, seed=0, longest=1)
    log_probs = made.begin()[0][0].numpy()
    for text, token in (("", 0), ("a", 1), ("b", 2)):
        p = math.exp(log_probs[token])
        # five standard deviations of a share of 3,000 draws
        assert abs(drawn.count(text) / 3000 - p) < 5 * math.sqrt(p * (1 - p) / 3000) + 1e-9


def test_perplexity_counts_what_the_model_cannot_write():
    made = model(SHAPES[0], "ab ")
    found = perplexity(made, ["ab a", "aXb bY", ""])
    assert (found.sentences, found.words, found.unknown_characters, found.unknown_words) == (3, 4, 2, 2)
    assert found.log_prob == pytest.approx(made.score_texts(["ab a", "ab b", ""]).sum(), abs=1e-5)
    assert found.characters == 8 and dict(found.unknown) == {"X": 1, "Y": 1}
    assert found.bits_per_character == pytest.approx(-found.log_prob / math.log(2) / 11)
    assert found.perplexity == pytest.approx(math.exp(-found.log_prob / 7))
    assert "2 unknown characters left out, in 2 words: 'X' 1 times, 'Y' 1 times" in str(found)
    with pytest.raises(DataError, match=r"not one character of the text: unknown character 'X'.*upper"[:40]):
        perplexity(made, ["XYZ"])
    with pytest.raises(DataError, match="not one line"):
        perplexity(made, [])


def test_perplexity_in_blocks_is_that_of_the_whole(monkeypatch):
    made, lines = model(SHAPES[0], "ab "), ["ab a", "b", "", "bb aX", "a"]
    whole = perplexity(made, lines)
    monkeypatch.setattr("asr.lm.neural.perplexity._CHUNK", 2)
    assert perplexity(made, lines).log_prob == pytest.approx(whole.log_prob, abs=1e-5)


def test_held_out_sentences_follow_from_their_text_alone():
    reading, other = read(LINES, held_out=0.3), read([*reversed(LINES), "A NEW COW", *LINES], held_out=0.3)

    def texts(r, corpus):
        return {r.tokenizer.decode(corpus.sentence(n)) for n in range(len(corpus))}

    assert texts(reading, reading.held_out) == {line for line in LINES if is_held_out(line, 0.3)}
    assert not texts(other, other.held_out) & texts(other, other.train)
    assert texts(reading, reading.held_out) <= texts(other, other.held_out)


def test_a_sentence_that_the_tokenizer_cannot_write_is_left_out_and_counted():
    tokenizer = CharTokenizer(tuple(" ACDEGHNORSTW"))
    reading = read([*LINES, "THE ÉMU SAT", "A 1 É"], tokenizer, held_out=0.2)
    assert reading.left_out == 2 and dict(reading.unknown) == {"É": 2, "M": 1, "U": 1, "1": 1}
    assert len(reading.train) + len(reading.held_out) == len(LINES)
    with pytest.raises(
        DataError, match=r"not one usable line: all 1 have unknown characters \('x'; the tokenizer writes ' A"
    ):
        read(["x"], tokenizer)


def test_subwords_of_its_own_and_many_tokens():
    reading = read(LINES * 3, subwords=40, held_out=0.2)
    assert isinstance(reading.tokenizer, SubwordTokenizer) and reading.tokenizer.vocabulary_size == 40
    assert reading.tokenizer.decode(reading.train.sentence(0)) in LINES
    # more than two bytes hold
    symbols = (
        [chr(0x4E00 + i) for i in range(20_000)]
        + [chr(0xAC00 + i) for i in range(11_000)]
        + [chr(0x20000 + i) for i in range(40_000)]
    )
    text = ["".join(symbols[i : i + 1000]) for i in range(0, len(symbols), 1000)]
    many = read(text, held_out=0.2)
    assert many.tokenizer.vocabulary_size == len(symbols) + 1
    kept = [many.tokenizer.decode(many.train.sentence(n)) for n in range(len(many.train))]
    assert kept == [line for line in text if not is_held_out(line, 0.2)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "not one usable line"),
        (["one"], "too little text: of 1 sentences"),
        (["", "", ""], "held out|empty"),
        (["a <s> b"], "line 1 of the text has the word <s>"),
    ],
)
def test_texts_that_cannot_be_trained_on_are_one_line(lines, said):
    with pytest.raises(DataError, match=said):
        read(lines)


def test_a_folder_is_read_back_and_what_is_wrong_with_one_is_said(tmp_path, trained):
    made = load_rnn(trained)
    save_rnn(tmp_path / "m", made.network, made.tokenizer, made.training)
    assert load_rnn(tmp_path / "m").score_texts(["A CAT"]) == made.score_texts(["A CAT"])
    assert is_rnn(trained) and is_rnn(tmp_path / "m") and find_rnn(trained) == trained / "best"
    assert describe(trained)["parameters"] == made.num_parameters
    assert info.describe(str(trained)) == ("neural language model", describe(trained))
    acoustic = save_random_model(tmp_path / "acoustic")
    assert not is_rnn(acoustic) and not is_rnn(tmp_path / "nowhere")
    for path, said in (
        (acoustic, "an acoustic model's folder"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "m" / "config.json", "is a file"),
        (tmp_path, "missing"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_rnn(path)
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_rnn(tmp_path / "m")
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for change, said in (
        ({"hidden": 13}, "has shape"),
        ({"layers": 2}, "holds no tensor 'layers.1"),
        ({"hiden": 1}, "hidden"),
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"network": config["network"] | change}))
        with pytest.raises(CheckpointError, match=said):
            load_rnn(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="format_version is 2"):
        load_rnn(tmp_path / "m")


def run(*arguments) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


QUICK = ("--epochs", 1, "--hidden", 8, "--set", "held_out=0.2", "--set", "device=cpu", "--threads", 1)


def test_the_commands_train_measure_and_sample(text, tmp_path, monkeypatch):
    acoustic = save_random_model(tmp_path / "acoustic")
    (tmp_path / "low.txt").write_text("ab cd\ncab\nda\nbad\nabba cad\ndad\n" * 2)
    own = ("--tokenizer", acoustic, *QUICK, "--set", "held_out=0.4", "--out", tmp_path / "own", "--json")
    made = json.loads(run("train", tmp_path / "low.txt", "--type", "rnn", *own))
    assert made["left_out"] == 0
    assert load_rnn(tmp_path / "own").tokenizer.symbols == (" ", "a", "b", "c", "d")
    out = tmp_path / "m"
    printed = run("train", text, "--type", "rnn", *QUICK, "--out", out)
    assert "bits per character" in printed and printed.startswith(f"{out}: ")
    measured = json.loads(run("perplexity", out, text, "--json"))
    assert measured["words"] == 3 * len(LINES) and measured["unknown_characters"] == 0
    assert run("sample", out, "--num", 2, "--seed", 5) == run("sample", out, "--num", 2, "--seed", 5)
    assert len(json.loads(run("sample", out, "--num", 3, "--json"))["texts"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "TEXT", "--out", "m", "--hidden", "8"), "--hidden is about --type rnn"),
        (("train", "TEXT", "--out", "m", "--type", "rnn", "--order", "2"), "--order is about --type ngram"),
        (("train", "TEXT", "--out", "m", "--type", "rrn"), "unknown type 'rrn' .*did you mean 'rnn'"),
        (
            ("train", "TEXT", "--out", "m", "--type", "rnn", "--set", "hiden=3"),
            "unknown key 'hiden', did you mean 'hidden'",
        ),
        (("train", "TEXT", "--out", "m", "--type", "rnn", "--set", "hidden"), "expected key=value"),
        (("train", "TEXT", "--out", "m", "--type", "rnn", "--cell", "tanh"), "cell: "),
        (("train", "TEXT", "--out", "m", "--type", "rnn", "--tokenizer", "TEXT"), "not valid JSON"),
        (("train", "TEXT", "--out", "m", "--type", "rnn", "--tokenizer", "TEXT", "--subwords", "9"), "choose one"),
        (("train", "nowhere", "--out", "m", "--type", "rnn"), "nowhere: cannot read"),
        (("perplexity", ".", "TEXT"), "is not the folder of a neural language model"),
        (("sample", "TEXT"), "is a file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AsrError, match=message) as error:
        run(*(text if a == "TEXT" else a for a in arguments))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()


def test_a_prefix_with_unknown_characters_is_refused(trained):
    with pytest.raises(DataError, match="unknown character 'x'"):
        sample(load_rnn(trained), 1, prefix="Ax")
