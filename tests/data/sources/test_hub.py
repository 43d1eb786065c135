"""Data sets of a hub that is not there."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import errors

from memexp.config.compose import compose

from .books import BOOKS, book_rows, refused, texts, write_rows


class FakeHub:
    """A hub with what `sets` says of each data set: its splits, or what `datasets` raises."""

    def __init__(self, sets: dict[str, Any], gated: str = "") -> None:
        self.sets, self.gated, self.asked = sets, gated, list[dict[str, Any]]()

    def dataset_info(self, name: str, *, revision: str | None, timeout: float, expand: list[str]) -> SimpleNamespace:
        assert timeout <= 5
        assert expand == ["sha", "gated"]
        if name not in self.sets:
            raise errors.RepositoryNotFoundError("404", response=_response())
        return SimpleNamespace(sha=f"commit of {revision}", gated="auto" if name == self.gated else False)

    def load_dataset(self, path: str, *, streaming: bool, **options: Any) -> Any:
        assert streaming
        self.asked.append({"path": path, **options})
        found = self.sets[path]
        if isinstance(found, Exception):
            raise found
        return found


def _response() -> Any:
    return SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a hub in the place of the real one."""

    def put(hub: FakeHub) -> FakeHub:
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
        return hub

    return put


def test_the_first_data_set_that_can_be_read_is_streamed(hub: Any, tmp_path: Path) -> None:
    load = datasets.load_dataset
    for split in BOOKS:
        write_rows(tmp_path / f"{split}.parquet", book_rows(split))
    files = {split: str(tmp_path / f"{split}.parquet") for split in BOOKS}
    real = load("parquet", data_files=files, streaming=True, cache_dir=str(tmp_path / "cache"))
    script = RuntimeError("Dataset scripts are no longer supported, but found books.py\nmore")
    seen = hub(FakeHub({"owner/script": script, "owner/parquet": real}))
    source = texts(
        sets=[{"path": "owner/none"}, {"path": "owner/script"}, {"path": "owner/parquet", "name": "a", "revision": "b"}]
    )
    part = {"name": "owner/parquet", "version": "commit of b", "licence": "CC0"}
    assert source.describe()["parts"] == [part]
    documents = [(document.id, document.split, document.text) for document in source]
    assert documents == [
        ("train:1", "train", "Moby\r\n Dick"),
        ("train:2", "train", "Emma"),
        ("validation:1", "valid", "Ulysses"),
        ("test:1", "test", "Walden"),
    ]
    assert seen.asked[-1] == {"path": "owner/parquet", "name": "a", "revision": "commit of b"}
    assert len(seen.asked) == 2
    assert [(document.id, document.split, document.text) for document in source] == documents


def test_named_files_are_read_themselves_for_their_repository_may_hold_a_script(hub: Any) -> None:
    refused = RuntimeError("Dataset scripts are no longer supported, but found books.py")
    rows = {split: book_rows(split) for split in BOOKS}
    seen = hub(FakeHub({"owner/books": refused, "json": rows, "parquet": {"train": [{"text": "a"}]}}))
    named = {"train": ["a/train/*.jsonl.zst", "b/*.jsonl"], "validation": ["a/val/*"], "test": ["a/test/*"]}
    documents = list(texts(sets=[{"path": "owner/books", "data_files": named, "revision": "r"}]))
    assert [(document.split, document.text) for document in documents[1:3]] == [("train", "Emma"), ("valid", "Ulysses")]
    at = "hf://datasets/owner/books@commit of r"
    files = {
        "train": [f"{at}/a/train/*.jsonl.zst", f"{at}/b/*.jsonl"],
        "validation": [f"{at}/a/val/*"],
        "test": [f"{at}/a/test/*"],
    }
    assert seen.asked == [{"path": "json", "data_files": files}]
    source = texts(sets=[{"path": "owner/books", "data_files": {"train": ["c/*.parquet"]}}])
    assert [document.text for document in source] == ["a"]
    expected = {"train": ["hf://datasets/owner/books@commit of None/c/*.parquet"]}
    assert seen.asked[1:] == [{"path": "parquet", "data_files": expected}]


@pytest.mark.parametrize("name", ["isabelle", "arxiv_math", "github"])
def test_named_files_of_the_configurations(name: str) -> None:
    sets = compose("prepare", [f"data={name}"]).data.source.sets
    named = [patterns for options in sets for patterns in options.get("data_files", {}).values()]
    assert named
    for patterns in named:
        assert patterns
        assert all(re.fullmatch(r"[\w+-]+(/[\w+*-]+)+\.(parquet|jsonl\.\S+)", pattern) for pattern in patterns)


def test_a_data_set_without_its_splits_is_assigned(hub: Any) -> None:
    hub(FakeHub({"owner/books": {"train": [{"text": "a"}, {"text": "b"}]}}))
    assert [(document.id, document.split) for document in texts()] == [("train:1", ""), ("train:2", "")]
    assert [document.id for document in texts(rows=1)] == ["train:1"]


def test_no_data_set_can_be_read(hub: Any) -> None:
    sets = {"owner/gated": datasets.exceptions.DatasetNotFoundError("ask"), "owner/empty": StopIteration()}
    hub(FakeHub(sets, gated="owner/gated"))
    source = texts(sets=[{"path": name} for name in ("owner/none", "owner/empty", "owner/gated")])
    causes = "owner/none", "owner/empty: StopIteration", "owner/gated is gated", "accept its terms at"
    refused(source, *causes, "data.path=PATH", "data=books")


def test_no_other_data_set_is_taken_where_one_cannot_be_reached(hub: Any) -> None:
    hub(FakeHub({"owner/books": ConnectionResetError("peer went away"), "owner/other": {"train": [{"text": "a"}]}}))
    source = texts(sets=[{"path": "owner/books"}, {"path": "owner/other"}])
    refused(source, "owner/books", "peer went away", "expected a connection")


def test_a_lost_connection(hub: Any) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        raise ConnectionResetError("peer went away")

    hub(FakeHub({"owner/books": {"train": rows()}}))
    refused(texts(), "owner/books", "after row 1 of train", "peer went away")


def test_without_a_network_it_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
    asked = []

    def unknown(host: Any, *more: Any, **options: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refused(texts(), "http://hub.invalid", "owner/books", "data.path=PATH")
    assert asked
    assert len(asked) <= 2  # `datasets` by itself would ask again for half a minute
    assert message.endswith("data=books")
    instead = compose("prepare", ["data=hyperpartisan"]).data.source.instead  # no package has classes
    message = refused(texts(instead=instead, label="label"))
    assert message.endswith("data=text data.path=FILE data.source.label=FIELD")
