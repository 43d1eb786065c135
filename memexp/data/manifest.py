"""What a prepared corpus says of itself."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from memexp.config.groups import Data
from memexp.config.shape import MANIFEST, checked
from memexp.data.tokenizers import name_of_file
from memexp.errors import UserError
from memexp.files import fingerprint, read_json

ALWAYS, ANSWERS = ("tokens.bin", "tokenizer.model", "documents.json"), "answers.bin"
"""The files of every corpus, and the one of corpora with answers."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared corpus, after its checksum was verified.

    Raises:
        UserError: it is absent or damaged.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    content = {key: value for key, value in manifest.items() if key != "checksum"} if isinstance(manifest, dict) else {}
    if not content or manifest.get("checksum") != fingerprint(content):
        raise UserError(
            f"{path} is damaged: its content has the checksum {fingerprint(content)}, expected the checksum that stands in it. "
            "Likely cause: it was edited"
        )
    checked(content, MANIFEST, path)
    missing = [key for key in ("name", "dtype", "files", "tokenizer") if key not in content]
    files = content.get("files", {})
    if missing or not set(ALWAYS) <= set(files) <= {*ALWAYS, ANSWERS} or content["dtype"] not in ("uint16", "uint32"):
        raise UserError(
            f"{path} does not describe a corpus as memexp prepares it (files {', '.join(files)}; numbers of type {content.get('dtype')}); "
            f"expected {', '.join(ALWAYS)}, and uint16 or uint32. Likely cause: it was edited"
        )
    return {**content, "checksum": manifest["checksum"]}


def given_by(config: Data) -> dict[str, Any]:
    """Where documents come from, as the user gave it. It does not determine a corpus: its documents do."""
    path = None if config.path is None else str(Path(config.path).expanduser().absolute())
    return {"path": path, "source": asdict(config.source)}


def tokenizer_name(manifest: dict[str, Any]) -> str:
    """The tokenizer in two words: 'bpe 1,024', 'words 47' or 'bytes'. A loaded tokenizer is named by its file."""
    tokenizer = manifest["tokenizer"]
    kind = tokenizer["kind"] if tokenizer["path"] is None else name_of_file(tokenizer["path"])
    return str(kind) if kind == "bytes" else f"{kind} {tokenizer['vocabulary']:,}"


def splitting_of(manifest: dict[str, Any]) -> str:
    """How the corpus was split, in a line; empty for one that was prepared by an older version."""
    return str(manifest.get("splitting", {}).get("said", ""))


def is_cut(manifest: dict[str, Any]) -> bool:
    """Whether documents were cut by bytes, so that the same document has a part in each split."""
    return manifest.get("splitting", {}).get("by") == "bytes"
