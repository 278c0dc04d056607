"""Section 5's annotations, by a stand-in for a language model on the loopback interface."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from loopback import Reply, served

from dcrafter.errors import InputError, UsageError
from dcrafter.training import language_model
from dcrafter.training.annotate import run
from dcrafter.training.annotation import CATEGORIES, is_generated, parse_answer, prompt_for
from dcrafter.training.language_model import TRIES, open_endpoint, open_local
from dcrafter.training.videos import VideoData, Videos, parse_confidence

ROWS = [
    ("1", "Young man doing push-ups in a park", "man"),
    ("2", "Abstract 3D rendering of a tunnel", None),  # never asked about
    ("3", "A house on a hill, at dusk", "still"),
    ("4", "Waves", "nonsense"),
]
ANSWERS = {
    "man": 'Sure!\n```json\n{"dynamic_confidence": "95%", "dynamic_wording": "Man doing push-ups.", '
    '"dynamic_source_category": "Human"}\n```',
    "still": '{"dynamic_confidence": 5, "dynamic_wording": "", "dynamic_source_category": "building"}',
    "nonsense": "I cannot tell.",
}


class Endpoint:
    """Answers as OpenAI's interface does, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.failures: list[Reply] = []  # given first

    def __call__(self, path: str, posted: bytes) -> Reply:
        assert path == "/v1/chat/completions"
        self.asked.append(json.loads(posted))
        if self.failures:
            return self.failures.pop(0)
        prompt = self.asked[-1]["messages"][0]["content"]
        kind = next(kind for _, caption, kind in ROWS if kind and json.dumps(caption) in prompt)
        found = {"choices": [{"message": {"role": "assistant", "content": ANSWERS[kind]}}]}
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "webvid.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["videoid", "page_dir", "name", "duration"])
        table.writerows([number, "000001", caption, "PT5S"] for number, caption, _ in ROWS)
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_manifest_is_written_that_the_trainer_reads(
    suffix: str, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint, out = Endpoint(), tmp_path / "out" / f"motion.{suffix}"
    out.parent.mkdir()
    with served(endpoint) as address:
        run([str(captions), "-o", str(out), "--endpoint", f"{address}/v1", "--model", "stub"])
    said = capsys.readouterr()
    assert said.err == "2 annotated, 1 with an unclear answer, 1 left out as no camera took them\n"
    assert said.out == f"{out}\n"
    assert [request["model"] for request in endpoint.asked] == ["stub"] * 3

    def texts(**options: Any) -> list[tuple[str, str]]:
        found = Videos(out, VideoData(**options), 0, 1, height=8, width=8).videos
        return [(Path(file).relative_to(tmp_path).as_posix(), text) for file, text in found]

    assert texts() == [(f"videos/000001/{ROWS[i][0]}.mp4", ROWS[i][1]) for i in (0, 2, 3)]
    assert texts(confidence=0.9, wording="dynamic") == [("videos/000001/1.mp4", "Man doing push-ups.")]
    assert texts(categories=("human",)) == [("videos/000001/1.mp4", ROWS[0][1])]


def test_answers_are_kept_and_a_run_goes_on_where_it_was_left(captions: Path, tmp_path: Path) -> None:
    endpoint, out = Endpoint(), tmp_path / "motion.csv"
    with served(endpoint) as address:
        given = [str(captions), "-o", str(out), "--endpoint", f"{address}/v1", "--workers", "1"]
        endpoint.failures = [(200, {}, b'{"choices": [{"message": {"content": "{}"}}]}'), (401, {}, b"")]
        with pytest.raises(UsageError, match="HTTP 401"):
            run([*given, "--model", "stub"])
        assert not out.exists()
        kept = tmp_path / "motion.answers.jsonl"
        assert len(kept.read_text().splitlines()) == 1
        with kept.open("a") as file:
            file.write('{"key": "torn')
        endpoint.asked.clear()
        run([*given, "--model", "stub"])
        assert len(endpoint.asked) == 2  # the first answer was kept
        run([*given, "--model", "stub"])
        assert len(endpoint.asked) == 2
        first = out.read_text()
        run([*given, "--model", "another"])
        assert len(endpoint.asked) == 5
    assert "Man doing push-ups." not in first  # the answer that was kept was unclear
    assert "Man doing push-ups." in out.read_text()


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint()
    endpoint.failures = [(429, {"Retry-After": "7"}, b""), (503, {}, b"")]
    waits: list[float] = []
    monkeypatch.setenv(language_model.KEY, "secret")
    with served(endpoint) as address:
        ask = open_endpoint(f"{address}/v1/", "stub", sleep=waits.append)
        assert ask(prompt_for(ROWS[0][1])) == ANSWERS["man"]
        assert waits == [7, 4]
        endpoint.failures = [(500, {}, b"")] * TRIES
        with pytest.raises(UsageError, match="HTTP 500"):
            ask(prompt_for(ROWS[0][1]))
        endpoint.failures = [(200, {}, b"<html>")]
        with pytest.raises(UsageError, match="not as OpenAI's"):
            ask("anything")
    with pytest.raises(UsageError, match="gives no answer"):
        open_endpoint("http://127.0.0.1:9/v1", "stub", sleep=lambda _: None)("anything")


@pytest.mark.parametrize(
    ("text", "confidence"),
    [('{"dynamic_confidence": "90%"}', 0.9), ('{"dynamic_confidence": 90}', 0.9), ('{"dynamic_confidence": 0.9}', 0.9),
     ('{"dynamic_confidence": "0.9"}', 0.9),
     ('<think>{"dynamic_confidence": 1}</think>{"dynamic_confidence": "0 %"}', 0),
     ('{"dynamic_confidence": 150}', 1)],
)  # fmt: skip
def test_confidence_is_read_as_models_write_it(text: str, confidence: float) -> None:
    assert parse_answer(text).dynamic_confidence == confidence
    assert parse_answer(text).dynamic_source_category == "other"


@pytest.mark.parametrize(
    "text", ["", "{", '{"wording": "x"}', '{"dynamic_confidence": "high"}', "[1]", '{"dynamic_confidence": null}']
)
def test_what_is_no_answer_is_unclear(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_answer(text)


def test_confidences_of_a_manifest_are_shares() -> None:
    assert [parse_confidence(value) for value in ("90%", "0.9", 0.9, " 90 % ", 0)] == [0.9, 0.9, 0.9, 0.9, 0]
    for value in ("high", "150%", -1, None):
        with pytest.raises(ValueError, match=r"."):
            parse_confidence(value)


def test_words_of_generated_videos_are_whole() -> None:
    assert is_generated("CGI tunnel")
    assert is_generated("A seamless loop, of stars")
    assert not is_generated("A rendered-down candle".replace("rendered", "surrendered"))
    assert not is_generated("Vectorcardiogram of a patient")
    assert not is_generated("CGI tunnel", [])


def test_the_prompt_quotes_its_caption_and_names_every_category() -> None:
    prompt = prompt_for('A "dog"\nruns {fast}')
    assert '"A \\"dog\\" runs {fast}"' in prompt
    assert all(category in prompt for category in CATEGORIES)


def test_a_local_model_is_asked_greedily(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<end>").save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=3, n_positions=400, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    ask = open_local(str(tmp_path), offline=True)
    answer = ask("a b a")
    assert answer == ask("a b a")
    assert set(answer.split()) <= {"a", "b"}


def test_captions_are_compared_with_their_videos(videos: Path, tmp_path: Path) -> None:
    with served(lambda *_: (200, {}, b'{"choices": [{"message": {"content": "{}"}}]}')) as address:
        out = tmp_path / "motion.jsonl"
        given = [str(videos), "-o", str(out), "--endpoint", f"{address}/v1", "--model", "stub", "--align", "tiny"]
        run([*given, "--generated", "moon"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["caption"] for row in rows] == ["green ball", "grey stone", "red sun"]
    assert all(-1 <= row["clip_similarity"] <= 1 for row in rows)
    with pytest.raises(InputError, match="no videos that are to be"):
        run([*given, "--generated", "moon,ball,stone,sun"])
