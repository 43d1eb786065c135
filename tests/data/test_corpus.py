"""A prepared corpus holds the documents' text, is found again, and is refused when damaged."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import PythonPackagesOptions
from memexp.data.corpus import Corpus
from memexp.data.library import prepare
from memexp.data.tokenizers import Tokenizer as AnyTokenizer
from memexp.errors import UserError

from ..messages import says

MakeData = Callable[..., Data]


def texts(corpus: Corpus) -> dict[str, str]:
    """Every document's text, decoded from its tokens."""
    splits = [corpus.split(name) for name in ("train", "valid", "test")]
    return {document.id: corpus.tokenizer.decode(document.tokens) for split in splits for document in split}


@pytest.mark.parametrize("tokenizer", [Tokenizer(kind="bytes"), Tokenizer(kind="bpe", vocabulary=320)])
def test_tokens_are_the_documents(folder: Path, tmp_path: Path, text_data: MakeData, tokenizer: Tokenizer) -> None:
    corpus = prepare(text_data(folder, tokenizer=tokenizer), tmp_path)
    expected = {file.name: file.read_text() for file in folder.iterdir()}
    assert corpus.made
    assert texts(corpus) == expected
    assert corpus.vocabulary == corpus.manifest["tokenizer"]["vocabulary"] == (320 if tokenizer.kind == "bpe" else 256)
    for split in ("train", "valid", "test"):
        documents = corpus.split(split)
        assert corpus.manifest["splits"][split] == {
            "documents": len(documents),
            "bytes": sum(len(expected[document.id].encode()) for document in documents),
            "tokens": sum(len(document.tokens) for document in documents),
        }
        assert [document.bytes for document in documents] == [
            len(expected[document.id].encode()) for document in documents
        ]
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [4, 1, 1]


def test_tokens_are_mapped_not_read(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    (document,) = prepare(text_data(folder), tmp_path).split("test")
    assert document.tokens.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        document.tokens[0] = 1


def test_a_split_stands_in_the_order_of_a_hash(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    """So that the first few documents of a split are not all of one package."""
    ids = [document.id for document in prepare(text_data(folder), tmp_path).split("train")]
    assert ids == sorted(ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    assert ids != sorted(ids)


def test_the_same_settings_find_it_again(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    first = prepare(text_data(folder), tmp_path)
    again = prepare(text_data(folder, max_document=99), tmp_path)  # max_document is about training alone
    assert not again.made
    assert again.path == first.path
    assert again.tokens_checksum == first.tokens_checksum


def test_whatever_changes_tokens_or_splits_makes_another(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"tokenizer": Tokenizer(kind="bpe", vocabulary=320)},
        {"tokenizer": Tokenizer(kind="bpe", vocabulary=321)},
        {"test_documents": 2},
        {"valid_documents": 2},
        {"min_document": 2000},
    ]
    paths = [prepare(text_data(folder, **each), tmp_path).path for each in changes]
    (folder / "file0.txt").write_text("changed, and longer than a line or two should be")
    paths.append(prepare(text_data(folder), tmp_path).path)
    assert len(set(paths)) == len(paths)


def test_force_makes_it_again(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    first = prepare(text_data(folder), tmp_path)
    (first.path / "tokens.bin").write_bytes(b"")
    again = prepare(text_data(folder), tmp_path, force=True)
    assert again.made
    assert again.path == first.path
    assert len(texts(again)) == 6


def test_short_documents_are_left_out_and_counted(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    (folder / "empty.txt").write_text("")
    corpus = prepare(text_data(folder, min_document=2000), tmp_path)
    assert set(texts(corpus)) == {f"file{number}.txt" for number in range(1, 6)}
    assert corpus.manifest["left_out"]["documents"] == 2
    assert corpus.manifest["left_out"]["bytes"] == 1500


def test_only_the_training_split_trains_the_tokenizer(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    data = text_data(folder, tokenizer=Tokenizer(kind="bpe", vocabulary=320))
    first = prepare(data, tmp_path)
    held_out = [*first.split("test"), *first.split("valid")]
    for document in held_out:
        (folder / document.id).write_text(f"quite other words than {document.id}\n" * 100)
    second = prepare(data, tmp_path)
    assert second.tokenizer_hash == first.tokenizer_hash
    assert second.tokens_checksum != first.tokens_checksum
    (folder / first.split("train")[0].id).write_text("quite other words\n" * 100)
    assert prepare(data, tmp_path).tokenizer_hash != first.tokenizer_hash


def test_a_loaded_model_is_used(folder: Path, tmp_path: Path, text_data: MakeData, sentencepiece: AnyTokenizer) -> None:
    model = tmp_path / "mine.model"
    model.write_bytes(sentencepiece.save())
    corpus = prepare(text_data(folder, tokenizer=Tokenizer(path=str(model))), tmp_path)
    assert corpus.path.name.startswith("text-mine-")
    assert corpus.vocabulary == sentencepiece.vocabulary
    assert len(texts(corpus)) == 6


def test_what_does_not_come_back_is_refused_or_said_to_be_lossy(
    folder: Path, tmp_path: Path, text_data: MakeData
) -> None:
    with pytest.raises(UserError, check=says("document file0.txt", "lossless=false")):
        prepare(text_data(folder, tokenizer=Tokenizer(kind="lines")), tmp_path)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("return", "<unk>"))
    corpus = prepare(text_data(folder, tokenizer=Tokenizer(kind="lines", lossless=False)), tmp_path)
    assert corpus.manifest["tokenizer"]["lossless"] is False
    assert not corpus.tokenizer.lossless
    assert texts(corpus)["file0.txt"].split() == (folder / "file0.txt").read_text().split()


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["tokens.bin", "documents.json", "tokenizer.model"])
def test_a_damaged_file_is_named_with_its_checksum(
    folder: Path, tmp_path: Path, text_data: MakeData, name: str
) -> None:
    data = text_data(folder, tokenizer=Tokenizer(kind="bpe", vocabulary=320))
    corpus = prepare(data, tmp_path)
    file = corpus.path / name
    content = file.read_bytes()
    expected = corpus.manifest["files"][name]["sha256"]
    for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, check=says(str(file), expected)):
            prepare(data, tmp_path)
    file.unlink()
    with pytest.raises(UserError, check=says(f"cannot read {file}", "No such file")):
        prepare(data, tmp_path)


def test_a_damaged_manifest_is_named(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    corpus = prepare(text_data(folder), tmp_path)
    file = corpus.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["splits"]["test"]["documents"] += 1
    for text in (json.dumps(manifest), "[]"):
        file.write_text(text)
        with pytest.raises(UserError, check=says(str(file), "damaged", "checksum")):
            prepare(text_data(folder), tmp_path)
    file.write_text('{"cut')
    with pytest.raises(UserError, check=says(f"cannot read {file}")):
        prepare(text_data(folder), tmp_path)


def test_documents_that_cannot_be_used(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    (folder / "file3.txt").write_text("")
    with pytest.raises(UserError, check=says("document file3.txt", "empty")):
        prepare(text_data(folder), tmp_path)
    (folder / "file3.txt").unlink()
    (folder / "half.jsonl").write_text('{"text": "ab\\ud83d"}\n')
    with pytest.raises(UserError, check=says("half.jsonl, line 1", "surrogate pair at character 2")):
        prepare(text_data(folder), tmp_path)
    with pytest.raises(UserError, check=says("none of 1 documents", "9000 bytes")):
        prepare(text_data(folder / "file1.txt", min_document=9000), tmp_path)
    with pytest.raises(UserError, check=says("1 documents", "expected")):
        prepare(text_data(folder / "file1.txt"), tmp_path)
    assert all(path.name.startswith(".") for path in (tmp_path / "data").iterdir())


def test_settings_that_do_not_fit(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    with pytest.raises(UserError, check=says("data.name is '../up'", "expected")):
        prepare(text_data(folder, name="../up"), tmp_path)
    source = PythonPackagesOptions(packages=["json"], standard_library=False)
    with pytest.raises(UserError, check=says(f"data.path is {folder}", "data=text", "expected")):
        prepare(text_data(folder, source=source), tmp_path)


def test_two_processes_at_once(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    """One makes it, the other waits and finds it. A half-made folder of a killed process is in nobody's way."""
    finished = prepare(text_data(folder), tmp_path)
    stale = finished.path.with_name(f".{finished.path.name}.partial")
    finished.path.rename(stale)
    (stale / "manifest.json").unlink()
    code = (
        "import sys; from pathlib import Path; from memexp.config.groups import Data, Tokenizer\n"
        "from memexp.config.sources import FilesOptions\n"
        "from memexp.data import library, preparation\n"
        "encode = preparation._encode\n"
        "preparation._encode = lambda *a, **k: (__import__('time').sleep(0.5), encode(*a, **k))\n"
        "data = Data(name='text', source=FilesOptions(), path=sys.argv[1],\n"
        "            tokenizer=Tokenizer(kind='bytes'), valid_documents=1, test_documents=1)\n"
        "made = library.prepare(data, Path(sys.argv[2]))\n"
        "print(made.path.name, made.tokens_checksum, made.made)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = sorted(process.communicate(timeout=300)[0].split() for process in processes)
    same = [finished.path.name, finished.tokens_checksum]
    assert reports == [[*same, "False"], [*same, "True"]]
    assert not stale.exists()
