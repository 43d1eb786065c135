"""The text of tokens: surroundings, escapes, and what happens when the corpus is gone."""

import ast
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from memexp.config.groups import Scored
from memexp.data import corpus as corpora
from memexp.data.corpus import TokenDocument
from memexp.errors import UserError
from memexp.report.difference.breakdown import break_down, notes, since_last
from memexp.report.difference.terminal import to_terminal
from memexp.report.difference.token_text import AFTER, BEFORE, Passage, find_text, passage, token_texts, visible
from memexp.report.difference.tokens import Difference, difference
from memexp.store.scores import find_score, load_scores

from ...messages import says


def of_text(fakes: Any, *texts: bytes) -> Difference:
    tokens = [list(text) for text in texts]
    for name, loss in (("a", 3.0), ("b", 2.0)):
        fakes.score(fakes.run(name), [[loss] * len(text) for text in texts], tokens=tokens)
    return difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in ("a", "b")))


def test_surroundings_stay_in_the_document(fakes: Any, words: dict[int, bytes]) -> None:
    found = of_text(fakes, b"first", b"second")
    pieces, warning, _ = find_text(found, fakes.root)
    assert warning == ""
    assert passage(found, 4, pieces) == Passage("firs", "t", "")
    assert passage(found, 5, pieces) == Passage("", "s", "econd")


def test_surroundings_are_as_long_as_stated_and_cut_no_escape(fakes: Any, words: dict[int, bytes]) -> None:
    text = b"\n" * 200
    shown = passage(found := of_text(fakes, text), 100, find_text(found, fakes.root)[0])
    assert shown == Passage("\\n" * (BEFORE // 2), "\\n", "\\n" * (AFTER // 2))
    words[10] = b"ab\x1b"  # seven characters, of which the last four are one
    shown = passage(found, 100, find_text(found, fakes.root)[0])
    assert shown.before == ("ab\\x1b" * 20)[-BEFORE:]
    assert len(shown.before) == BEFORE


def test_half_characters_and_control_characters_show_as_escapes(fakes: Any, words: dict[int, bytes]) -> None:
    found = of_text(fakes, "é\u202e\x1b[2J€".encode())
    pieces, _, _ = find_text(found, fakes.root)
    assert passage(found, 1, pieces) == Passage("\\xc3", "\\xa9", "\\u202e\\x1b[2J€")


@pytest.mark.parametrize(
    "raw", [b"plain", b"a\nb\t\\n", "naïve €".encode(), b"\\x41", b"\x00\x7f", "\u2028\U000e0041".encode()]
)
def test_visible_text_can_be_had_back(raw: bytes) -> None:
    shown = visible(raw)
    assert shown.isprintable()
    quoted = shown.replace('"', '\\"')
    assert ast.literal_eval(f'"{quoted}"').encode() == raw


def test_texts_of_tokens_follow_the_order_of_the_array(fakes: Any, words: dict[int, bytes]) -> None:
    found = of_text(fakes, b"baab\n")
    assert token_texts(found.a.tokens_N, find_text(found, fakes.root)[0]) == ["b", "a", "a", "b", "\\n"]


def of_answers(fakes: Any, words: dict[int, bytes], monkeypatch: pytest.MonkeyPatch, *texts: bytes) -> Difference:
    """A difference of texts of which only what stands behind a > is scored."""
    documents = []
    for number, text in enumerate(texts):
        tokens, answers = np.frombuffer(text, np.uint8), np.arange(len(text)) > text.index(b">")
        documents.append(TokenDocument(f"package{number}", tokens, 0, answers))
    scored = [document.tokens[document.scored(0)].tolist() for document in documents]
    for name, loss in (("a", 3.0), ("b", 2.0)):
        losses = [[loss] * len(one) for one in scored]
        fakes.score(fakes.run(name, mem=8), losses, tokens=scored, max_document=0, accuracy=1.0, exact_match=1.0)
    corpus = corpora.open_corpus(Path())
    corpus.split = lambda name: {"test": documents[::-1]}[name]
    monkeypatch.setattr("memexp.data.corpus.open_corpus", lambda path: corpus)
    return difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in ("a", "b")))


def test_an_answer_stands_behind_its_story(
    fakes: Any, words: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, warning, found = find_text(of_answers(fakes, words, monkeypatch, b"mary? >.m", b"xy>zx."), fakes.root)
    assert warning == ""
    assert passage(found, 1, pieces) == Passage("mary? >.", "m", "")
    assert passage(found, 2, pieces) == Passage("xy>", "z", "x.")
    assert since_last(found).tolist() == [0, 8, 0, 4, 0]
    told = break_down(found, np.zeros(5, dtype=int), None)
    assert [(group.label, group.tokens) for group in told.distance] == [("never before", 3), ("1 to 63", 2)]
    screen = Console(file=io.StringIO(), width=200)
    screen.print(to_terminal(found, told, pieces, top=1))
    assert "package0, token 7" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert not [
        note for note in notes(found, told) if "retrieved" in note.command
    ]  # which is refused where answers are scored


def test_of_answers_without_their_document_no_distance_is_said(
    fakes: Any, words: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = of_answers(fakes, words, monkeypatch, b"mary? >.m", b"xy>zx.")
    corpus = corpora.open_corpus(Path())
    others = [each._replace(tokens=each.tokens + 1) for each in corpus.split("test")]
    corpus.split = lambda name: others
    pieces, warning, found = find_text(scored, fakes.root)
    assert says("only the answers are shown", "documents of data/code-bpe", "force=true")(warning)
    assert passage(found, 1, pieces) == Passage(".", "m", "")
    told = break_down(found, np.zeros(5, dtype=int), None)
    assert told.distance == []
    assert [title for title, _, _ in told.titled()] == ["By kind of token", "By frequency in the scored text"]


def missing(path: Path) -> Any:
    raise UserError(f"{path} does not exist")


def changed(path: Path) -> Any:
    return types.SimpleNamespace(tokenizer=None, tokenizer_hash="other")


@pytest.mark.parametrize(
    ("opening", "said"), [(missing, ("not exist",)), (changed, ("tokenizer", "data/code-bpe", "force=true"))]
)
def test_without_its_corpus_tokens_are_numbers(
    fakes: Any, words: dict[int, bytes], monkeypatch: pytest.MonkeyPatch, opening: Any, said: tuple[str, ...]
) -> None:
    found = of_text(fakes, b"abc")
    monkeypatch.setattr(sys.modules["memexp.data.corpus"], "open_corpus", opening)
    pieces, warning, _ = find_text(found, fakes.root)
    assert says(*said)(warning)
    assert passage(found, 1, pieces) == Passage("<97>", "<98>", "<99>")
