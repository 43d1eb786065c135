"""SentencePiece models that give text back unchanged, trained here or loaded."""

import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from memexp.data.tokenizers.tokenizer import LOSSY, token_type
from memexp.errors import UserError

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space. If a text contains this character, it is encoded as its three bytes."""

LONGEST_LINE = 8192
"""Characters; longer lines are cut. Text is encoded line by line, so that the tokens of a line do not depend on other
lines, and time is linear."""

LINES = 4096
"""Lines that are encoded at a time, so that memory is bounded."""

THREADS = 2
"""Fixed, because the result of unigram training depends on it."""

PROBE = (
    " a  b\t\tc \n\n   x\r\ny\v\f\x00\x01\x7f\ufeff<unk><s></s><0x41>\n\u0130\ufb01\u00e9e\u0301\uff21\u00a0\u2003\u200b"
    "\u2581\u2581 \u4e2d\u6587\U0001f600\ue000\ufffd\U0010ffff \n "
)
"""Text that comes back changed from a tokenizer that normalises, trims or lacks byte pieces."""


class SentencePiece:
    """A SentencePiece model. If it is to be lossless and its normaliser changes text, the normaliser is taken out."""

    by_line, slow = True, True

    def __init__(self, model: bytes, *, name: str, lossless: bool = True) -> None:
        """
        Args:
            model: a serialised model.
            name: what to call it in messages.
            lossless: whether every text must come back unchanged.

        Raises:
            UserError: it is not a model, or changes text even without its normaliser.
        """
        self.lossless, self._name = lossless, name
        self._load(model)
        if not lossless or self._keeps_text():
            return
        self._load(_without_normaliser(model))
        if self._mark is not None and not self._keeps_text():
            raise UserError(
                f"{name} changes text even without its normaliser; expected a model that gives text back unchanged, or "
                "data.tokenizer.lossless=false"
            )

    def _load(self, model: bytes) -> None:
        import sentencepiece

        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"{self._name} is no SentencePiece model; expected the .model file that its trainer writes"
            ) from error
        self._model = model
        self.vocabulary = int(self._processor.vocab_size())
        self._dtype = token_type(self.vocabulary)
        byte_ids = {self._byte(id): id for id in range(self.vocabulary) if self._processor.is_byte(id)}
        self._mark: np.ndarray | None = None
        if self.lossless and len(byte_ids) == 256:
            self._mark = np.array([byte_ids[value] for value in SPACE_MARK.encode()], dtype=self._dtype)
        self._space: np.ndarray | None = None
        """Stands for a space where the model has no piece for it, because the text that it was trained on has none or few."""
        if self._mark is not None and self._processor.is_unknown(self._processor.piece_to_id(SPACE_MARK)):
            self._space = np.array([byte_ids[ord(" ")]], dtype=self._dtype)
        self._pieces = [self._piece(id) for id in range(self.vocabulary)]

    def _keeps_text(self) -> bool:
        return self._mark is not None and self.decode(self.encode(PROBE)) == PROBE

    def _byte(self, id: int) -> int:
        return int(self._processor.id_to_piece(id)[3:5], 16)

    def _piece(self, id: int) -> bytes:
        if self._processor.is_byte(id):
            return bytes((self._byte(id),))
        if self._processor.is_unknown(id):
            return b"" if self.lossless else str(self._processor.decode([id])).encode()
        if self._processor.is_control(id):
            return b""
        return str(self._processor.id_to_piece(id)).replace(SPACE_MARK, " ").encode()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: it is lossless, and has neither a piece for a character nor byte pieces.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        encoded = []
        for index, part in enumerate([text] if self._mark is None else text.split(SPACE_MARK)):
            if index and self._mark is not None:
                encoded.append(self._mark)
            for place, between in enumerate([part] if self._space is None else part.split(" ")):
                if place and self._space is not None:
                    encoded.append(self._space)
                lines = _lines(between)
                while batch := list(islice(lines, LINES)):
                    ids = chain.from_iterable(self._processor.encode(batch, num_threads=1))
                    encoded.append(np.fromiter(ids, dtype=self._dtype))
        tokens = np.concatenate(encoded) if encoded else np.empty(0, dtype=self._dtype)
        if self.lossless and self._mark is None and (unknown := self._unknown(text, tokens)):
            raise UserError(
                f"{self._name} has no piece for {unknown!r} and no byte pieces to write it with; expected a model "
                "with byte fallback, or data.tokenizer.lossless=false, with which bytes are counted in the text that comes back"
            )
        return tokens

    def _unknown(self, text: str, tokens: np.ndarray) -> str:
        """The first part of a text for which the model has no piece; empty if it has pieces for all."""
        unknown = self._processor.unk_id()
        for line in _lines(text) if unknown in tokens else ():
            if unknown in (ids := self._processor.encode(line)):
                return str(self._processor.encode(line, out_type=str)[ids.index(unknown)])
        return SPACE_MARK if SPACE_MARK in text else ""

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return list(map(self._pieces.__getitem__, ids))

    def save(self) -> bytes:
        return (b"" if self.lossless else LOSSY) + self._model


def _without_normaliser(model: bytes) -> bytes:
    """The model with the same pieces and scores, but for unchanged text: T5's normalises and trims, LLaMA's adds a space."""
    from sentencepiece import sentencepiece_model_pb2

    content = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # the class is created at import
    content.normalizer_spec.name = "identity"
    content.normalizer_spec.precompiled_charsmap = b""
    content.normalizer_spec.add_dummy_prefix = False
    content.normalizer_spec.remove_extra_whitespaces = False
    changed: bytes = content.SerializeToString(deterministic=True)
    return changed


def chunks(text: str, size: int) -> Iterator[str]:
    """`text` in parts of at most `size` characters, cut after a line end where there is one."""
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def _lines(text: str) -> Iterator[str]:
    """Each line with its end; lines that are too long are in several parts."""
    for line in io.StringIO(text, newline="\n"):
        if len(line) <= LONGEST_LINE:
            yield line
        else:
            yield from chunks(line, LONGEST_LINE)


def train_sentence_piece(kind: str, vocabulary: int, texts: Iterable[str]) -> SentencePiece:
    """A SentencePiece model of the texts; the same texts always give the same model.

    It is trained on lines without their ends, so a line end is always a token of its own: its byte.

    Args:
        kind: bpe or unigram.
        texts: parts of the training split.

    Raises:
        UserError: the texts are too few for that many entries, or need more.
    """
    import sentencepiece

    model = io.BytesIO()
    lines = (line.removesuffix("\n") for text in texts for line in _lines(text))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=kind,
            vocab_size=vocabulary,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=LONGEST_LINE * 4,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2].partition(" Increase ")[0]
        raise UserError(
            f"data.tokenizer.vocabulary is {vocabulary}, which the training split does not allow: {reason} "
            "Expected room for 256 bytes and its characters, and text enough to fill the rest; or data.tokenizer.kind=bytes"
        ) from error
    return SentencePiece(model.getvalue(), name="the trained tokenizer")
