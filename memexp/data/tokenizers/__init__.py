"""Text becomes tokens and comes back unchanged: bytes, words, SentencePiece trained here or loaded, a checkpoint's tokenizer.

A loaded model that changes text is used without its normaliser, which is what changes it. With lossless=false it is used
as it is, and bytes are then counted in the text that comes back.
"""

from memexp.data.tokenizers.bytes import Bytes
from memexp.data.tokenizers.lines import Lines
from memexp.data.tokenizers.published import Published
from memexp.data.tokenizers.sentence_piece import LONGEST_LINE, PROBE, SentencePiece, chunks
from memexp.data.tokenizers.settings import WITHOUT_MODEL, load, name_of_file, read, tag, tokenizer_hash, train
from memexp.data.tokenizers.tokenizer import Tokenizer
from memexp.data.tokenizers.words import Words

__all__ = [
    "LONGEST_LINE",
    "PROBE",
    "WITHOUT_MODEL",
    "Bytes",
    "Lines",
    "Published",
    "SentencePiece",
    "Tokenizer",
    "Words",
    "chunks",
    "load",
    "name_of_file",
    "read",
    "tag",
    "tokenizer_hash",
    "train",
]
