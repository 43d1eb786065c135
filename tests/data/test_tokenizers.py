"""Tokenizers give back every text and lose nothing at the borders of chunks."""

import io
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm
from hypothesis import given
from hypothesis import strategies as st

from memexp.config.groups import Tokenizer as Settings
from memexp.data import tokenizers
from memexp.data.tokenizers import PROBE, Bytes, Lines, SentencePiece, Tokenizer, Words, train
from memexp.errors import UserError

from ..messages import says

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


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def spaceless(request: pytest.FixtureRequest) -> Tokenizer:
    """A model of a text without a space, such as a Chinese one."""
    return train(Settings(kind=request.param, vocabulary=271), ["中文注释中文。\n天地玄黄。宇宙洪荒。\n" * 40])


@given(TEXTS)
def test_a_model_of_text_without_spaces_gives_spaces_back(spaceless: Tokenizer, text: str) -> None:
    assert spaceless.decode(spaceless.encode(text)) == text


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
    monkeypatch.setattr("memexp.data.tokenizers.sentence_piece.LINES", 100)
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


def test_the_same_text_trains_the_same_model(capsys: pytest.CaptureFixture[str]) -> None:
    """In another process, where hashes of strings and addresses differ."""
    code = (
        "import hashlib; from memexp.config.groups import Tokenizer; from memexp.data.tokenizers import train\n"
        "text = ''.join(f'def word{n % 97}(other{n % 31}): return {n * n}\\n' for n in range(2000))\n"
        "for kind in ('bpe', 'unigram'):\n"
        "    print(hashlib.sha256(train(Tokenizer(kind=kind, vocabulary=300), [text]).save()).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    there = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
    exec(code, {})
    assert there == capsys.readouterr().out
    assert len(set(there.split())) == 2


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


LLAMA = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
"""A space in front of every text, as LLaMA's model puts it."""

FOLDING = {"byte_fallback": True}
"""As SentencePiece does by default and T5's model too: characters are folded, spaces trimmed and joined."""


@pytest.fixture(scope="module", params=[LLAMA, FOLDING], ids=["llama", "folding"])
def normalising(request: pytest.FixtureRequest) -> bytes:
    """A model with byte pieces that changes text."""
    return _lossy(**request.param)


@given(text=TEXTS)
def test_a_loaded_model_gives_back_every_text_without_its_normaliser(normalising: bytes, text: str) -> None:
    tokenizer = _loaded(normalising)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.pieces(ids)) == text.encode()


@cache
def _loaded(model: bytes) -> SentencePiece:
    return SentencePiece(model, name="mine.model")


def test_only_the_normaliser_is_taken_away(normalising: bytes) -> None:
    before = spm.SentencePieceProcessor(model_proto=normalising)
    after = spm.SentencePieceProcessor(model_proto=_loaded(normalising).save())
    assert before.encode(PROBE, out_type=str) != after.encode(PROBE, out_type=str)
    assert before.encode("two three four") == after.encode(" two three four")
    pieces = [[each.id_to_piece(id) for id in range(each.vocab_size())] for each in (before, after)]
    assert pieces[0] == pieces[1]
    again = tokenizers.load(_loaded(normalising).save(), name="saved")
    assert again.lossless
    assert again.save() == _loaded(normalising).save()


def test_a_model_that_keeps_text_stays_as_it_is(sentencepiece: Tokenizer) -> None:
    assert SentencePiece(sentencepiece.save(), name="mine.model").save() == sentencepiece.save()


def test_without_bytes_what_has_no_piece_is_named() -> None:
    tokenizer = SentencePiece(_lossy(), name="mine.model")
    assert tokenizer.decode(tokenizer.encode("  two   six ")) == "  two   six "
    for text, part in (("one\ntwo", r"'\n'"), ("a line\ntwo", "'a'"), ("two\u2581", "'\u2581'")):
        words = "mine.model", f"no piece for {part}", "no byte pieces", "lossless=false"
        with pytest.raises(UserError, check=says(*words)):
            tokenizer.encode(text)


@pytest.mark.parametrize("options", [{}, FOLDING, LLAMA], ids=["t5", "folding", "llama"])
def test_a_lossy_model_encodes_as_it_does_itself(options: dict[str, Any]) -> None:
    model = _lossy(**options)
    tokenizer = SentencePiece(model, name="mine.model", lossless=False)
    for line in ("two  three\n", "\uff54wo", " six \u2581", "f\u00efve"):
        assert tokenizer.encode(line).tolist() == spm.SentencePieceProcessor(model_proto=model).encode(line)
    again = tokenizers.load(tokenizer.save(), name="saved")
    assert not again.lossless
    assert again.save() == tokenizer.save()
    assert tokenizers.tokenizer_hash(again) != tokenizers.tokenizer_hash(SentencePiece(model, name="mine.model"))


def test_a_lossy_model_of_t5s_kind_reads_lines_as_one_text() -> None:
    """Its normaliser makes one space of a line end, as it does of what begins a text."""
    model, text = _lossy(), "one two\n\n  three six\nfour \u4e2d two\n"
    tokenizer = SentencePiece(model, name="mine.model", lossless=False)
    whole = spm.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode(text).tolist() == whole.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)).split() == whole.decode(whole.encode(text)).split()
    assert "\u2047" in tokenizer.decode(tokenizer.encode(text))


def test_what_is_no_model_and_what_loses_nothing_are_refused() -> None:
    with pytest.raises(UserError, check=says("mine.model", "no SentencePiece model")):
        SentencePiece(b"not a model", name="mine.model")
    for kind in ("bytes", "bpe", "unigram", "words"):
        with pytest.raises(UserError, check=says("lossless is false", f"kind is {kind}", "no model is loaded")):
            tokenizers.read(Settings(kind=kind, lossless=False))
    assert tokenizers.read(Settings(kind="lines", lossless=False)) is None


def _lines(*texts: str, lossless: bool = True) -> Lines:
    tokenizer = train(Settings(kind="lines", lossless=lossless), texts)
    assert isinstance(tokenizer, Lines)
    return tokenizer


def test_lines_are_words_and_ends_the_most_frequent_first() -> None:
    lines = _lines(" = T = \n \n b a b . \n", " b \n")
    assert lines.vocabulary == 6
    assert lines.pieces(range(6)) == [b" \n", b" b", b" =", b" .", b" T", b" a"]
    assert lines.encode(" = T = \n \n a \n").tolist() == [2, 4, 2, 0, 0, 5, 0]
    assert lines.encode(b"b").tolist() == [1]
    assert lines.encode("").tolist() == []


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1))))
def test_lines_of_wikitexts_form_come_back(rows: list[list[str]]) -> None:
    text = "".join("".join(f" {word}" for word in row) + " \n" for row in rows)
    lines = _lines(text)
    again = tokenizers.load(lines.save(), name="saved")
    assert isinstance(again, Lines)
    assert again.lossless
    assert again.save() == lines.save()
    assert again.decode(again.encode(text)) == text
    assert b"".join(again.pieces(again.encode(text))) == text.encode()


def test_an_unknown_word_of_a_line_is_unk_where_there_is_one() -> None:
    lossy = tokenizers.load(_lines(" a <unk> b \n", lossless=False).save(), name="saved")
    assert not lossy.lossless
    assert lossy.decode(lossy.encode("a  x\n")) == " a <unk> \n"
    with pytest.raises(UserError, check=says("the word 'x'", "the 3 of the training split", "<unk>")):
        _lines(" a b \n").encode("a x")


def test_an_unfit_vocabulary_is_one_line() -> None:
    with pytest.raises(UserError, check=says("vocabulary is 200", "training split")):
        train(Settings(vocabulary=200), ["some text"])
    with pytest.raises(UserError, check=says("vocabulary is 5000", "Vocabulary size too high")):
        train(Settings(vocabulary=5000), ["some text"])


def test_a_model_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, check=says("cannot read data.tokenizer.path", "none.model", "No such file")):
        tokenizers.read(Settings(path=str(tmp_path / "none.model")))
    with pytest.raises(UserError, check=says("kind is bytes", "path")):
        tokenizers.read(Settings(kind="bytes", path="some.model"))


def test_words_are_a_sorted_vocabulary_of_the_training_texts() -> None:
    words = train(Settings(kind="words", vocabulary=2), ["b > a", "c b", "a  a", ""])
    assert words.vocabulary == 4
    assert words.encode("> a b c").tolist() == [0, 1, 2, 3]
    assert words.decode([2, 0, 1]) == "b > a"
    assert words.pieces([2, 0]) == [b" b", b" >"]
    assert words.encode(b"c a").tolist() == [3, 1]
    assert words.encode("").tolist() == []
    assert words.decode([]) == ""
    assert words.encode("a").dtype == np.uint16


@given(st.lists(st.text(st.characters(exclude_characters=" ", exclude_categories=("Cs",)), min_size=1), min_size=1))
def test_words_give_back_their_texts_and_load_as_they_were(parts: list[str]) -> None:
    text = " ".join(parts)
    words = train(Settings(kind="words"), [text])
    again = tokenizers.load(words.save(), name="saved")
    assert isinstance(again, Words)
    assert again.save() == words.save()
    assert again.decode(again.encode(text)) == text
    assert b"".join(again.pieces(again.encode(text))) == f" {text}".encode()


@pytest.mark.parametrize("text", ["a x", "a  b", " a", "a\n"])
def test_an_unknown_word_is_named(text: str) -> None:
    unknown = next(part for part in text.split(" ") if part not in ("a", "b"))
    with pytest.raises(UserError, check=says(f"the word {unknown!r}", "the 2 of the training split", "expected")):
        Words(["a", "b"]).encode(text)


def test_words_have_no_model_and_ignore_the_vocabulary() -> None:
    with pytest.raises(UserError, check=says("kind is words", "path")):
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
