"""The tokenizer of a published checkpoint, as its tokenizer.json says."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from memexp.data.tokenizers.sentence_piece import PROBE, SPACE_MARK
from memexp.data.tokenizers.tokenizer import LOSSY, token_type
from memexp.errors import UserError


class Published:
    """A tokenizer.json of the package `tokenizers`, whose tokens are bytes or have byte pieces.

    Text that looks like a special token is text like any other. A begin token, if the checkpoint has one, stands before each
    document and takes up none of its bytes. What adds or strips spaces at the ends of a text is taken out.
    """

    by_line, slow = False, True  # a token may reach over the end of a line, and documents are encoded whole

    SAVED = b"tokenizers "
    """The start of what `save` returns."""

    def __init__(self, model: bytes, *, name: str, lossless: bool = True) -> None:
        """
        Args:
            model: the content of a tokenizer.json.
            name: what to call it in messages.
            lossless: whether every text must come back unchanged.

        Raises:
            UserError: it is none, the package is missing, or it gives back another text than it was given.
        """
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise UserError(
                f"{name} needs the package tokenizers, which is not installed; expected `pip install 'memexp[pretrained]'`"
            ) from error
        self._model, self._name, self.lossless = model, name, lossless
        try:
            content = json.loads(model)
            self._library = Library.from_str(json.dumps(_without_changes(content) if lossless else content))
            added = self._library.get_added_tokens_decoder()
        except Exception as error:  # the library raises nothing more specific
            seen = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{name} is no tokenizer.json: {seen}; expected what the package tokenizers writes"
            ) from error
        self._begin = self._before_text()
        self._library.encode_special_tokens = True
        self.vocabulary = max([*self._library.get_vocab().values(), *added], default=-1) + 1
        self._dtype = token_type(self.vocabulary)
        read = _of_byte_alphabet if "ByteLevel" in _types(content) else _of_byte_pieces
        names = [self._library.id_to_token(number) or "" for number in range(self.vocabulary)]
        self._pieces = [
            (b"" if added[number].special else added[number].content.encode()) if number in added else read(piece)
            for number, piece in enumerate(names)
        ]
        marks = [self._library.token_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._mark = [number for number in marks if number is not None]
        if lossless and self.decode(self.encode(PROBE)) != PROBE:
            raise UserError(
                f"{name} changes text; expected a tokenizer that gives text back unchanged, or data.tokenizer.lossless=false"
            )

    def _before_text(self) -> list[int]:
        """The special tokens that the checkpoint expects before a text."""
        plain = self._library.encode("a", add_special_tokens=False).ids
        whole = self._library.encode("a", add_special_tokens=True).ids
        return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it."""
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        ids = list(self._begin)
        # the sign that such tokenizers write for a space is written by its bytes, if the text has it
        parts = text.split(SPACE_MARK) if len(self._mark) == 3 else [text]
        for index, part in enumerate(parts):
            ids += self._mark * (index > 0) + self._library.encode(part, add_special_tokens=False).ids
        return np.array(ids, dtype=self._dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        # a checkpoint's embedding may have rows that no token uses, and an untrained model may draw them
        return [self._pieces[number] if number < self.vocabulary else b"" for number in ids]

    def save(self) -> bytes:
        return (b"" if self.lossless else LOSSY) + self.SAVED + self._model

    @classmethod
    def load(cls, model: bytes, *, name: str, lossless: bool) -> "Published":
        """The tokenizer from what `save` returned, without `LOSSY`."""
        return cls(model.removeprefix(cls.SAVED), name=name, lossless=lossless)


def _without_changes(content: dict[str, Any]) -> dict[str, Any]:
    """Settings with which the tokenizer changes no text before it cuts it: Llama 2's begins each text with a space, others strip or fold."""
    normaliser = content.get("normalizer") or {}
    steps = normaliser["normalizers"] if normaliser.get("type") == "Sequence" else [normaliser] if normaliser else []
    kept = [step for step in steps if step.get("type") == "Replace"]  # of spaces by their sign
    before = json.loads(json.dumps(content.get("pre_tokenizer")))
    for step in (before or {}).get("pretokenizers", [before] if before else []):
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
        if step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    return content | {
        "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None,
        "pre_tokenizer": before,
        "truncation": None,
        "padding": None,
    }


def _types(content: Any) -> set[str]:
    """The names of all parts."""
    if isinstance(content, list):
        return {name for each in content if isinstance(each, dict) for name in _types(each)}
    if not isinstance(content, dict):
        return set()
    inner = {name for key, value in content.items() if key not in ("model", "added_tokens") for name in _types(value)}
    return inner | {str(content["type"])} if "type" in content else inner


def _alphabet() -> dict[str, int]:
    """The letters with which GPT-2's vocabulary writes bytes: printable ones are themselves, the others U+0100 and on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + number): byte for number, byte in enumerate(hidden)}


ALPHABET = _alphabet()


def _of_byte_alphabet(piece: str) -> bytes:
    return (
        bytes(ALPHABET[letter] for letter in piece) if all(letter in ALPHABET for letter in piece) else piece.encode()
    )


def _of_byte_pieces(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes((int(piece[3:5], 16),))
    return piece.replace(SPACE_MARK, " ").encode()
