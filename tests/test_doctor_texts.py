"""What texts hide is found, in five rows of 700 as in one of one; texts of other scripts have nothing to hide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from asr.doctor import Examination, examine
from asr.doctor import fix as fixing
from asr.doctor.characters import find_markup, mended
from asr.doctor.pairs import find_shift, letters_in
from asr.doctor.start import check_start
from tests.builders import noise, tiny_config, write_wav

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def spoken(num_rows: int, seed: int = 1, seconds_per_letter: float = 0.07, spread: float = 0.1) -> list[Utterance]:
    """Rows of digits with durations that fit; all name one file, part by part."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_rows):
        text = " ".join(rng.choice(DIGITS, rng.integers(3, 6)))
        seconds = (0.3 + len(text) * seconds_per_letter) * float(np.exp(rng.normal(0, spread)))
        rows.append(Utterance(f"u{i:05}", "long.wav", round(seconds, 3), text, f"s{i % 10}", offset_s=i / 50))
    return rows


def with_texts(rows: list[Utterance], texts: dict[int, str]) -> list[Utterance]:
    return [replace(row, text=texts.get(i, row.text)) for i, row in enumerate(rows)]


def manifest(folder: Path, rows: list[Utterance], name: str = "train") -> Path:
    if not (folder / "long.wav").exists():
        write_wav(folder / "long.wav", noise(30.0))
    manifests.write(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def plain(texts: list[str]) -> list[Utterance]:
    """Rows of these texts, each at twelve characters per second."""
    return [
        Utterance(f"u{i}", "long.wav", max(0.1, round(len(text) / 12, 3)), text, offset_s=(i + 1) / 50)
        for i, text in enumerate(texts)
    ]


def codes(report: Examination) -> dict[str, int]:
    return {found.code: found.count for found in report.findings}


def examined(folder: Path, texts: list[str]) -> dict[str, int]:
    return codes(examine([manifest(folder, plain(texts))]))


def details(report: Examination, code: str) -> str:
    return " ".join(line for found in report.findings if found.code == code for line in found.details)


# --- five rows of each kind of trouble in 700 -------------------------------------------------------------------------

HIDDEN = {
    "text-lookalike": ["f\u043eur", "\u0455ix", "thre\u0435", "n\u03bfne", "\ufb01ve"],
    "text-invisible": ["one\u200btwo", "\ufeffone", "o\u00adne", "tw\u2060o", "\u202aone\u202c"],
    "text-markup": ["one&nbsp;two", "one [noise]", "<unk> one", "one (laughs) two", r"one\ntwo"],
    "text-unicode": [
        "one\u0007",
        "caf\u00c3\u00a9",
        "don\u00e2\u20ac\u2122t",
        "\u00d0\u2022\u00d1\u2030\u00d1\u2018",
        "\ufffd",
    ],
}


def troubled(num_rows: int) -> list[Utterance]:
    rows, texts = spoken(num_rows), {}
    for k, bad in enumerate(bad for several in HIDDEN.values() for bad in several):
        texts[(k * 37 + 11) % num_rows] = f"{bad} {rows[(k * 37 + 11) % num_rows].text}"
    texts[5] = rows[5].text.replace(" ", "\u00a0")
    return with_texts(rows, texts)


def test_five_rows_of_each_kind_among_700_are_found(tmp_path):
    rows = troubled(700)
    assert len(set("".join(row.text for row in rows))) > 2 * 17
    report = examine([manifest(tmp_path, rows)])
    found = codes(report)
    assert {code: found[code] for code in HIDDEN if code != "text-invisible"} == {
        code: 5 for code in HIDDEN if code != "text-invisible"
    }
    invisible = {f.severity: f.count for f in report.findings if f.code == "text-invisible"}
    assert invisible == {"warning": 1, "note": 5} and report.errors == 0
    assert "U+043E, cyrillic small letter o) 1" in details(report, "text-lookalike")


@pytest.mark.parametrize("num_rows", [40, 700])
def test_training_says_at_its_start_what_the_texts_hide(tmp_path, num_rows):
    train = manifests.read(manifest(tmp_path, troubled(num_rows)))
    dev = manifests.read(manifest(tmp_path, spoken(20, seed=2), "dev"))
    lines = check_start(train, range(num_rows), dev, tiny_config().audio, "none")
    said = {line.split(": ")[1] for line in lines}
    assert set(HIDDEN) <= said
    clean = manifests.read(manifest(tmp_path, spoken(num_rows), "clean"))
    lines = check_start(clean, range(num_rows), dev, tiny_config().audio, "none")
    assert not any(code in line for line in lines for code in HIDDEN)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("text-lookalike", "the \u0441at"),  # Cyrillic c
        ("text-lookalike", "\u0430 man"),  # Cyrillic a, a word of its own
        ("text-lookalike", "\u0391NNA"),  # Greek Alpha
        ("text-lookalike", "\u043c\u043e\u0436e\u0442 \u0431\u044b\u0442\u044c \u0435\u0436"),  # Latin e in Russian
        ("text-lookalike", "\u043f\u0440\u0438\u0432i\u0442 \u0434\u0440\u0443\u0437i \u0456"),  # Latin i in Ukrainian
        ("text-lookalike", "\u03ba\u03b1\u03bboo \u03cc\u03bf\u03c7\u03b9"),  # Latin o in Greek
        ("text-lookalike", "di\ufb03cult"),
        ("text-lookalike", "\U0001d421ello"),
        ("text-lookalike", "he didn\u2019t and I don't and can't"),
        ("text-invisible", "soft\u00adware"),
        ("text-invisible", "left\u200eright"),
        ("text-invisible", "zero\u200bwidth"),
        ("text-invisible", "zero\u200cjoiner"),
        ("text-invisible", "I \u2764\ufe0f it"),
        ("text-invisible", "a\u3164b"),
        ("text-invisible", "caf\u00e9\u00a0!"),
        ("text-invisible", "ten\u202fthousand"),
        ("text-markup", "rock &amp; roll"),
        ("text-markup", "it&#39;s"),
        ("text-markup", "it&#x27;s"),
        ("text-markup", "caf&eacute;"),
        ("text-markup", "<b>bold</b>"),
        ("text-markup", "so <v Roger> hi"),
        ("text-markup", "[SPEAKER 1] hello"),
        ("text-markup", "{breath} hello"),
        ("text-markup", "++um++ hello"),
        ("text-markup", "!SIL hello"),
        ("text-markup", "\u266a la la \u266a"),
        ("text-markup", "*laughs* hello"),
        ("text-markup", "hello (Laughter)"),
        ("text-markup", "привет (смех)"),
        ("text-markup", "你好（笑）"),
        ("text-markup", "the(2) cat"),
        ("text-markup", r"one\ttwo"),
        ("text-markup", r"caf\u00e9"),
        ("text-markup", r"say \"hi\""),
        ("text-markup", "hello%20world"),
        ("text-unicode", "\u0420\u045f\u0421\u0402\u0420\u0451\u0420\u0406\u0420\u00b5\u0421\u201a"),  # cp1251
        ("text-unicode", "\u0627\u0653\u062c"),  # Urdu alef and madda in pieces
        ("text-unicode", "o\u0308l"),
        ("text-unicode", "kilo\u2126"),  # the ohm sign, not omega
        ("text-unicode", "H\u00c3\u00a4user"),
        ("text-unicode", "\u00e2\u20ac\u0153Hi\u00e2\u20ac\u009d".replace("\u009d", "\u2122")),
    ],
)
def test_it_is_found_in_a_single_row(tmp_path, code, text):
    assert {code: n for code, n in examined(tmp_path, [text]).items() if code != "digits-in-text"} == {code: 1}


SOUND = {
    "English": [
        "salt & pepper",
        "R&D at AT&T",
        "(if you will) he said",
        "so ( ) it",
        "the naïve café",
        "a < b and c > d",
        "rock 'n' roll",
        "arts (music and dance) & more",
        "x * y * z",
        "it's o'clock",
    ],
    "Bengali": ["\u09aa\u09cd\u09b0\u09df\u09cb\u0997"],
    "Punjabi": ["\u0a39\u0a48\u0a36 \u0a2a\u0a4d\u0a30\u0a38\u0a3c\u0a3e"],
    "Burmese": ["ထည့်ပါ"],
    "Slovak": ["VÝŠKA TÝŽDŇA"],
    "Sorbian": ["ZMÓŽNJENY"],
    "Portuguese": ["AMANHÃ… NÃO", "ação e pão"],
    "French": ["l'été où il naît", "À CÔTÉ DE LA MAISON", "« CAFÉ »", "œuvre et cœur"],
    "German": ["Größe und Maß", "ÜBER ÖL", "„Grüße“ sagt er"],
    "Swedish": ["DET GÅ…", "på ön"],
    "Turkish": ["ISPARTA'DA IŞIK ılık İSTANBUL", "iğne şöyle çağ"],
    "Vietnamese": ["tiếng Việt rất hay", "ĐƯỜNG PHỐ"],
    "Russian": [
        "мама мыла раму",
        "он купил iPhone и MacBook Air в МТС",
        "пришла SMSка от VIPа",
        "это PDF и DVDшка",
        "план B",
        "витамин C",
        "смотрит YouTube на TV",
        "IT-отдел, e-mail и Wi-Fi",
        "PCки стоят",
        "СССР», КПСС… РФ”",
    ],
    "Ukrainian": ["ні", "дії", "привіт друзі, її ім'я", "з'їзд і п'ять", "купив iPad"],
    "Serbian": ["Љубав и њежност је ту", "Ljubav i nježnost", "иде у IKEA"],
    "Greek": ["καλημέρα κόσμε", "αγόρασε iPhone στο Public", "το Internet είναι", "ΑΥΤΟ ΕΙΝΑΙ DVD"],
    "Hindi": ["क्‍या हाल है", "श्रीमान्‌ जी", "वह iPhone लाया"],
    "Malayalam": ["അവന്‍ പറഞ്ഞു"],
    "Sinhala": ["ශ්‍රී ලංකා"],
    "Persian": ["می‌خواهم بروم", "خانه‌ها", "این iPhone است"],
    "Arabic": ["السلام عليكم", "المُعَرِّفْ", "هذا كتابٌ"],
    "Hebrew": ["שלום עולם", 'צה"ל'],
    "Thai": ["สวัสดี\u200bครับ"],
    "Khmer": ["សួស្តី\u200bពិភពលោក"],
    "Chinese": ["你好，世界", "他用iPhone打电话", "卡拉OK很好", "（大家好）"],
    "Japanese": ["こんにちは　世界", "ＮＨＫのニュース", "東京タワー"],
    "Korean": ["안녕하세요 여러분", "KBS 뉴스"],
    "Chechen": ["гIалгIай мотт"],
    "Hawaiian": ["ʻōlelo Hawaiʻi"],
    "Mongolian": ["сайн байна уу"],
    "Armenian": ["Բարեւ ձեզ"],
    "Amharic": ["ሰላም ለዓለም"],
    "physics": ["α and β decay", "the ν μ and π", "Δt in a μs", "ten kΩ"],
    "emoji": ["family 👨‍👩‍👧 here"],
}


@pytest.mark.parametrize("language", [*SOUND, "all of them"])
def test_texts_of_all_scripts_have_nothing_to_hide(tmp_path, language):
    together = [name for name in SOUND if name not in ("Chechen", "physics")]  # which borrow what others have
    texts = [text for name in (together if language == "all of them" else [language]) for text in SOUND[name]]
    cases = (str, str.lower) if language == "physics" else (str, str.upper, str.lower)  # µ is M in upper case
    for case in cases:
        found = examine([manifest(tmp_path, plain([case(text) for text in texts]))])
        assert [str(e) for f in found.findings if f.code in HIDDEN for e in f.examples] == []


def test_apostrophes_of_one_kind_are_well_whichever_it_is(tmp_path):
    assert examined(tmp_path, ["don’t", "can’t", "CAFÉ’S"]) == {}
    assert examined(tmp_path, ["don't", "can't", "won’t"]) == {"text-lookalike": 1}


def test_what_a_profile_takes_out_or_makes_words_of_is_found_all_the_same(tmp_path):
    dev = manifests.read(manifest(tmp_path, plain(["abc"]), "dev"))
    train = manifests.read(manifest(tmp_path, plain(["zero\u200bwidth", "\ufeffone", "a [noise]"])))
    said = check_start(train, range(3), dev, tiny_config().audio, "lower-nopunct")
    assert sum("text-invisible" in line for line in said) == 2  # a warning and a note
    assert any("text-markup" in line for line in said)  # else "noise" is a word


def test_markup_is_found_where_it_begins():
    assert find_markup("tea &amp; milk") == ("an entity", 4)
    assert find_markup("a & b; c") is None and find_markup("&nosuchthing;") is None


def test_fix_mends_what_is_safe_and_names_the_rest(tmp_path):
    texts = ["\ufeffone\u00a0two", "soft\u00adware", "zero\u200bwidth", "a [noise]", "the \u0441at", "plain"]
    path = manifest(tmp_path, plain(texts))
    report = examine([path])
    done = fixing.fix(report, fixing.targets([path], tmp_path / "clean.jsonl"))
    fixed = [u.text for u in manifests.read(tmp_path / "clean.jsonl")]
    assert fixed == ["one two", "software", *texts[2:]]
    assert (done.kept, done.left_out, done.mended) == (6, 0, 2)
    assert done.notes == [
        "left in the texts, for only a person knows what is meant: text-lookalike 1, text-invisible 1, text-markup 1"
    ]
    assert done.to_json()["mended"] == 2
    assert "mended 2 texts: " in "\n".join(done.lines())
    assert fixing.fix(examine([tmp_path / "clean.jsonl"]), {tmp_path / "clean.jsonl": tmp_path / "x.jsonl"}).mended == 0


def test_mending_takes_nothing_that_a_script_needs():
    for texts in SOUND.values():
        assert [mended(text) for text in texts] == texts


# --- texts of other rows ----------------------------------------------------------------------------------------------


def shifted(rows: list[Utterance], by: int, start: int = 0, stop: int | None = None) -> list[Utterance]:
    """Each row of a part has the text of the row ``by`` further on."""
    stop = len(rows) if stop is None else stop
    part = range(max(start, start - by), min(stop, len(rows) - by))
    return with_texts(rows, {i: rows[i + by].text for i in part})


def read_sentences(num_rows: int, seed: int = 3) -> list[Utterance]:
    rng = np.random.default_rng(seed)
    words = ["the", "printing", "of", "books", "was", "an", "invention", "which", "concerned", "everybody"]
    rows = []
    for i in range(num_rows):
        text = " ".join(rng.choice(words, rng.integers(4, 26)))
        seconds = len(text) / 15 * float(np.exp(rng.normal(0, 0.09)))
        rows.append(Utterance(f"r{i:04}", "long.wav", round(seconds, 3), text, offset_s=i / 50))
    return rows


@pytest.mark.parametrize("make", [spoken, read_sentences])
@pytest.mark.parametrize("by", [1, -1, 2])
def test_texts_of_the_next_rows_are_found_and_the_way_is_said(tmp_path, make, by):
    rows = make(600)
    report = examine([manifest(tmp_path, shifted(rows, by))])
    count = codes(report)["wrong-pairs"]
    assert 580 <= count <= 600 and report.errors >= count
    # each text is the one of the row "by" further on, so the audio fits the text "by" rows back
    side = "before" if by > 0 else "after"
    assert f"fits the text of {abs(by)} row{'s' if abs(by) > 1 else ''} {side} its own" in details(
        report, "wrong-pairs"
    )


@pytest.mark.parametrize(("start", "stop"), [(300, 600), (450, 600), (200, 350)])
def test_a_part_that_is_shifted_is_found_with_its_lines(tmp_path, start, stop):
    rows = shifted(read_sentences(600), 1, start, stop)
    report = examine([manifest(tmp_path, rows)])
    lines = [line for line, (code, _) in report.manifests[0].errors.items() if code == "wrong-pairs"]
    assert abs(min(lines) - 1 - start) <= 5 and abs(max(lines) - stop) <= 5
    path = tmp_path / "train.jsonl"
    fixing.fix(report, fixing.targets([path], tmp_path / "clean.jsonl"))
    assert "wrong-pairs" not in codes(examine([tmp_path / "clean.jsonl"]))


@pytest.mark.parametrize("make", [spoken, read_sentences])
@pytest.mark.parametrize("order", ["as they are", "by duration", "by length", "by text", "all alike"])
def test_right_pairs_are_well_in_any_order(tmp_path, make, order):
    rows = make(700)
    key = {"by duration": lambda u: u.duration_s, "by length": lambda u: len(u.text), "by text": lambda u: u.text}
    rows = sorted(rows, key=key[order]) if order in key else rows
    if order == "all alike":
        rows = [replace(row, duration_s=rows[0].duration_s, text=rows[0].text) for row in rows]
    report = examine([manifest(tmp_path, rows)])
    assert not {"wrong-pairs", "speed"} & set(codes(report))


def test_right_pairs_are_well_in_hundreds_of_random_orders():
    rows = [*spoken(100), *read_sentences(60)]
    letters, seconds = (np.array([f(u) for u in rows]) for f in (lambda u: letters_in(u.text), lambda u: u.duration_s))
    rng = np.random.default_rng(0)
    for _ in range(300):
        order = rng.permutation(len(rows))
        assert find_shift(letters[order], seconds[order]) is None
        pure_chance = rng.permutation(len(rows))
        assert find_shift(letters[order], seconds[pure_chance]) is None


def test_sentences_in_disorder_are_warned_of(tmp_path):
    rows = read_sentences(300)
    order = np.random.default_rng(5).permutation(300)
    report = examine([manifest(tmp_path, with_texts(rows, {i: rows[j].text for i, j in enumerate(order)}))])
    found = {(f.code, f.severity): f.count for f in report.findings}
    assert found[("wrong-pairs", "warning")] == 300 and report.errors == 0


def test_training_says_that_texts_are_shifted(tmp_path):
    train = manifests.read(manifest(tmp_path, shifted(read_sentences(300), 1)))
    dev = manifests.read(manifest(tmp_path, read_sentences(20, seed=9), "dev"))
    (said,) = [
        line for line in check_start(train, range(300), dev, tiny_config().audio, "none") if "wrong-pairs" in line
    ]
    assert "1 row before its own" in said


# --- speed ------------------------------------------------------------------------------------------------------------


def faster(rows: list[Utterance], which: list[int] | range, times: float = 2.0) -> list[Utterance]:
    chosen = set(which)
    return [replace(row, duration_s=row.duration_s / (times if i in chosen else 1)) for i, row in enumerate(rows)]


def speed(folder: Path, rows: list[Utterance]) -> list[str]:
    report = examine([manifest(folder, rows)])
    assert codes(report).keys() <= {"speed", "rate-of-speech"}
    return [e.value for f in report.findings if f.code == "speed" for e in f.examples]


def test_a_set_at_double_speed_is_beyond_any_speaker(tmp_path):
    rows = read_sentences(300)
    assert speed(tmp_path, rows) == []
    (said,) = speed(tmp_path, faster(rows, range(300)))
    assert said.startswith("half of the 300 rows have over 3") and "faster than anybody reads" in said


@pytest.mark.parametrize("share", [3, 2])
def test_a_part_at_double_speed_makes_two_groups(tmp_path, share):
    (said,) = speed(tmp_path, faster(read_sentences(300), range(0, 300, share)))
    assert said.startswith(f"{300 // share} of 300 rows are 2.0 times as fast as the others")


def test_single_rows_at_double_speed_are_out_of_line(tmp_path):
    report = examine([manifest(tmp_path, faster(read_sentences(300), [7, 70, 170, 200, 299]))])
    assert codes(report) == {"rate-of-speech": 5}


def test_a_speaker_at_double_speed_is_named(tmp_path):
    rows = spoken(300, spread=0.25)
    assert speed(tmp_path, rows) == []
    (said,) = speed(tmp_path, faster(rows, range(3, 300, 10)))
    assert said.startswith("speaker 's3': ")


def test_scripts_that_need_few_characters_are_no_speed_of_their_own(tmp_path):
    chinese = [
        Utterance(f"c{i}", "long.wav", 2.0 + i % 7 / 10, "你好世界我们说话" + "好" * (i % 7 // 2), offset_s=i / 50)
        for i in range(150)
    ]
    assert speed(tmp_path, [*read_sentences(150), *chinese]) == []
