"""Live sockets of the server: official clients and clients by hand, models that stream and models that do not."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile

from asr.streaming.results import Result, Rules
from asr.transcribe import Recognizer
from tests.builders import Wave, noise, tones
from tests.models import save_random_model, save_streaming_model
from tests.serving import serving

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("websockets", reason="needs the extra 'server'")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from asr.server.errors import ApiError
from asr.server.host import Host, read_hotwords
from asr.server.live import Session, Update
from asr.server.samples import Samples
from asr.server.settings import Settings

KEY = "a-key-of-our-own-0123"
HEADERS = {"Authorization": f"Bearer {KEY}"}
RATE_HZ = 16000
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"
REALTIME = "/v1/realtime?intent=transcription"


@pytest.fixture(scope="module")
def recognizers(tmp_path_factory) -> dict[str, Recognizer]:
    folder = tmp_path_factory.mktemp("models")
    streaming = save_streaming_model(folder / "streaming")
    whole = save_random_model(folder / "whole")
    # tones are no speech
    return {path.name: Recognizer.load(path, "cpu", no_speech_threshold=1) for path in (streaming, whole)}


@pytest.fixture(scope="module")
def hosts(recognizers) -> dict[str, Host]:
    return {name: Host(name, recognizer, language="en") for name, recognizer in recognizers.items()}


@pytest.fixture(scope="module")
def url(hosts) -> Iterator[str]:
    with serving(hosts, Settings(keys=(KEY,), max_streams=8)) as address:
        yield address.replace("http", "ws", 1)


@pytest.fixture(scope="module")
def pcm_n() -> Any:
    """Two passages with a pause of 1.5 s between them, 16 bits."""
    rng = np.random.default_rng(5)
    wave_n = np.concatenate([tones("abc da", rng), noise(1.5, amplitude=0.01), tones("bad cab", rng)])
    return np.round(wave_n * 32767).astype("<i2")


def texts_of(recognizer: Recognizer, pcm_n: Any, rules: Rules = Rules(), rate_hz: int = RATE_HZ) -> list[Result]:
    """The final results of the library's own stream."""
    from asr.streaming.pool import open_pool

    pool = open_pool(recognizer)
    stream = pool.open(rate_hz, rules)
    stream.push(pcm_n)
    stream.finish()
    return [result for _, results in pool.tick() for result in results if result.final]


def expecting(recognizer: Recognizer, **hotwords: float) -> Recognizer:
    assert recognizer.decoder.with_hotwords is not None
    return recognizer.with_decoder(recognizer.decoder.with_hotwords(hotwords))


def said(results: list[Result]) -> list[str]:
    return [result.text for result in results if result.text]


def chunks(pcm_n: Any, size: int = 1600) -> Iterator[bytes]:
    for i in range(0, len(pcm_n), size):
        yield pcm_n[i : i + size].tobytes()


# Deepgram


@pytest.fixture(scope="module")
def places(url):
    """Deepgram's official client, and where it finds the server."""
    sdk = pytest.importorskip("deepgram", reason="needs Deepgram's client")
    from deepgram.environment import DeepgramClientEnvironment

    http = url.replace("ws", "http", 1)
    return sdk, DeepgramClientEnvironment(base=http, production=url, agent=url, agent_rest=http)


@pytest.fixture
def deepgram(places):
    """What Deepgram's client gets back for audio and messages."""
    sdk, environment = places

    def listen(audio: list[bytes], messages: tuple[str, ...] = (), **wishes: Any) -> list[Any]:
        query = {"model": "streaming", "encoding": "linear16", "sample_rate": RATE_HZ, **wishes}
        with sdk.DeepgramClient(api_key=KEY, environment=environment).listen.v1.connect(**query) as connection:
            for part in audio:
                connection.send_media(part)
            for name in messages:
                getattr(connection, f"send_{name}")()
            connection.send_close_stream()
            return list(connection)

    return listen


@pytest.mark.parametrize("model", ["streaming", "whole"])
def test_deepgrams_client_gets_the_words_of_the_stream_with_their_times(deepgram, recognizers, pcm_n, model):
    *results, metadata = deepgram(list(chunks(pcm_n)), model=model)
    wanted = texts_of(recognizers[model], pcm_n)
    got = [result.channel.alternatives[0] for result in results if result.channel.alternatives[0].transcript]
    assert [each.transcript for each in got] == said(wanted)
    assert [(word.word, word.start, word.end, word.confidence) for each in got for word in each.words] == [
        (word.word, round(word.start_s, 3), round(word.end_s, 3), round(word.confidence or 0, 4))
        for result in wanted
        for word in result.words
    ]
    assert all(result.is_final for result in results)
    assert metadata.type == "Metadata" and metadata.duration == pytest.approx(len(pcm_n) / RATE_HZ, abs=1e-3)


def test_deepgrams_interim_results_grow_into_the_final_one(deepgram, pcm_n):
    messages = deepgram(list(chunks(pcm_n)), interim_results=True)
    interim: list[str] = []
    for message in messages[:-1]:
        text = message.channel.alternatives[0].transcript
        if message.is_final:
            assert all(text.startswith(each) for each in interim)
            interim = []
        else:
            assert text
            interim.append(text)
    assert any(not message.is_final for message in messages[:-1])


def test_deepgrams_passages_follow_each_other_and_only_end_points_are_final_speech(deepgram, pcm_n):
    results = deepgram(list(chunks(pcm_n)), endpointing=500)[:-1]
    ends = [0.0, *(result.start + result.duration for result in results)]
    assert [result.start for result in results] == pytest.approx(ends[:-1], abs=0.05)
    spoken = [result for result in results if result.channel.alternatives[0].transcript]
    assert [result.speech_final for result in spoken[:-1]] == [True] * (len(spoken) - 1)
    assert not results[-1].speech_final  # the stream was closed


def test_deepgrams_finalize_is_answered_also_where_nothing_is_left(deepgram, pcm_n):
    messages = deepgram(list(chunks(pcm_n[:20000])), ("keep_alive", "finalize", "finalize"))
    flags = [message.from_finalize for message in messages if message.type == "Results"]
    assert flags.count(True) == 2


@pytest.mark.parametrize("model", ["streaming", "whole"])
@pytest.mark.parametrize("wishes", [{"keyterm": ["dab:30", "cad"]}, {"keyterm": "cad", "keywords": "dab:30"}])
def test_deepgrams_keyterms_are_expected_in_their_stream_alone(deepgram, recognizers, pcm_n, model, wishes):
    *results, _ = deepgram(list(chunks(pcm_n)), model=model, **wishes)
    got = [result.channel.alternatives[0].transcript for result in results]
    wanted = said(texts_of(expecting(recognizers[model], dab=30.0, cad=10.0), pcm_n))
    plain = said(texts_of(recognizers[model], pcm_n))
    assert [text for text in got if text] == wanted != plain

    *results, _ = deepgram(list(chunks(pcm_n)), model=model)
    got = [result.channel.alternatives[0].transcript for result in results]
    assert [text for text in got if text] == plain


def test_hotwords_are_refused_where_greedy_decoding_was_asked_for_and_beyond_a_thousand(recognizers):
    recognizer = recognizers["streaming"]
    with pytest.raises(ApiError, match="'keyterm' needs the beam search"):
        read_hotwords(["dab"], Host("plain", Recognizer(recognizer.model)), "keyterm")
    with pytest.raises(ApiError, match="'keyterm' has 1,001 words; at most 1,000"):
        read_hotwords(["dab"] * 1001, Host("streaming", recognizer), "keyterm")
    assert read_hotwords(["dab"] * 1000, Host("streaming", recognizer)) == (("dab", 10.0),)


def test_deepgrams_utterance_end_and_speech_started_come_if_asked_for(deepgram, pcm_n):
    quiet = np.round(noise(2.0, amplitude=0.01) * 32767).astype("<i2")
    messages = deepgram(
        list(chunks(np.concatenate([pcm_n[:20000], quiet]))),
        interim_results=True,
        utterance_end_ms=1000,
        vad_events=True,
    )
    kinds = [message.type for message in messages]
    first_word = next(m for m in messages if m.type == "Results" and m.channel.alternatives[0].words)
    started = next(m for m in messages if m.type == "SpeechStarted")
    assert kinds.index("SpeechStarted") < messages.index(first_word)
    assert started.timestamp == first_word.channel.alternatives[0].words[0].start
    assert "UtteranceEnd" in kinds
    assert not {"UtteranceEnd", "SpeechStarted"} & {m.type for m in deepgram(list(chunks(pcm_n)))}


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("", 400, "encoding"),
        ("encoding=opus&sample_rate=48000", 400, "opus"),
        ("encoding=linear16", 400, "sample_rate"),
        ("encoding=linear16&sample_rate=10", 400, "10"),
        ("encoding=linear16&sample_rate=16000&punctuate=true", 400, "punctuate"),
        ("encoding=linear16&sample_rate=16000&keyterm=rhubarb", 400, "keyterm"),
        ("encoding=linear16&sample_rate=16000&keywords=dab:loud", 400, "dab:loud"),
        ("encoding=linear16&sample_rate=16000&channels=2", 400, "channels"),
        ("encoding=linear16&sample_rate=16000&intrim_results=true", 400, "did you mean 'interim_results'"),
        ("encoding=linear16&sample_rate=16000&interim_results=yes", 400, "interim_results"),
        ("encoding=linear16&sample_rate=16000&endpointing=soon", 400, "endpointing"),
        ("encoding=linear16&sample_rate=16000&utterance_end_ms=5", 400, "utterance_end_ms"),
        ("encoding=linear16&sample_rate=16000&model=nova-3", 404, "nova-3"),
    ],
)
def test_deepgrams_parameters_that_cannot_be_honoured_are_refused_by_name(url, query, status, named):
    with pytest.raises(InvalidStatus) as caught, connect(f"{url}/v1/listen?{query}", additional_headers=HEADERS):
        pass
    assert caught.value.response.status_code == status
    document = json.loads(caught.value.response.body)
    assert set(document) == {"err_code", "err_msg", "request_id"}
    assert named in document["err_msg"]


def test_more_keyterms_than_an_address_holds_are_refused_and_not_left_without_an_answer(url):
    with pytest.raises(InvalidStatus) as caught, connect(f"{url}{LISTEN}{'&keyterm=dab' * 1000}", open_timeout=5):
        pass
    assert caught.value.response.status_code == 414


def test_a_browser_sends_deepgrams_key_as_a_subprotocol(url):
    with connect(f"{url}{LISTEN}", subprotocols=["token", KEY]) as socket:
        assert socket.subprotocol == "token"
        socket.send(json.dumps({"type": "CloseStream"}))
        assert json.loads(socket.recv())["type"] == "Metadata"


@pytest.mark.parametrize("path", [LISTEN, REALTIME, "/", "/vosk"])
def test_every_socket_needs_the_key(url, path):
    with pytest.raises(InvalidStatus) as caught, connect(url + path):
        pass
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize("message", ["no json", "[]", "{}", '{"type": "Configure"}', "[" * 100000])
def test_a_message_that_is_none_gets_an_error_and_the_stream_goes_on(url, message):
    with connect(f"{url}{LISTEN}", additional_headers=HEADERS) as socket:
        socket.send(message)
        assert json.loads(socket.recv())["type"] == "Error"
        socket.send(json.dumps({"type": "CloseStream"}))
        assert json.loads(socket.recv())["type"] == "Metadata"


@pytest.fixture(scope="module")
def wav(tmp_path_factory, pcm_n) -> Path:
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    soundfile.write(path, pcm_n, RATE_HZ)
    return path


def test_deepgrams_client_gets_the_words_of_a_file(places, recognizers, wav):
    sdk, environment = places
    media = sdk.DeepgramClient(api_key=KEY, environment=environment).listen.v1.media
    response = media.transcribe_file(request=wav.read_bytes(), model="whole", utterances=True, language="en-GB")
    transcript = recognizers["whole"].transcribe(wav)
    (found,) = response.results.channels[0].alternatives
    assert found.transcript == transcript.text
    assert [word.start for word in found.words] == [round(word.start_s, 3) for word in transcript.words]
    assert [each.transcript for each in response.results.utterances] == [each.text for each in transcript.segments]
    assert response.metadata.sha256 == hashlib.sha256(wav.read_bytes()).hexdigest()
    assert response.metadata.duration == pytest.approx(transcript.duration_s)


def test_deepgrams_client_learns_why_a_file_is_refused(places, wav):
    sdk, environment = places
    media = sdk.DeepgramClient(api_key=KEY, environment=environment).listen.v1.media
    for content, wishes, named in (
        (b"", {}, "empty"),
        (b"no sound at all", {}, "audio"),
        (wav.read_bytes(), {"smart_format": True}, "smart_format"),
        (wav.read_bytes(), {"keyterm": "rhubarb"}, "rhubarb"),
        (wav.read_bytes(), {"encoding": "linear16"}, "encoding"),
        (wav.read_bytes(), {"language": "fr"}, "fr"),
    ):
        with pytest.raises(sdk.core.api_error.ApiError) as caught:
            media.transcribe_file(request=content, **{"model": "whole", **wishes})
        assert caught.value.status_code == 400
        assert named in str(caught.value.body)
    with pytest.raises(sdk.core.api_error.ApiError, match="'url' is not supported"):
        media.transcribe_url(url="https://example.org/a.wav", model="whole")


# OpenAI


def update(turns: dict[str, Any] | None, model: str = "streaming", **fields: Any) -> dict[str, Any]:
    heard = {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": {"model": model},
        "turn_detection": turns,
    }
    return {"type": "transcription", "audio": {"input": heard | fields}}


def as_24khz(pcm_n: Any) -> Any:
    """The samples at the rate of OpenAI's API, each passage with the same noise."""
    from asr.data.audio import resampled

    return np.round(resampled(pcm_n.astype(np.float32) / 32768, RATE_HZ, 24000) * 32767).astype("<i2")


@pytest.fixture
def openai(url):
    client = pytest.importorskip("openai", reason="needs OpenAI's client")
    with client.OpenAI(base_url=f"{url.replace('ws', 'http', 1)}/v1", api_key=KEY, max_retries=0) as opened:
        yield opened


def converse(openai: Any, session: dict[str, Any], audio: list[bytes], until: int) -> list[Any]:
    """The events after the session's update, up to so many that are complete."""
    with openai.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session=session)
        assert connection.recv().type == "session.updated"
        for part in audio:
            connection.input_audio_buffer.append(audio=base64.b64encode(part).decode())
        connection.input_audio_buffer.commit()
        events = []
        while sum(event.type.endswith(".completed") for event in events) < until:
            events.append(connection.recv())
        return events


@pytest.mark.parametrize("model", ["streaming", "whole"])
def test_openais_client_gets_what_it_has_committed_as_one_item(openai, recognizers, pcm_n, model):
    heard_n = as_24khz(pcm_n)
    events = converse(openai, update(None, model), list(chunks(heard_n)), 1)
    wanted = " ".join(said(texts_of(recognizers[model], heard_n, rate_hz=24000)))
    completed = events[-1]
    assert completed.transcript == wanted
    assert completed.usage.type == "duration" and completed.usage.seconds == pytest.approx(
        len(pcm_n) / RATE_HZ, abs=0.1
    )
    deltas = [event for event in events if event.type.endswith(".delta")]
    assert "".join(event.delta for event in deltas) == wanted
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert {event.item_id for event in (*deltas, *committed, completed)} == {completed.item_id}


@pytest.mark.parametrize("model", ["streaming", "whole"])
def test_openais_turns_end_in_pauses_each_with_an_item_of_its_own(openai, recognizers, pcm_n, model):
    heard_n = as_24khz(pcm_n)
    wanted = said(texts_of(recognizers[model], heard_n, Rules(pause_s=0.5), 24000))
    turns = {"type": "server_vad", "silence_duration_ms": 500, "threshold": 0.5, "prefix_padding_ms": 300}
    events = converse(openai, update(turns, model), list(chunks(heard_n)), len(wanted))
    completed = [event for event in events if event.type.endswith(".completed")]
    assert [event.transcript for event in completed] == wanted
    assert len(wanted) > 1
    for event in completed[:-1]:  # the last one was committed by the client
        own = [each.type for each in events if getattr(each, "item_id", None) == event.item_id]
        turn = [kind for kind in own if kind.startswith("input_audio_buffer.")]
        assert turn == [f"input_audio_buffer.{each}" for each in ("speech_started", "speech_stopped", "committed")]
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.previous_item_id for event in committed] == [None, *(event.item_id for event in committed[:-1])]


@pytest.mark.parametrize("model", ["streaming", "whole"])
def test_openais_keywords_are_expected_in_the_session(openai, recognizers, pcm_n, model):
    heard_n = as_24khz(pcm_n)
    session = update(None, model, transcription={"model": model, "keywords": ["dab:30"]})
    wanted = " ".join(said(texts_of(expecting(recognizers[model], dab=30.0), heard_n, rate_hz=24000)))
    assert converse(openai, session, list(chunks(heard_n)), 1)[-1].transcript == wanted
    assert wanted != " ".join(said(texts_of(recognizers[model], heard_n, rate_hz=24000)))


def test_openais_keywords_stay_until_others_are_given(openai):
    with openai.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.recv()
        seen = []
        for more in ({"keywords": ["dab"]}, {"model": "whole"}, {"keywords": ["rhubarb"]}, {}, {"keywords": ["a b"]}):
            connection.session.update(session=update(None, transcription=more))
            event = connection.recv()
            seen.append(
                event.error.param if event.type == "error" else event.session.audio.input.transcription.keywords
            )
    assert seen == [["dab"], ["dab"], "session.audio.input.transcription.keywords", ["dab"], ["a b"]]


def test_openais_items_are_kept_apart_however_fast_they_come(openai, recognizers, pcm_n):
    heard_n = as_24khz(pcm_n)[:30000]
    with openai.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session=update(None))
        for _ in range(5):
            connection.input_audio_buffer.append(audio=base64.b64encode(heard_n.tobytes()).decode())
            connection.input_audio_buffer.commit()
        completed: list[Any] = []
        committed: list[str] = []
        while len(completed) < 5:
            event = connection.recv()
            if event.type == "input_audio_buffer.committed":
                committed.append(event.item_id)
            if event.type.endswith(".completed"):
                completed.append(event)
    assert [event.item_id for event in completed] == committed
    assert len({event.transcript for event in completed}) == 1
    assert completed[0].transcript == " ".join(said(texts_of(recognizers["streaming"], heard_n, rate_hz=24000)))


def test_openais_buffer_that_is_cleared_gives_no_item(openai, pcm_n):
    part = base64.b64encode(as_24khz(pcm_n)[:30000].tobytes()).decode()
    with openai.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session=update(None, "whole"))
        connection.input_audio_buffer.append(audio=part)
        connection.input_audio_buffer.clear()
        connection.input_audio_buffer.append(audio=part)
        connection.input_audio_buffer.commit()
        kinds: list[str] = []
        while not kinds or not kinds[-1].endswith("completed"):
            kinds.append(connection.recv().type)
    assert kinds.count("input_audio_buffer.cleared") == 1
    assert sum(kind.endswith(".completed") for kind in kinds) == 1
    assert kinds.count("input_audio_buffer.committed") == 1


def test_openais_log_probabilities_are_those_of_the_words(openai, pcm_n):
    session = update(None) | {"include": ["item.input_audio_transcription.logprobs"]}
    completed = converse(openai, session, [as_24khz(pcm_n).tobytes()], 1)[-1]
    assert [each.token for each in completed.logprobs] == completed.transcript.split()
    assert all(each.logprob <= 0 for each in completed.logprobs)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        (update(None, noise_reduction={"type": "near_field"}), "session.audio.input.noise_reduction"),
        (update({"type": "semantic_vad"}), "session.audio.input.turn_detection.type"),
        (update({"type": "server_vad", "threshold": 0.9}), "session.audio.input.turn_detection.threshold"),
        (
            update({"type": "server_vad", "silence_duration_ms": 1}),
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (update(None, transcription={"prompt": "names"}), "session.audio.input.transcription.prompt"),
        (update(None, transcription={"keywords": "dab"}), "session.audio.input.transcription.keywords"),
        (update(None, transcription={"keywords": ["rhubarb"]}), "session.audio.input.transcription.keywords"),
        (update(None, transcription={"keywords": ["dab:x", {}]}), "session.audio.input.transcription.keywords"),
        (update(None, transcription={"language": "de"}), "language"),
        (update(None, transcription={"model": "whisper-1"}), "model"),
        (
            update({"type": "server_vad", "silence_duration_ms": 10**400}),
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (update(None, format={"type": "audio/opus"}), "session.audio.input.format.type"),
        (update(None, format={"type": ["audio/pcm"]}), "session.audio.input.format.type"),
        (update(None, format={"type": "audio/pcm", "rate": "x"}), "session.audio.input.format.rate"),
        (update(None) | {"include": ["item.secrets"]}, "session.include"),
        (update(None) | {"instructions": "be nice"}, "session.instructions"),
        ([], "session"),
    ],
)
def test_openais_settings_that_cannot_be_honoured_are_refused_by_name(url, session, param):
    with connect(url + REALTIME, additional_headers=HEADERS) as socket:
        socket.recv()
        socket.send(json.dumps({"type": "session.update", "event_id": "mine", "session": session}))
        event = json.loads(socket.recv())
        assert event["type"] == "error"
        assert (event["error"]["param"], event["error"]["event_id"]) == (param, "mine")
        assert event["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "response.create"},
        {"type": "input_audio_buffer.append", "audio": "%%%"},
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.commit"},
        {"type": 7, "event_id": {}},
        {"type": "\ud800", "event_id": "\ud800"},
        b"\0\0",
    ],
)
def test_openais_events_that_cannot_be_honoured_get_an_error_and_the_session_goes_on(url, message):
    with connect(url + REALTIME, additional_headers=HEADERS) as socket:
        socket.recv()
        socket.send(message if isinstance(message, bytes) else json.dumps(message))
        assert json.loads(socket.recv())["type"] == "error"
        socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription"}}))
        assert json.loads(socket.recv())["type"] == "session.updated"


def test_the_settings_of_a_session_stay_once_audio_has_come(url):
    with connect(url + REALTIME, additional_headers=HEADERS) as socket:
        socket.recv()
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"}))
        socket.send(json.dumps({"type": "session.update", "session": update(None)}))
        assert "after the first audio" in json.loads(socket.recv())["error"]["message"]


def test_a_conversation_is_not_supported(url):
    with pytest.raises(InvalidStatus) as caught, connect(f"{url}/v1/realtime", additional_headers=HEADERS):
        pass
    assert caught.value.response.status_code == 400
    assert json.loads(caught.value.response.body)["error"]["param"] == "intent"


# Vosk


def vosk(url: str, audio: list[bytes], path: str = "/", **config: Any) -> list[dict[str, Any]]:
    """What vosk-server's test client does: it waits for the answer to each message."""
    with connect(url + path, additional_headers=HEADERS) as socket:
        socket.send(json.dumps({"config": {"sample_rate": RATE_HZ, **config}}))
        answers = []
        for part in (*audio, '{"eof" : 1}'):
            socket.send(part)
            answers.append(json.loads(socket.recv(timeout=20)))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
        return answers


@pytest.mark.parametrize("model", ["streaming", "whole"])
@pytest.mark.parametrize("size", [1600, 4000, 40000])
def test_vosks_client_gets_one_answer_for_each_message(url, recognizers, pcm_n, model, size):
    parts = list(chunks(pcm_n, size))
    answers = vosk(url, parts, model=model)
    assert len(answers) == len(parts) + 1
    assert all(set(answer) <= {"partial"} or "text" in answer for answer in answers)
    wanted = texts_of(recognizers[model], pcm_n)
    assert " ".join(answer["text"] for answer in answers if answer.get("text")) == " ".join(said(wanted))
    words = [word for answer in answers for word in answer.get("result", ())]
    assert words == [
        {"conf": round(word.confidence or 0, 6), "end": round(word.end_s, 3), "start": round(word.start_s, 3)}
        | {"word": word.word}
        for result in wanted
        for word in result.words
    ]


def test_vosks_words_can_be_left_out(url, pcm_n):
    assert not any("result" in answer for answer in vosk(url, list(chunks(pcm_n)), "/vosk", words=False))


def test_vosks_reset_ends_the_passage(url, pcm_n):
    answers = vosk(url, [*chunks(pcm_n[:16000]), '{"reset": 1}', b"\0"], model="streaming")
    assert answers[-3].get("text")
    assert answers[-1]["text"] == ""


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"phrase_list": ["one"]}, "phrase_list"),
        ({"max_alternatives": 3}, "max_alternatives"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"sample_rate": 5}, "sample rate"),
        ({"model": "big"}, "big"),
        ({"model": "ä" * 200}, "ä"),
        ({"model": "\ud800"}, "ud800"),
        ({"sampel_rate": 8000}, "did you mean 'sample_rate'"),
    ],
)
def test_vosks_settings_that_cannot_be_honoured_are_refused_by_name(url, config, named):
    with connect(url + "/vosk", additional_headers=HEADERS) as socket:
        socket.send(json.dumps({"config": config}))
        with suppress(ConnectionClosed):  # most is refused at once, and a rate when audio comes
            socket.send(b"\0\0")
        assert named in json.loads(socket.recv())["error"]
        with pytest.raises(ConnectionClosed):
            socket.recv()


# All of them


def test_one_stream_too_many_is_refused_with_429_and_others_go_on(url, hosts):
    opened = [connect(url + LISTEN, additional_headers=HEADERS) for _ in range(8)]
    try:
        wait_until(lambda: streams(hosts) == 8)
        for path in (LISTEN, REALTIME, "/vosk"):
            with pytest.raises(InvalidStatus) as caught, connect(url + path, additional_headers=HEADERS):
                pass
            assert caught.value.response.status_code == 429
            assert caught.value.response.headers["retry-after"]
        opened[0].send(json.dumps({"type": "CloseStream"}))
        assert json.loads(opened[0].recv())["type"] == "Metadata"
    finally:
        for socket in opened:
            socket.close()
    wait_until(lambda: streams(hosts) == 0)


def streams(hosts: dict[str, Host]) -> int:
    return sum(len(host.live) for host in hosts.values())


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it took too long"
        time.sleep(0.01)


def test_clients_that_go_away_in_the_middle_leave_nothing_behind(url, hosts, pcm_n):
    from asr.streaming.passage import Passage

    wait_until(lambda: streams(hosts) == 0)
    audio = base64.b64encode(pcm_n[:8000].tobytes()).decode()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    for i in range(100):
        path = (LISTEN, f"{LISTEN}&model=whole", REALTIME, "/vosk")[i % 4]
        socket = connect(url + path, additional_headers=HEADERS)
        for _ in range(3):
            socket.send(append if path == REALTIME else pcm_n[:8000].tobytes())
        if i % 2:
            socket.close()
        else:
            socket.socket.close()  # as when the machine loses its network
    wait_until(lambda: streams(hosts) == 0)

    def left() -> int:
        gc.collect()
        return sum(type(each) in (Session, Passage) for each in gc.get_objects())  # no isinstance: proxies may be dead

    wait_until(lambda: left() == 0)


VALUES = (
    None,
    True,
    -1,
    1e308,
    "",
    "x",
    "\ud800",
    [],
    ["a"],
    {},
    {"type": "transcription"},
    "audio/pcm",
    16000,
    "AAAA",
)
NAMES = ("type", "session", "audio", "input", "format", "rate", "transcription", "turn_detection", "include", "config")
NAMES += (
    "silence_duration_ms",
    "model",
    "languages",
    "sample_rate",
    "words",
    "eof",
    "reset",
    "event_id",
    "phrase_list",
    "keywords",
)
KINDS = ("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear")
KINDS += ("Finalize", "KeepAlive", "transcription", "server_vad", "audio/pcmu")


def random_message(rng: np.random.Generator, depth: int = 0) -> Any:
    """Names and values of the protocols, put together at random."""
    if depth == 4 or (depth and rng.random() < 0.4):
        return VALUES[rng.integers(len(VALUES))]
    names = rng.choice(NAMES, rng.integers(1, 5))
    message = {str(name): random_message(rng, depth + 1) for name in names}
    if rng.random() < 0.8:
        message["type"] = str(rng.choice(KINDS))
    return message


@pytest.mark.parametrize("path", [LISTEN, REALTIME, "/vosk"])
def test_hostile_messages_are_refused_and_never_a_mistake_of_ours(url, hosts, caplog, path):
    rng = np.random.default_rng(len(path))
    for _ in range(12):
        # the client would wait for us to read its queue before it closes
        with connect(url + path, additional_headers=HEADERS, max_queue=None) as socket, suppress(ConnectionClosed):
            for _ in range(20):
                message = json.dumps(random_message(rng))
                socket.send(rng.bytes(rng.integers(0, 99)) if rng.random() < 0.3 else message)
            with suppress(TimeoutError):
                while True:
                    socket.recv(timeout=0.05)
        assert socket.close_code in (None, 1000, 1008)
    wait_until(lambda: streams(hosts) == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("path", [LISTEN, REALTIME, "/vosk"])
def test_a_client_that_sends_nothing_is_let_go(url, hosts, monkeypatch, path):
    monkeypatch.setattr("asr.server.sockets._IDLE_S", 0.1)
    with connect(url + path, additional_headers=HEADERS) as socket:
        messages = []
        with suppress(ConnectionClosed):
            while True:
                messages.append(socket.recv(timeout=10))
    assert "nothing came for 0.1 seconds" in messages[-1]
    wait_until(lambda: streams(hosts) == 0)


def test_live_streams_are_counted(url, hosts, pcm_n):
    def metric(name: str) -> float:
        request = Request(f"{url.replace('ws', 'http', 1)}/metrics", headers=HEADERS)
        lines = urlopen(request).read().decode().splitlines()
        return float(next((line for line in lines if line.startswith(name)), "0").split()[-1])

    wait_until(lambda: streams(hosts) == 0)
    audio = 'asr_audio_seconds_total{model="streaming"}'
    before_s = metric(audio)
    with connect(url + LISTEN, additional_headers=HEADERS) as socket:
        socket.send(pcm_n.tobytes())
        wait_until(lambda: metric('asr_streams{model="streaming"}') == 1)
        socket.send(json.dumps({"type": "CloseStream"}))
        list(socket)
    wait_until(lambda: metric('asr_streams{model="streaming"}') == 0)
    assert metric(audio) - before_s == pytest.approx(len(pcm_n) / RATE_HZ)


def test_streams_at_a_time_get_what_each_gets_alone(url, recognizers, pcm_n):
    rng = np.random.default_rng(9)
    waves = [np.round(tones(text, rng) * 32767).astype("<i2") for text in ("abc", "da cab", "bad", "dad ab", "cab cab")]
    texts: dict[int, str] = {}

    def talk(i: int) -> None:
        texts[i] = " ".join(
            a["text"] for a in vosk(url, list(chunks(waves[i], 800)), model="streaming") if a.get("text")
        )

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(len(waves))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [texts[i] for i in range(len(waves))] == [
        " ".join(said(texts_of(recognizers["streaming"], wave_n))) for wave_n in waves
    ]


def test_a_client_that_sends_faster_than_real_time_is_slowed_down_and_loses_nothing(url, pcm_n, hosts):
    many_n = np.tile(pcm_n, 30)
    with connect(url + LISTEN, additional_headers=HEADERS, max_size=None) as socket:
        socket.send(many_n[: 1 << 20].tobytes())
        socket.send(many_n[1 << 20 :].tobytes())
        socket.send(json.dumps({"type": "CloseStream"}))
        messages = [json.loads(message) for message in socket]
    assert messages[-1]["duration"] == pytest.approx(len(many_n) / RATE_HZ, abs=1e-3)
    ends = [message["start"] + message["duration"] for message in messages[:-1]]
    assert ends[-1] == pytest.approx(len(many_n) / RATE_HZ, abs=0.1)


def test_a_client_whose_sound_waits_in_the_network_is_not_taken_for_dead(recognizers, monkeypatch, pcm_n):
    from uvicorn import Config

    from asr.server import live, run

    def hurried(app, ws_ping_timeout=20.0, **options):
        """Uvicorn's pings, a hundred times as often."""
        return Config(app, ws_ping_interval=0.2, ws_ping_timeout=ws_ping_timeout / 100, **options)

    def slow(self, *streams):
        tick(self, *streams)
        time.sleep(0.05)

    tick = live.Live._tick
    monkeypatch.setattr(live.Live, "_tick", slow)
    monkeypatch.setattr(run.uvicorn, "Config", hurried)
    many_n = np.tile(pcm_n, 10)
    with serving({"streaming": Host("streaming", recognizers["streaming"])}) as address:
        url = address.replace("http", "ws", 1)
        with connect(url + LISTEN, max_size=None, max_queue=None, ping_interval=None) as socket:
            for part in chunks(many_n):
                socket.send(part)
            socket.send(json.dumps({"type": "CloseStream"}))
            messages = list(socket)
    assert json.loads(messages[-1])["duration"] == pytest.approx(len(many_n) / RATE_HZ, abs=1e-3)


def test_a_server_that_is_asked_to_stop_sends_the_last_results_first(recognizers, pcm_n):
    hosts = {"streaming": Host("streaming", recognizers["streaming"])}
    with serving(hosts) as address:
        socket = connect(address.replace("http", "ws", 1) + LISTEN)
        socket.send(pcm_n[:20000].tobytes())
        wait_until(lambda: streams(hosts) == 1)
        time.sleep(0.2)
    messages = [json.loads(message) for message in socket]
    assert messages[-1]["type"] == "Metadata"
    assert messages[-2]["is_final"] and messages[-2]["channel"]["alternatives"][0]["transcript"]


def test_a_model_that_breaks_ends_its_streams_with_an_error_and_takes_new_ones(recognizers, pcm_n, monkeypatch):
    from asr.streaming.pool import StreamPool

    hosts = {"streaming": Host("streaming", recognizers["streaming"])}
    tick = StreamPool.tick

    def broken(self: StreamPool) -> Any:
        monkeypatch.setattr(StreamPool, "tick", tick)
        raise ValueError("secret detail")

    with serving(hosts) as address:
        url = address.replace("http", "ws", 1)
        monkeypatch.setattr(StreamPool, "tick", broken)
        with connect(url + LISTEN) as socket:
            socket.send(pcm_n.tobytes())
            message = json.loads(socket.recv())
            assert message["type"] == "Error" and "secret" not in json.dumps(message)
            with pytest.raises(ConnectionClosed):
                socket.recv()
        with connect(url + LISTEN) as socket:
            socket.send(pcm_n.tobytes())
            socket.send(json.dumps({"type": "CloseStream"}))
            assert json.loads(list(socket)[-1])["type"] == "Metadata"


# Parts


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW"), ("linear16", "PCM_16")])
def test_samples_are_those_that_libsndfile_reads(tmp_path: Path, encoding: str, subtype: str) -> None:
    content = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    content = bytes(range(256)) + content
    raw = tmp_path / "a.raw"
    raw.write_bytes(content)
    wanted_n, _ = soundfile.read(raw, samplerate=8000, channels=1, format="RAW", subtype=subtype, dtype="float32")
    samples = Samples(encoding)
    parts = [samples.feed(content[i : i + 7]) for i in range(0, len(content), 7)]
    np.testing.assert_array_equal(np.concatenate(parts), wanted_n)


def test_samples_of_floats_are_numbers_in_range_whatever_comes() -> None:
    got_n: Wave = Samples("linear32").feed(np.array([0.5, np.nan, np.inf, -7], "<f4").tobytes() + b"\0")
    np.testing.assert_array_equal(got_n, np.array([0.5, 0, 1, -1], np.float32))


def test_results_are_divided_at_flushes() -> None:
    def result(start_s: float, end_s: float) -> Result:
        return Result("x", True, start_s, end_s)

    one, two, three = result(0, 1), result(1, 2.03), result(2, 3)
    parts = list(Update((one, two, three), 3.0, (2.0, 2.0)).parts())
    assert parts == [([one, two], True), ([], True), ([three], False)]
    assert list(Update((), 1.0).parts()) == [([], False)]


def test_a_session_of_a_loop_that_has_ended_is_forgotten(recognizers) -> None:
    host = Host("streaming", recognizers["streaming"])

    async def open_only() -> Session:
        return host.live.open(RATE_HZ)

    session = asyncio.run(open_only())
    host.live.queue(session, np.zeros(RATE_HZ, np.float32))
    wait_until(lambda: len(host.live) == 0)
    host.live.stop()


def test_flushes_wait_as_samples_do_while_much_is_queued(recognizers, monkeypatch) -> None:
    host = Host("streaming", recognizers["streaming"])
    monkeypatch.setattr(host.live, "_work", lambda: None)  # as slow as can be

    async def flood() -> int:
        session = host.live.open(RATE_HZ)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await session.flush()
        return len(session.queue)

    assert asyncio.run(flood()) < 1000


def test_what_comes_after_the_end_of_a_stream_is_no_part_of_it(recognizers, pcm_n) -> None:
    host = Host("streaming", recognizers["streaming"])
    wave_n = pcm_n.astype(np.float32) / 32768

    async def talk() -> Update:
        session = host.live.open(RATE_HZ)
        with host.live._changed:  # all of it comes before the next tick
            await session.push(wave_n[:8000])
            session.finish()
            await session.flush()
            await session.push(wave_n[8000:])
        return [update async for update in session][-1]

    last = asyncio.run(talk())
    assert last.is_last and not last.flushed_s
    assert last.heard_s == 8000 / RATE_HZ
    host.live.stop()


def test_vosks_finals_are_sent_once_however_slowly_a_client_reads() -> None:
    from asr.server.vosk import _Vosk

    sent: list[str] = []

    class Socket:
        app = SimpleNamespace(state=SimpleNamespace(hosts={}, settings=Settings()))

        async def send_text(self, text: str) -> None:
            await asyncio.sleep(0)
            sent.append(json.loads(text)["text"])

    async def talk() -> None:
        vosk = _Vosk(cast("Any", Socket()))
        one, two = (Result(text, True, 0.0, 1.0) for text in ("one", "two"))
        for result in (one, two):
            vosk._owed.append(1.0)
            await asyncio.gather(vosk.on_update(Update((result,), 1.0)), vosk._answer(is_final=True))

    asyncio.run(talk())
    assert [text for text in sent if text] == ["one", "two"]


def test_a_socket_at_an_unknown_address_is_told_so(url):
    with pytest.raises(InvalidStatus) as caught, connect(f"{url}/v2/listen", additional_headers=HEADERS):
        pass
    assert caught.value.response.status_code == 404
    assert json.loads(caught.value.response.body)["error"]["message"] == "unknown address: /v2/listen"
