"""The report: well-formed, complete, the score's own numbers, and safe whatever a text holds."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data import manifest as manifests
from asr.data.manifest import Manifest
from asr.errors import UNSAFE, AsrError, ConfigError
from asr.evaluate import evaluate
from asr.model.checkpoint import load_model
from asr.scoring.examples import examples, flac
from asr.scoring.info import UtteranceInfo
from asr.scoring.report import ReportExample, write_report
from asr.scoring.tables import worst
from asr.scoring.wer import Score, format_ends, percent, score
from tests.builders import build_corpus, sine
from tests.models import save_random_model

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A page that must be well-formed: every tag closed in its order, no entity left over."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.pairs: list[tuple[str, list[str]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append((found.get("class") or "", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        elif tag == "span" and (found.get("class") or "").startswith("pair"):
            self.pairs.append(((found["class"] or "").split()[1], []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"{tag} closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][1][-1][-1] += data
        elif len(self.open) > 1 and self.open[-2:] == ["span", "span"]:
            self.pairs[-1][1].append(data)

    def rows(self, kind: str) -> list[list[str]]:
        return [row for name, rows in self.tables if name == kind for row in rows]


def example_score() -> Score:
    rows = [(f"u{i}", "a b c d", "a b c d" if i % 3 else "a x c d e") for i in range(30)] + [("v", "a b c", "b")]
    facts = {id_: UtteranceInfo(f"s{i % 6}", 1.0 + i, {"room": i % 2}) for i, (id_, *_) in enumerate(rows)}
    return score(rows, facts)


def written(tmp_path: Path, result: Score, **options) -> Page:
    write_report(tmp_path / "r.html", result, "a title", {"decoder": "greedy", "LM": "none"}, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    return Page(tmp_path / "r.html")


def test_the_page_shows_the_numbers_of_the_score(tmp_path):
    result = example_score()
    page = written(tmp_path, result, by=["meta.room"])
    header, wer, cer = page.rows("summary")
    assert header[3:6] == ["substitutions", "deletions", "insertions"]
    for row, name, rate in ((wer, "WER", result.wer), (cer, "CER", result.cer)):
        kinds = [str(rate.substitutions), str(rate.deletions), str(rate.insertions)]
        expected = [name, percent(rate.rate), format_ends((rate.low, rate.high)), *kinds]
        assert row == [*expected, f"{rate.reference_length} {rate.unit}"]
    assert "95 % percentile bootstrap over 6 speakers" in page.text
    facts = dict(page.rows("facts"))
    assert facts == {"utterances": "31", "decoder": "greedy", "LM": "none", "alignment": "levenshtein"}
    groups = page.rows("by")
    assert [row[0] for row in groups if row[1] == "WER %"] == ["speaker", "length in seconds", "meta.room"]
    assert sum(int(row[-1]) for row in groups if row[1] != "WER %") == 3 * 31
    assert [row for row in page.rows("errors") if row[-1] != "times"] == [
        ["b", "x", "10"],
        ["a", "1"],
        ["c", "1"],
        ["e", "10"],
    ]


def test_the_worst_utterances_are_shown_word_by_word(tmp_path):
    page = written(tmp_path, example_score(), num_worst=2)
    # "v" has as many errors as the others and fewer words: it comes first.
    assert page.pairs == [
        ("d", ["a", "∅"]),
        ("c", ["b", "b"]),
        ("d", ["c", "∅"]),
        ("c", ["a", "a"]),
        ("s", ["b", "x"]),
        ("c", ["c", "c"]),
        ("c", ["d", "d"]),
        ("i", ["∅", "e"]),
    ]
    assert "2 errors, WER 67%, speaker s0, 31.00 s" in page.text


def test_the_plot_leads_to_the_utterances_shown(tmp_path):
    page = written(tmp_path, example_score(), num_worst=3)
    targets = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    names = [attrs["id"] for tag, attrs in page.tags if "id" in attrs]
    assert len(targets) == 3 and sorted(targets) == sorted(f"#{name}" for name in names)
    assert "20 of 31 utterances have no error" in page.text


def test_a_text_is_text_whatever_it_holds(tmp_path):
    evil = "<script>alert(1)</script> \"'><img src=http://evil.example/x> &amp; </td> ]]> -->"
    result = score(
        [(evil, f"{evil} a", evil), ("u2", "a", "<b>x</b> \ud800")], {evil: UtteranceInfo(evil, 1.0, {evil: evil})}
    )
    write_report(
        tmp_path / "r.html",
        result,
        evil,
        {evil: evil},
        [f"meta.{evil}"],
        20,
        [ReportExample(evil, b"", b"", note=evil)],
        {evil: evil},
    )
    page = Page(tmp_path / "r.html")
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "http://evil.example" in page.text
    assert all((attrs.get("src") or "data:").startswith("data:") for _, attrs in page.tags)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_a_page_holds_no_control_characters_and_no_marks_of_direction(tmp_path):
    evil = "a\x1b[31m\x9b\u202eb\u2066\u200f"
    whole = score([(evil, f"{evil} b", evil)], {evil: UtteranceInfo(evil, 1.0, {"room": evil})})
    write_report(tmp_path / "r.html", whole, evil, {evil: evil}, ["meta.room"], 1, [ReportExample(evil, note=evil)])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not UNSAFE.search(page)
    assert "a\\x1b[31m\\x9b\\u202eb" in page


def test_the_page_asks_nothing_of_the_network_and_runs_no_code(tmp_path):
    page = written(tmp_path, example_score(), examples=[ReportExample("v", b"abc", b"def")])
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|javascript:", page.source)
    assert {attrs["src"] for _, attrs in page.tags if "src" in attrs} == {
        "data:audio/flac;base64," + base64.b64encode(b"abc").decode(),
        "data:image/png;base64," + base64.b64encode(b"def").decode(),
    }


def test_examples_are_taken_one_by_one_and_may_be_missing(tmp_path):
    result = example_score()
    shown = [one.id for one in worst(result, 4)]
    taken = []

    def slowly():
        for id_ in shown[1:3]:
            taken.append(id_)
            yield ReportExample(id_, id_.encode(), None, note=f"about {id_}")

    page = written(tmp_path, result, num_worst=4, examples=slowly())
    assert taken == shown[1:3]
    assert page.source.count("<audio") == 2 and "about " + shown[1] in page.text


def test_a_perfect_score_and_one_without_words_have_a_page(tmp_path):
    assert "There is no error." in written(tmp_path, score([("u", "a", "a")])).text
    page = written(tmp_path, score([("u", "", "uh"), ("w", "", "")]))
    assert page.rows("summary")[1][1:3] == ["undefined", "[undefined, undefined]"]
    assert page.pairs == [("i", ["∅", "uh"])]


def test_the_plot_stays_small_for_many_utterances(tmp_path):
    rows = [(f"u{i}", "a b c d", "a b c x" if i % 5 == 0 else "a b c d") for i in range(5000)]
    written(tmp_path, score(rows), num_worst=0)
    assert (tmp_path / "r.html").stat().st_size < 20_000


def test_what_goes_wrong_leaves_the_older_page_and_is_one_line(tmp_path):
    path = tmp_path / "r.html"
    path.write_text("old")

    def breaks():
        yield ReportExample("v")
        raise AsrError("drawn badly")

    with pytest.raises(AsrError, match="drawn badly"):
        write_report(path, example_score(), "t", {}, examples=breaks())
    with pytest.raises(ConfigError, match=r"no utterance has the field 'meta\.x'"):
        write_report(path, example_score(), "t", {}, by=["meta.x"])
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(AsrError, match="cannot write the report"):
        write_report(path / "below", example_score(), "t", {})


# With a model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Manifest:
    return manifests.read(build_corpus(tmp_path_factory.mktemp("corpus"), 6, longest=6, num_speakers=6))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_random_model(tmp_path_factory.mktemp("model") / "m"))


def test_a_model_s_report_can_be_heard_and_seen(corpus, model, tmp_path):
    pytest.importorskip("matplotlib")
    result = evaluate(model, corpus)
    ids = [one.id for one in worst(result.score, 3)]
    page = written(tmp_path, result.score, num_worst=3, examples=examples(model, corpus, ids))
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag in ("audio", "img")]
    assert [source[:15] for source in sources] == ["data:audio/flac", "data:image/png;"] * 3
    wave_n, rate = soundfile.read(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    (first,) = [u for u in corpus if u.id == ids[0]]
    assert rate == 16000 and len(wave_n) == pytest.approx(first.duration_s * rate, abs=1)
    assert base64.b64decode(sources[1].partition(",")[2]).startswith(b"\x89PNG")


def test_audio_that_is_gone_is_noted_and_the_rest_is_shown(corpus, model, tmp_path):
    pytest.importorskip("matplotlib")
    rows = corpus.utterances
    broken = Manifest(corpus.path, [replace(rows[0], audio_path="gone.wav"), *rows[1:]])
    first, second = examples(model, broken, [rows[0].id, rows[1].id])
    assert first.audio_flac is None and "no such file" in first.note
    assert second.audio_flac and second.picture_png and not second.note


def test_audio_is_kept_as_the_model_hears_it():
    wave_n = sine(0.1)
    read, rate = soundfile.read(io.BytesIO(flac(wave_n, 16000)), dtype="float32")
    assert rate == 16000 and np.abs(read - wave_n).max() < 1 / 32767


def test_without_matplotlib_the_report_is_refused_before_the_work(corpus, tmp_path, monkeypatch, capfd):
    import asr.evaluate
    from asr.cli import run

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(asr.evaluate, "evaluate", lambda *_, **__: pytest.fail("has begun"))
    monkeypatch.setattr(
        sys, "argv", ["asr", "evaluate", str(tmp_path), str(corpus.path), "--report", str(tmp_path / "r.html")]
    )
    with pytest.raises(SystemExit):
        run()
    err = capfd.readouterr().err
    assert err.startswith("asr: pictures need matplotlib: pip install") and err.count("\n") == 1


def test_the_json_and_the_page_agree(corpus, model, tmp_path):
    result = evaluate(model, corpus)
    document = json.loads(json.dumps(result.to_json("m"), allow_nan=False))
    write_report(tmp_path / "r.html", result.score, "t", result.conditions())
    page = Page(tmp_path / "r.html")
    assert page.rows("summary")[1][1] == f"{100 * document['wer']['rate']:.2f}"
    facts = dict(page.rows("facts"))
    assert facts["decoder"] == document["decoder"] and facts["text normalization"] == document["normalization"]
    assert float(facts["real-time factor"]) == pytest.approx(document["rtf"], abs=1e-4)
    by_speaker = page.rows("by")[1:7]
    assert [row[0] for row in by_speaker] == [group["value"] for group in document["by"]["speaker"]]
