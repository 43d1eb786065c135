"""A prepared corpus: a folder of memory-mapped tokens. It is either complete or absent, and is verified when opened.

data/<name>-<tokenizer>-<8 digits of a hash of what determines it>/
  tokens.bin        all documents one after another, uint16 or uint32
  answers.bin       bool, whether each token is scored; there only where some document has answers
  documents.json    [{"id", "group", "bytes", "split", "tokens"}, ...] in the order of tokens.bin; documents
                    with answers also have their number and, if held out, slices; those with a class have a label;
                    parts of a document that was cut have their start in it, in bytes
  tokenizer.model   SentencePiece model, or the words; empty for bytes
  manifest.json     source with versions and licences, settings, counts, checksums of the files and of itself
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memexp.config.shape import CORPUS, checked
from memexp.data import tokenizers
from memexp.data.manifest import read_manifest
from memexp.data.splits import SPLITS, hashed
from memexp.data.tokenizers import Tokenizer
from memexp.errors import UserError
from memexp.files import checksum, fingerprint, read_json


class TokenDocument(NamedTuple):
    """A document of a prepared corpus."""

    id: str
    tokens: np.ndarray
    """A slice of the memory-mapped file, uint16 or uint32."""
    bytes: int
    """Of the text's UTF-8."""
    answers: np.ndarray | None = None
    """Whether each token is scored, bool; None: all are."""
    slices: dict[str, Any] | None = None
    """Of a held-out document with answers: names, each with a value or with a list of one value for each answer."""
    label: str | None = None
    """Its class, if the source gives one."""

    def scored(self, max_document: int) -> np.ndarray:
        """Indices of the tokens that are scored, ascending. The first token of a document is never a target.

        Args:
            max_document: targets that are read at most; 0: all.
        """
        end = min(len(self.tokens), max_document + 1) if max_document else len(self.tokens)
        return np.arange(1, end) if self.answers is None else 1 + np.flatnonzero(self.answers[1:end])


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus whose checksums were verified."""

    path: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    made: bool
    """Whether it was prepared just now."""
    classes: tuple[str, ...] = ()
    """The classes that documents end in, if they do: the last entries of the vocabulary, in this order."""

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    @property
    def answers_from(self) -> int:
        """The first id that an answer can have: that of the first class, if documents end in their class."""
        return self.vocabulary - len(self.classes) if self.classes else 0

    @property
    def content(self) -> dict[str, str]:
        """The checksums by which the corpus enters a run's identity; see `content_of`."""
        return content_of(self.manifest)

    @property
    def tokens_checksum(self) -> str:
        """Checksum of the tokens and, if only some are scored, of which these are."""
        return self.content["tokens_checksum"]

    @property
    def tokenizer_hash(self) -> str:
        return self.content["tokenizer_hash"]

    def seen_from(self, root: Path) -> str:
        """Its folder relative to `root`, so that it is still right when both have moved."""
        return os.path.relpath(self.path, root)

    @cached_property
    def _splits(self) -> dict[str, list[TokenDocument]]:
        tokens = np.memmap(self.path / "tokens.bin", dtype=self.manifest["dtype"], mode="r").view(np.ndarray)
        masked = "answers.bin" in self.manifest["files"]
        answers = np.memmap(self.path / "answers.bin", dtype=bool, mode="r").view(np.ndarray) if masked else None
        splits: dict[str, list[TokenDocument]] = {split: [] for split in SPLITS}
        start = 0
        for row in self._rows(len(tokens)):
            end = start + row["tokens"]
            mask = None if answers is None else answers[start:end]
            document = TokenDocument(
                row["id"], tokens[start:end], row["bytes"], mask, row.get("slices"), row.get("label")
            )
            splits[row["split"]].append(document)
            start = end
        for documents in splits.values():
            documents.sort(key=lambda document: hashed(document.id))
        return splits

    def _rows(self, tokens: int) -> list[dict[str, Any]]:
        path = self.path / "documents.json"
        rows: list[dict[str, Any]] = checked(read_json(path), CORPUS, path)
        whole = all({"id", "bytes", "split", "tokens"} <= row.keys() and row["split"] in SPLITS for row in rows)
        if not whole or sum(row["tokens"] for row in rows) != tokens:
            raise UserError(
                f"{path} does not list documents of {tokens:,} tokens in all, each with id, bytes, split and tokens; expected the list of "
                "a prepared corpus. Likely cause: it was edited"
            )
        return rows

    def split(self, name: str) -> list[TokenDocument]:
        """The documents of `train`, `valid` or `test`, sorted by a hash of their ids, so that the first documents of a
        split are not all of one group."""
        return list(self._splits[name])


def open_corpus(path: Path, *, made: bool = False) -> Corpus:
    """Open a prepared corpus by its folder.

    Args:
        made: whether it was prepared just now.

    Raises:
        UserError: it does not exist, or a file is damaged.
    """
    again = "`memexp prepare` with the same settings and force=true makes it again"
    try:
        manifest = read_manifest(path)
    except UserError as error:
        raise UserError(f"{error}. {again}") from error
    for name, expected in manifest["files"].items():
        _verify(path / name, expected, again)
    model = path / "tokenizer.model"
    try:
        tokenizer = tokenizers.load(model.read_bytes(), name=str(model))
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(f"{model} is no tokenizer ({error}); expected one that memexp saved. {again}") from error
    return Corpus(path, manifest, tokenizer, made)


def recorded(where: str, root: Path) -> Path:
    """The folder of the corpus that a summary names; the summary may come from somebody else.

    Raises:
        UserError: it is none of the root's corpora.
    """
    folder = Path(os.path.normpath(root / where))
    if folder.parent not in (root / "data", (root / "data").resolve()):  # data may be a link to a larger disk
        raise UserError(
            f"the summary names the corpus {where!r}; expected a folder of {root / 'data'}. Likely cause: the run comes from somebody "
            "else, or was edited"
        )
    return folder


def with_content(content: dict[str, str], root: Path) -> Path | None:
    """The folder of a prepared corpus with these checksums; None if there is none."""
    for path in sorted((root / "data").glob("[!.]*/manifest.json")):
        try:
            if content_of(read_manifest(path.parent)) == content:
                return path.parent
        except UserError:  # a damaged corpus does not hide the others
            continue
    return None


def content_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The checksums of a corpus: its tokens, its documents with their splits, and its tokenizer."""
    files = manifest["files"]
    tokens = str(files["tokens.bin"]["sha256"])
    return {
        "tokens_checksum": fingerprint([tokens, files["answers.bin"]["sha256"]]) if "answers.bin" in files else tokens,
        "documents_checksum": str(files["documents.json"]["sha256"]),
        "tokenizer_hash": str(manifest["tokenizer"]["hash"]),
    }


def _verify(file: Path, expected: dict[str, Any], again: str) -> None:
    """Compare a file's size and checksum with those of the manifest."""
    try:
        size = file.stat().st_size
        seen = checksum(file) if file.is_file() and size == expected["bytes"] else f"of {size:,} bytes"
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}; expected a file with SHA-256 {expected['sha256']}. {again}"
        ) from error
    if seen != expected["sha256"]:
        raise UserError(
            f"{file} is damaged: it is {seen}; expected SHA-256 {expected['sha256']} of {expected['bytes']:,} bytes. Likely "
            f"cause: it was edited, or a copy was cut off. {again}"
        )
