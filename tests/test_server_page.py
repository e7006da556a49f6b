"""The server's page, in Chromium: files, a WAV as microphone, corrections, downloads, and what can go wrong.

The models have random weights and always say something; what the page shows is held against what the library says.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile

from asr import Recognizer
from asr.outputs import render
from asr.streaming.pool import open_pool
from asr.transcript import Transcript
from tests.builders import noise, sine, write_wav
from tests.chromium import Browser, Page, chromium, find_chromium
from tests.models import save_random_model
from tests.serving import serving

pytest.importorskip("uvicorn", reason="the server's packages are not installed (extra: server)")
if find_chromium() is None:
    pytest.skip("no Chromium: install it, or name the program with CHROMIUM", allow_module_level=True)

from asr.server.app import make_app
from asr.server.host import Host
from asr.server.page import policy
from asr.server.settings import Settings

RATE_HZ = 16000
KEY = "a-key-that-nobody-guesses"
ONE_WAY = ("model.bidirectional=false", "features.normalization=corpus")

READY = "!document.getElementById('record').disabled && document.getElementById('record').textContent === 'Record'"
ERROR = "document.getElementById('error').textContent"
#: of the newest transcript
WORDS = "[...document.querySelector('article').querySelectorAll('.words button')].map(word => word.textContent)"
DONE = "document.querySelector('article') && !document.querySelector('article .foot').hidden"
FAILED = "document.querySelector('article .error')?.textContent"
#: remembers what is played and what is saved
WATCHED = """
    window.played = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when, from, length) {
        window.played.push([from, length]);
        return start.call(this, when, from, length);
    };
    window.saved = {};
    const address = URL.createObjectURL;
    const blobs = new Map();
    URL.createObjectURL = (blob) => {
        const url = address.call(URL, blob);
        blobs.set(url, blob);
        return url;
    };
    HTMLAnchorElement.prototype.click = function () {
        window.saved[this.download] = blobs.get(this.href);
    };
"""


def spoken(seed: int = 0) -> np.ndarray:
    """Tones with pauses, for about two seconds."""
    hz = np.random.default_rng(seed).uniform(400, 2000, 6)
    pieces = [np.concatenate([sine(0.25, each), np.zeros(1600, np.float32)]) for each in hz]
    wave_n = np.concatenate(pieces)
    return (wave_n + noise(len(wave_n) / 16000, seed=seed, amplitude=0.01)[: len(wave_n)]).astype(np.float32)


class Answers:
    """Stands before the server, and gives these answers to its next uploads instead of it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state = app.state
        self.next: list[tuple[int, dict[str, str], bytes]] = []
        #: live sockets are closed after so many messages
        self.messages: int | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and self.next:
            while (await receive()).get("more_body"):
                pass
            status, headers, body = self.next.pop(0)
            head = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": body})
            return

        count = 0

        async def counted() -> Any:
            nonlocal count
            message = await receive()
            count += message["type"] == "websocket.receive"
            if self.messages is not None and count > self.messages:
                return {"type": "websocket.disconnect", "code": 1006}
            return message

        await self.app(scope, counted if scope["type"] == "websocket" else receive, send)


@contextmanager
def serving_page(recognizers: dict[str, Recognizer], settings: Settings = Settings()) -> Iterator[tuple[str, Answers]]:
    """A server; the page's address, and what stands before the server."""
    made: list[Answers] = []

    def make(*given: Any) -> Answers:
        made.append(Answers(make_app(*given)))
        return made[0]

    hosts = {name: Host(name, each) for name, each in recognizers.items()}
    with mock.patch("asr.server.run.make_app", make), serving(hosts, settings) as address:
        yield f"{address}/", made[0]


@pytest.fixture(scope="module")
def recognizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recognizer]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "one-way": Recognizer.load(save_random_model(folder / "one-way", *ONE_WAY, seed=6), no_speech_threshold=1),
        "two-way": Recognizer.load(save_random_model(folder / "two-way"), no_speech_threshold=1),
    }


@pytest.fixture(scope="module")
def server(recognizers: dict[str, Recognizer]) -> Iterator[tuple[str, Answers]]:
    with serving_page(recognizers) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder / "profile", write_wav(folder / "microphone.wav", spoken())) as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: tuple[str, Answers]) -> Iterator[Page]:
    """The page, open and ready."""
    with browser.page(server[0], before=WATCHED) as opened:
        opened.wait(READY)
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tones.wav", spoken(1))


def transcribe(page: Page, path: Path) -> list[str]:
    """The words that the page shows of a file."""
    page.choose("#files", path)
    page.wait(f"document.querySelector('article h2')?.textContent === {json.dumps(path.name)} && {DONE}")
    return page.do(WORDS)


def click(page: Page, selector: str) -> None:
    page.do(f"document.querySelector({json.dumps(selector)}).click()")


def saved(page: Page, name: str) -> bytes:
    """The content of a file that the page has saved."""
    script = "saved[{}].arrayBuffer().then((bytes) => new Uint8Array(bytes).toBase64())"
    return base64.b64decode(page.do(script.format(json.dumps(name))))


def download(page: Page, format: str) -> str:
    """What is saved in a format, of the newest transcript."""
    click(page, f"article button[aria-label='Download {format}']")
    return saved(page, f"tones.{format}").decode()


def record(page: Page, seconds: int = 1) -> None:
    """Records the microphone for so long, by keyboard alone; or until there is an error."""
    page.do("document.getElementById('record').focus()")
    page.press("Enter")
    if page.wait(f"document.getElementById('record').textContent === 'Stop' || {ERROR}") is True:
        page.wait(f"document.querySelector('article .state').textContent === 'Recording, {seconds} s'")
        page.press("Space")
        page.wait(f"{READY} && {DONE}")


def saved_sound(page: Page, path: Path) -> np.ndarray:
    """The samples of the newest recording, from the file that the page saves."""
    click(page, "article .wav")
    path.write_bytes(saved(page, page.do("Object.keys(saved).find((name) => name.endsWith('.wav'))")))
    samples_n, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    return samples_n


def live_words(recognizer: Recognizer, samples_n: np.ndarray, rate_hz: int = RATE_HZ) -> list[str]:
    """The words of a stream, by the library."""
    pool = open_pool(recognizer)
    stream = pool.open(rate_hz)
    stream.push(samples_n)
    stream.finish()
    return [word.word for _, results in pool.tick() for result in results if result.final for word in result.words]


def words_of(transcript: Transcript) -> list[str]:
    return [word.word for word in transcript.words]


def test_a_file_becomes_words_and_nothing_is_asked_of_another_server(page, server, recognizers, file):
    expected = recognizers["one-way"].transcribe(file)
    assert transcribe(page, file) == words_of(expected)
    assert len(expected.words) > 3
    assert "2.1 s, one-way" in page.do("document.querySelector('article .state').textContent")
    assert not [url for url in page.asked if not url.startswith((server[0], "blob:", "data:"))]
    assert not page.logged


def test_words_say_when_and_how_sure_and_how_sure_is_more_than_a_colour(page, recognizers, file):
    expected = recognizers["one-way"].transcribe(file)
    transcribe(page, file)
    kinds = []
    for index, word in enumerate(expected.words):
        page.do(f"document.querySelectorAll('.words button')[{index}].click()")
        about = page.do("document.querySelector('.about span').textContent")
        assert about == f"{word.start_s:.2f} to {word.end_s:.2f} s, {word.confidence:.0%}".replace("%", " percent sure")
        kinds.append("unsure" if word.confidence < 0.6 else "fair" if word.confidence < 0.9 else "")
    found = page.do("[...document.querySelectorAll('.words button')].map(word => word.classList[0] ?? '')")
    assert [kind if kind in ("unsure", "fair") else "" for kind in found] == kinds
    lines = page.do(
        "[...document.querySelectorAll('.words button')].map(word => getComputedStyle(word).textDecorationStyle)"
    )
    assert lines == [{"unsure": "wavy", "fair": "dotted", "": "solid"}[kind] for kind in kinds]
    assert len(set(kinds)) > 1


def test_the_chosen_model_is_asked_and_files_keep_their_order(page, recognizers, tmp_path):
    files = [write_wav(tmp_path / f"{seed}.wav", spoken(seed)) for seed in range(6)]
    page.do("document.getElementById('model').value = 'two-way'; document.getElementById('model').onchange()")
    page.choose("#files", *files)
    page.wait("document.querySelectorAll('article .foot:not([hidden])').length === 6")
    names = page.do("[...document.querySelectorAll('article h2')].map(name => name.textContent)")
    assert names == [path.name for path in files]
    found = page.do("""[...document.querySelectorAll('article')].map(card =>
        [...card.querySelectorAll('.words button')].map(word => word.textContent))""")
    assert found == [words_of(recognizers["two-way"].transcribe(path)) for path in files]


def test_dropped_files_are_transcribed(page, recognizers, file):
    content = base64.b64encode(file.read_bytes()).decode()
    page.do(f"""
        const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.wav"));
        document.dispatchEvent(new DragEvent("dragover", {{ dataTransfer, bubbles: true, cancelable: true }}));
        window.hint = document.getElementById("drop").hidden;
        document.dispatchEvent(new DragEvent("drop", {{ dataTransfer, bubbles: true, cancelable: true }})); 0
    """)
    page.wait(DONE)
    assert page.do(WORDS) == words_of(recognizers["one-way"].transcribe(file))
    assert page.do("window.hint") is False
    assert page.do("document.getElementById('drop').hidden")


def test_words_are_heard_and_corrected_by_keyboard_alone(page, recognizers, file):
    expected = recognizers["one-way"].transcribe(file).words
    transcribe(page, file)
    page.do("document.querySelector('.words button').focus()")
    page.press("ArrowRight")
    page.press("Enter")
    page.wait("window.played.length === 1")
    start_s, length_s = page.do("window.played[0]")
    assert start_s == pytest.approx(max(0, expected[1].start_s - 0.1), abs=1e-3)
    assert start_s + length_s == pytest.approx(expected[1].end_s + 0.1, abs=1e-3)

    page.press("F2")
    page.type("  right   now ")
    page.press("Enter")
    assert page.do("document.activeElement.textContent") == "right now"
    assert page.do("document.activeElement.classList.contains('corrected')")
    assert (
        page.do("document.activeElement.getAttribute('aria-label')")
        == f"right now, corrected, heard as {expected[1].word}"
    )

    page.press("End")
    page.press("F2")
    page.type("not this")
    page.press("Escape")
    assert page.do("document.activeElement.textContent") == expected[-1].word

    page.press("Home")
    page.press("F2")
    page.do("document.activeElement.value = ''; 0")
    page.press("Enter")
    assert page.do("document.activeElement.className").startswith("removed")
    texts = ["right now", *(word.word for word in expected[2:])]
    assert download(page, "txt").split() == " ".join(texts).split()
    click(page, "article .restore")
    assert page.do(WORDS) == [expected[0].word, *texts]


def test_the_page_asks_before_corrections_are_lost(page, file):
    asks = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    transcribe(page, file)
    assert not page.do(asks)
    page.do("document.querySelector('.words button').focus()")
    page.press("F2")
    page.type("else")
    page.press("Enter")
    assert page.do(asks)
    download(page, "json")
    assert not page.do(asks)


def test_without_corrections_text_and_grid_are_those_of_the_library(page, recognizers, file):
    transcript = recognizers["one-way"].transcribe(file)
    transcribe(page, file)
    assert download(page, "txt") == render(transcript, "txt")
    assert download(page, "TextGrid") == render(transcript, "TextGrid")


def test_subtitles_and_documents_are_read_by_other_tools_with_the_corrections(page, recognizers, file):
    srt = pytest.importorskip("srt")
    webvtt = pytest.importorskip("webvtt")
    pysubs2 = pytest.importorskip("pysubs2")
    expected = recognizers["one-way"].transcribe(file).words
    transcribe(page, file)
    page.do("document.querySelector('.words button').dispatchEvent(new MouseEvent('dblclick', {bubbles: true})); 0")
    page.type('a < b & "c" --> d')
    page.press("Enter")
    rest = " ".join(word.word for word in expected[1:])

    cues = list(srt.parse(download(page, "srt")))
    assert " ".join(" ".join(cue.content.split()) for cue in cues) == f'a < b & "c" -> d {rest}'
    assert cues[0].start.total_seconds() == pytest.approx(expected[0].start_s, abs=1e-3)
    assert all(before.end <= after.start for before, after in itertools.pairwise(cues))
    captions = webvtt.from_string(download(page, "vtt")).captions
    assert [caption.start_in_seconds for caption in captions] == [int(cue.start.total_seconds()) for cue in cues]

    document = json.loads(download(page, "json"))
    assert len(pysubs2.load_from_whisper(document).events) == len(document["segments"]) > 0
    assert document["text"] == f'a < b & "c" --> d {rest}'
    words = [word for segment in document["segments"] for word in segment["words"]]
    assert [word["probability"] for word in words] == [None, *(word.confidence for word in expected[1:])]
    (correction,) = document["corrections"]
    assert (correction["heard"], correction["text"]) == (expected[0].word, 'a < b & "c" --> d')


def test_long_words_and_pauses_are_divided_into_short_cues(page, server, file):
    words = [{"word": f"word{i}", "start": 0.4 * i, "end": 0.4 * i + 0.3} for i in range(60)]
    words += [{"word": "later", "start": 30.0, "end": 30.2}]
    answer = {"text": "", "duration": 31.0, "words": words}
    server[1].next = [(200, {"content-type": "application/json"}, json.dumps(answer).encode())]
    transcribe(page, file)
    srt = pytest.importorskip("srt")
    cues = list(srt.parse(download(page, "srt")))
    assert [word for cue in cues for word in cue.content.split()] == [word["word"] for word in words]
    assert cues[-1].content == "later"
    assert max((cue.end - cue.start).total_seconds() for cue in cues) <= 7
    assert max(len(line) for cue in cues for line in cue.content.split("\n")) <= 42
    assert max(cue.content.count("\n") for cue in cues) <= 1
    assert "confidence not known" in page.do("document.querySelector('.words button').getAttribute('aria-label')")


def test_a_busy_server_is_asked_again(page, server, recognizers, file):
    server[1].next = [(429, {"retry-after": "1"}, b"{}")]
    assert transcribe(page, file) == words_of(recognizers["one-way"].transcribe(file))


def test_a_file_that_cannot_be_used_is_one_line_and_the_others_are_done(page, recognizers, file, tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "notes.txt").write_text("no sound at all\n" * 20)
    page.choose("#files", tmp_path / "empty.wav", tmp_path / "notes.txt", file)
    page.wait(
        "document.querySelectorAll('article .error:not(:empty)').length === 2 && "
        "document.querySelectorAll('article .foot:not([hidden])').length === 1"
    )
    empty, notes, good = page.do("[...document.querySelectorAll('article')].map(card => card.innerText)")
    assert "empty.wav is empty" in empty
    assert "notes.txt" in notes
    assert "Try again" in notes
    assert " ".join(words_of(recognizers["one-way"].transcribe(file))) in " ".join(good.split())


def test_hotwords_are_sent_with_a_file(page, recognizers, file):
    recognizer = recognizers["one-way"]
    plain = words_of(recognizer.transcribe(file))
    expecting = recognizer.with_decoder(recognizer.decoder.with_hotwords({"dab": 30.0, "bad": 30.0}))
    expected = words_of(expecting.transcribe(file))
    page.do("document.getElementById('hotwords').value = 'dab:30, bad:30,'; 0")
    assert transcribe(page, file) == expected != plain


def test_a_file_over_the_limit_is_one_line(browser, recognizers, tmp_path):
    large = write_wav(tmp_path / "large.wav", noise(20.0))
    with serving_page(recognizers, Settings(max_upload=100_000)) as (address, _), browser.page(address) as page:
        page.wait(READY)
        page.choose("#files", large)
        assert "100,000 bytes, which is the limit" in page.wait(FAILED)


def test_what_failed_can_be_tried_again(page, server, recognizers, file):
    server[1].next = [(500, {}, b"")]
    page.choose("#files", file)
    assert page.wait(FAILED) == "The server answers 500."
    click(page, "article .again")
    page.wait(DONE)
    assert page.do(WORDS) == words_of(recognizers["one-way"].transcribe(file))
    assert not page.do(FAILED)
    click(page, "article .remove")
    assert page.do("document.querySelector('article') === null")


def test_a_server_with_keys_is_given_one(browser, recognizers, file):
    with (
        serving_page(recognizers, Settings(keys=(KEY,))) as (address, _),
        browser.page(address, before=WATCHED) as page,
    ):
        assert "asks for an API key" in page.wait(ERROR)
        assert page.do("document.activeElement.id") == "key"
        page.type("another-key-than-that")
        page.press("Enter")
        page.wait(f"{ERROR}.includes('does not know this API key')")
        page.do("document.getElementById('key').value = ''; 0")
        page.type(KEY)
        page.press("Enter")
        page.wait(READY)
        assert page.do(ERROR) == ""
        assert transcribe(page, file) == words_of(recognizers["one-way"].transcribe(file))
        record(page)
        assert page.do(WORDS)


def test_words_appear_while_somebody_speaks_and_are_those_of_the_library(page, recognizers, tmp_path):
    page.do("""
        window.changing = [];
        const look = () => {
            const text = document.querySelector(".partial")?.textContent;
            if (text && text !== changing.at(-1)) changing.push(text);
        };
        new MutationObserver(look).observe(document.body, { childList: true, subtree: true }); 0
    """)
    record(page, 2)
    samples_n = saved_sound(page, tmp_path / "a.wav")
    assert len(samples_n) >= 2 * RATE_HZ
    expected = live_words(recognizers["one-way"], samples_n)
    assert page.do(WORDS) == expected
    assert len(expected) > 3
    assert len(page.do("changing")) > 3
    assert page.do("document.querySelector('.partial')") is None
    assert page.do("document.activeElement.id") == "record"  # the focus has not been lost
    assert page.do("document.getElementById('heard').textContent").split()[-1] == expected[-1]
    click(page, "article .words button")
    page.wait("window.played.length === 1")
    assert not page.logged


@pytest.mark.parametrize("model", ["one-way", "two-way"])
def test_hotwords_are_expected_in_live_sound(page, recognizers, tmp_path, model):
    recognizer = recognizers[model]
    expecting = recognizer.with_decoder(recognizer.decoder.with_hotwords({"dab": 30.0, "bad": 30.0}))
    page.do(f"document.getElementById('model').value = '{model}'; document.getElementById('model').onchange()")
    page.do("document.getElementById('hotwords').value = 'dab:30, bad:30,'; 0")
    record(page, 2)
    samples_n = saved_sound(page, tmp_path / "a.wav")
    assert page.do(WORDS) == live_words(expecting, samples_n) != live_words(recognizer, samples_n)


def test_hotwords_that_the_model_cannot_write_are_one_line(page):
    page.do("document.getElementById('hotwords').value = 'rhubarb'; 0")
    record(page)
    assert "check the names and terms (single words in the model's letters" in page.do(ERROR)
    assert page.do("document.querySelector('article') === null")


def test_hotwords_that_are_hidden_are_not_sent(browser, recognizers, file):
    greedy = Recognizer(recognizers["one-way"].model, no_speech_threshold=1.0)
    both = {"one-way": recognizers["one-way"], "greedy": greedy}
    with serving_page(both) as (address, _), browser.page(address, before=WATCHED) as page:
        page.wait(READY)
        page.do("document.getElementById('hotwords').value = 'dab:30'; 0")
        page.do("document.getElementById('model').value = 'greedy'; document.getElementById('model').onchange()")
        assert page.do("document.getElementById('hotwords').parentElement.hidden")
        assert transcribe(page, file) == words_of(greedy.transcribe(file))
        record(page)
        assert page.do(WORDS)


def test_what_is_recorded_is_what_the_microphone_gave(page, tmp_path):
    record(page, 2)
    heard_n = saved_sound(page, tmp_path / "a.wav")
    said_n = spoken()
    alike = []
    for part_n in np.split(said_n, 8):
        at = int(np.argmax(np.correlate(heard_n, part_n, "valid")))
        alike.append(np.corrcoef(heard_n[at : at + len(part_n)], part_n)[0, 1])
    # The first parts are played before the page records, and a busy machine drops some sound. The samples are not the
    # same, since the browser plays the file at the rate of its own device.
    assert max(alike) > 0.95
    assert np.abs(heard_n).max() == pytest.approx(np.abs(said_n).max(), rel=0.1)


def test_a_model_that_does_not_stream_is_said_to_answer_after_pauses(page, recognizers, tmp_path):
    assert "after each pause" not in page.do("document.getElementById('status').textContent")
    page.do("document.getElementById('model').value = 'two-way'; document.getElementById('model').onchange()")
    assert "after each pause" in page.do("document.getElementById('status').textContent")
    record(page)
    assert page.do(WORDS) == live_words(recognizers["two-way"], saved_sound(page, tmp_path / "a.wav"))


def test_a_microphone_that_keeps_its_own_rate_is_sent_at_that_rate(browser, server):
    as_firefox = """
        const create = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 16000) throw new DOMException("another rate", "NotSupportedError");
            window.ownRate = this.sampleRate;
            return create.call(this, stream);
        };
    """
    with browser.page(server[0], before=WATCHED + as_firefox) as page:
        page.wait(READY)
        record(page)
        assert page.do(WORDS)
        assert page.do("window.ownRate") > RATE_HZ
        assert "1." in page.do("document.querySelector('article .state').textContent")


@pytest.mark.parametrize(
    ("thrown", "said"),
    [
        ("NotFoundError", "There is no microphone"),
        ("NotAllowedError", "The microphone is not allowed"),
        ("NotReadableError", "in use by another program"),
        ("AbortError", "does not start (AbortError)"),
    ],
)
def test_a_microphone_that_cannot_be_had_is_one_line(page, thrown, said):
    page.do(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{thrown}') }}; 0")
    record(page)
    assert said in page.do(ERROR)
    assert page.do(READY)


def test_a_page_that_is_not_given_microphones_says_why(page):
    page.do("Object.defineProperty(navigator, 'mediaDevices', {value: undefined, configurable: true}); 0")
    record(page)
    assert "from https:// or localhost only" in page.do(ERROR)


def test_audio_that_does_not_start_is_one_line(browser, server, file):
    never = """
        AudioContext.prototype.resume = () => new Promise(() => {});
        const later = window.setTimeout;
        window.setTimeout = (action, ms, ...values) => later(action, ms / 50, ...values);
    """
    with browser.page(server[0], before=never) as page:
        page.wait(READY)
        record(page)
        assert "audio does not start" in page.do(ERROR)
        transcribe(page, file)
        page.do("document.getElementById('error').textContent = ''")
        click(page, "article .play")
        assert "audio does not start" in page.wait(ERROR)


def test_a_muted_microphone_is_one_line(page):
    page.do("""
        const silence = new AudioContext().createMediaStreamDestination().stream;
        navigator.mediaDevices.getUserMedia = async () => silence; 0
    """)
    record(page)
    assert "silence only" in page.do(FAILED)


def test_a_recording_outlives_the_connection_and_can_be_sent_again(page, server, recognizers, tmp_path):
    server[1].messages = 12
    try:
        page.do("document.getElementById('record').click()")
        assert "has ended the connection" in page.wait(FAILED)
    finally:
        server[1].messages = None
    page.wait(READY)
    saved_sound(page, tmp_path / "a.wav")
    click(page, "article .again")
    page.wait(f"document.querySelector('article .again').hidden && {DONE} && {WORDS}.length")
    assert page.do(WORDS) == words_of(recognizers["one-way"].transcribe(tmp_path / "a.wav"))


def test_removing_a_recording_switches_the_microphone_off(page):
    page.do("""
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wish) => (window.given = await ask(wish)); 0
    """)
    page.do("document.getElementById('record').click()")
    page.wait("document.querySelector('article .state')?.textContent === 'Recording, 1 s'")
    click(page, "article .remove")
    page.wait(READY)
    assert page.do("given.getTracks()[0].readyState") == "ended"


def test_a_server_that_takes_no_live_sound_is_one_line(page):
    page.do("document.getElementById('model').append(new Option('gone', 'gone', true, true)); 0")
    record(page)
    assert "does not take live sound" in page.do(ERROR)
    assert page.do("document.querySelector('article') === null")


def test_every_control_has_a_name_and_the_page_fits_a_narrow_dark_screen(page, file):
    transcribe(page, file)
    click(page, ".words button")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "combobox", "progressbar", "group")
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 15
    assert all(node["name"]["value"] for node in controls)

    light = page.do("getComputedStyle(document.body).backgroundColor")
    screen: dict[str, Any] = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", screen)
    page.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert page.do("document.documentElement.scrollWidth") <= 320
    assert page.do("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page, file, scheme):
    page.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    style = page.do("""(() => {
        const style = getComputedStyle(document.documentElement);
        const names = ["paper", "card", "chosen", "ink", "soft", "red", "amber", "accent", "on-accent"];
        return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
    })()""")
    for ink in ("ink", "soft", "red", "amber", "accent"):
        for paper in ("paper", "card"):
            assert contrast(style[ink], style[paper]) >= 4.5, (ink, paper)
    for ink in ("ink", "red", "amber"):
        assert contrast(style[ink], style["chosen"]) >= 4.5, ink
    assert contrast(style["on-accent"], style["accent"]) >= 4.5
    assert contrast(style["on-accent"], style["red"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""
    brightness = []
    for colour in (one, other):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        brightness.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(brightness) + 0.05) / (min(brightness) + 0.05)


def test_the_policy_lets_no_other_script_run_and_no_other_server_be_asked(page, server):
    assert (
        page.do("(() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } })()")
        == "TypeError"
    )
    elsewhere = server[0].replace("127.0.0.1", "localhost")
    ask = "fetch('{}', {{mode: 'no-cors'}}).then(() => 'reached', (error) => error.name)"
    assert page.do(ask.format(elsewhere)) == "TypeError"
    assert page.do(ask.format(server[0])) == "reached"


def test_the_policy_names_each_script_and_style():
    rules = policy("<style>p {}</style><script>1</script><script type='module'>2</script>")
    assert rules.count("'sha256-") == 3
    assert "unsafe" not in rules
