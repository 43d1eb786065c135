"""Tokenizers give back every text and lose nothing at the borders of chunks."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm
from hypothesis import given
from hypothesis import strategies as st

from memexp.config import Tokenizer as Settings
from memexp.data import tokenizers
from memexp.data.tokenizers import Bytes, SentencePiece, Tokenizer, Words, train
from memexp.errors import UserError

AWKWARD = [
    "\u2581",
    "\x00",
    "\n",
    "\r",
    "\t",
    " ",
    "  ",
    "<unk>",
    "<0x0A>",
    "ﬁ",
    "e\u0301",
    "\ufeff",
    "x" * 50,
    "😀",
    "def ",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(AWKWARD), max_size=20).map("".join))


@given(TEXTS)
def test_sentencepiece_gives_back_every_text(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == text
    assert b"".join(sentencepiece.pieces(ids)) == text.encode()
    assert not len(ids) or ids.max() < sentencepiece.vocabulary


@given(TEXTS)
def test_bytes_are_the_texts_utf8(text: str) -> None:
    ids = Bytes().encode(text)
    assert bytes(ids.tolist()) == text.encode() == b"".join(Bytes().pieces(ids))
    assert Bytes().decode(ids) == text


def test_bytes_take_what_is_no_text() -> None:
    assert Bytes().encode(b"\xff\x00").tolist() == [255, 0]


def test_a_cut_inside_a_character_decodes_without_failing(sentencepiece: Tokenizer) -> None:
    assert sentencepiece.decode(sentencepiece.encode("a😀")[:-1]) == "a\ufffd"


def test_the_tokens_of_a_line_do_not_depend_on_other_lines(
    sentencepiece: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "LINES", 100)
    lines = [f"    value_{number} = {number} # number {number}\n" for number in range(600)]
    apart = np.concatenate([sentencepiece.encode(line) for line in lines])
    assert sentencepiece.encode("".join(lines)).tolist() == apart.tolist()


def test_bpe_is_what_sentencepiece_makes_of_the_whole_text() -> None:
    text = "".join(f"    value_{number} = {number}\n\n# number {number}\n" for number in range(300))
    tokenizer = train(Settings(vocabulary=320), [text])
    whole = spm.SentencePieceProcessor(model_proto=tokenizer.save()).encode(text)
    assert tokenizer.encode(text).tolist() == whole


def test_long_lines_are_cut_and_cost_is_linear(sentencepiece: Tokenizer) -> None:
    text = "x" * 200_000 + "\n" + "\u2581" * 20_000
    assert sentencepiece.decode(sentencepiece.encode(text)) == text


@given(st.text(alphabet="ab\n"), st.integers(1, 7))
def test_chunks_are_bounded_and_end_lines_where_they_can(text: str, size: int) -> None:
    parts = list(tokenizers.chunks(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)
    assert all(part.endswith("\n") or "\n" not in part for part in parts[:-1])


def test_words_become_tokens_and_line_ends_stand_alone(sentencepiece: Tokenizer) -> None:
    pieces = sentencepiece.pieces(sentencepiece.encode("    return left + 1\n\n    return right\n"))
    assert b" right" in pieces
    assert [piece for piece in pieces if b"\n" in piece] == [b"\n"] * 3


def test_the_same_text_trains_the_same_model() -> None:
    """In another process, where hashes of strings and addresses differ."""
    code = (
        "import hashlib; from memexp.config import Tokenizer; from memexp.data.tokenizers import train\n"
        "text = ''.join(f'def word{n % 97}(other{n % 31}): return {n * n}\\n' for n in range(4000))\n"
        "for kind in ('bpe', 'unigram'):\n"
        "    print(hashlib.sha256(train(Tokenizer(kind=kind, vocabulary=300), [text]).save()).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    runs = [subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] and len(set(runs[0].split())) == 2


def test_a_saved_tokenizer_loads_as_it_was(sentencepiece: Tokenizer) -> None:
    again = tokenizers.load(sentencepiece.save(), name="saved")
    assert tokenizers.tokenizer_hash(again) == tokenizers.tokenizer_hash(sentencepiece)
    assert again.encode("left + right").tolist() == sentencepiece.encode("left + right").tolist()
    assert isinstance(tokenizers.load(Bytes().save(), name="saved"), Bytes)


def _lossy(**options: Any) -> bytes:
    """A model as SentencePiece trains it by default, but for `options`."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three four five six"] * 50),
        model_writer=model,
        vocab_size=280,
        model_type="bpe",
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


def test_a_model_that_changes_text_is_refused() -> None:
    with pytest.raises(UserError, match="changes text"):
        SentencePiece(_lossy(byte_fallback=True), name="mine.model")
    with pytest.raises(UserError, match="0 byte pieces; expected 256"):
        SentencePiece(_lossy(), name="mine.model")
    with pytest.raises(UserError, match="mine.model is no SentencePiece model"):
        SentencePiece(b"not a model", name="mine.model")


def test_an_unfit_vocabulary_is_one_line() -> None:
    with pytest.raises(UserError, match="vocabulary is 200, which the training split does not allow") as few:
        train(Settings(vocabulary=200), ["some text"])
    with pytest.raises(UserError, match="Vocabulary size too high") as many:
        train(Settings(vocabulary=5000), ["some text"])
    assert "\n" not in str(few.value) + str(many.value)


def test_a_model_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read data.tokenizer.path .*No such file"):
        tokenizers.read(Settings(path=str(tmp_path / "none.model")))
    with pytest.raises(UserError, match="kind is bytes"):
        tokenizers.read(Settings(kind="bytes", path="some.model"))


def test_words_are_a_sorted_vocabulary_of_the_training_texts() -> None:
    words = train(Settings(kind="words", vocabulary=2), ["b > a", "c b", "a  a", ""])
    assert words.vocabulary == 4 and words.encode("> a b c").tolist() == [0, 1, 2, 3]
    assert words.decode([2, 0, 1]) == "b > a" and words.pieces([2, 0]) == [b" b", b" >"]
    assert words.encode(b"c a").tolist() == [3, 1] and words.encode("").tolist() == [] and words.decode([]) == ""
    assert words.encode("a").dtype == np.uint16


@given(st.lists(st.text(st.characters(exclude_characters=" ", exclude_categories=("Cs",)), min_size=1), min_size=1))
def test_words_give_back_their_texts_and_load_as_they_were(parts: list[str]) -> None:
    text = " ".join(parts)
    words = train(Settings(kind="words"), [text])
    again = tokenizers.load(words.save(), name="saved")
    assert isinstance(again, Words) and again.save() == words.save()
    assert (
        again.decode(again.encode(text)) == text and b"".join(again.pieces(again.encode(text))) == f" {text}".encode()
    )


@pytest.mark.parametrize("text", ["a x", "a  b", " a", "a\n"])
def test_an_unknown_word_is_named(text: str) -> None:
    with pytest.raises(UserError, match="the word .* is none of the 2 of the training split; expected") as refused:
        Words(["a", "b"]).encode(text)
    assert repr(next(part for part in text.split(" ") if part not in ("a", "b"))) in str(refused.value)


def test_words_have_no_model_and_ignore_the_vocabulary() -> None:
    with pytest.raises(UserError, match="kind is words"):
        tokenizers.read(Settings(kind="words", path="some.model"))
    assert tokenizers.read(Settings(kind="words")) is None
    assert [tokenizers.tag(Settings(kind=kind)) for kind in ("words", "bytes", "bpe")] == ["words", "bytes", "bpe1024"]
    kinds = [Words(["a"]), Words(["b"]), Bytes()]
    assert len({tokenizers.tokenizer_hash(each) for each in kinds}) == 3


def test_long_lines_are_trained_on() -> None:
    """SentencePiece drops lines that are too long; here they are cut."""

    def lines() -> Iterator[str]:
        yield "zebra " * 20_000

    assert b"zebra" in train(Settings(vocabulary=270), lines()).pieces(range(270))
