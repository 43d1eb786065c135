"""Documents of many files: repositories and theories, from folders and from rows in no order."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

from memexp.config.checks import check
from memexp.config.sources import RepositoriesOptions, TheoriesOptions
from memexp.data.sources import Repositories, Theories
from memexp.data.sources.theories import imports
from memexp.errors import UserError

from ...messages import says


def repositories(path: Path, **options: Any) -> Repositories:
    fields = {"text": ["content"], "repository": ["repo_name"], "path": ["path"]}
    values = {"sets": [], "fields": fields, "licence": "x", "instead": "code", "suffixes": [".py", ".c"]}
    return Repositories(RepositoriesOptions(**{**values, **options}), str(path))


def theories(path: Path) -> Theories:
    fields = {"text": ["text"], "repository": ["meta.repo"], "path": ["meta.path"]}
    return Theories(TheoriesOptions(sets=[], fields=fields, licence="x", instead="proofs"), str(path))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


FILES = {
    f"{folder}{name}.py": f"{folder}{name}\n"
    for folder in ("", "a/", "a/deep/", "a/deep/er/", "b/", "c/")
    for name in ("x", "y", "z")
}


def together(paths: list[str], folder: str) -> bool:
    """Whether the files of a folder, with those below it, stand side by side."""
    places = [place for place, path in enumerate(paths) if path.startswith(folder)]
    return places == list(range(places[0], places[0] + len(places)))


def test_a_repository_is_walked_in_random_order_by_folders(tmp_path: Path) -> None:
    write(tmp_path / "one", FILES)
    orders = {
        seed: [line for line in str(document.text).splitlines() if line]
        for seed in range(8)
        for document in repositories(tmp_path, seed=seed)
    }
    for order in orders.values():
        assert sorted(order) == sorted(name.removesuffix(".py") for name in FILES)
        assert all(together(order, folder) for folder in ("a/", "a/deep/", "a/deep/er/", "b/", "c/"))
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    # Files come between folders, and not always ahead of them.
    assert len({order[0].count("/") > 0 for order in orders.values()}) == 2
    source = repositories(tmp_path, seed=3)
    assert list(source) == list(source)


def test_what_is_a_repository_on_disk(tmp_path: Path) -> None:
    write(
        tmp_path, {"owner/one/.git/HEAD": "", "owner/one/x.py": "1", "owner/one/sub/y.py": "2", "owner/two/z.py": "3"}
    )
    write(tmp_path, {"other/x.c": "4", "other/README": "no source", "none/README": "no source", "loose.py": "5"})
    (tmp_path / "other" / "latin.c").write_bytes(b"\xe9")
    (tmp_path / "other" / "binary.c").write_bytes(b"a\x00")
    found = {document.id: sorted(str(document.text).split("\n")) for document in repositories(tmp_path)}
    assert found == {"owner/one": ["1", "2"], "owner": ["3"], "other": ["4"], tmp_path.name: ["5"]}
    write(tmp_path, {".git/HEAD": ""})
    (document,) = repositories(tmp_path)
    assert document.id == tmp_path.name
    assert sorted(str(document.text).split("\n")) == ["1", "2", "3", "4", "5"]


def test_rows_are_sorted_by_repository(tmp_path: Path) -> None:
    write(tmp_path / "tree" / "owner" / "one", FILES)
    write(tmp_path / "tree" / "owner" / "one", {".git/HEAD": ""})
    write(tmp_path / "tree" / "owner" / "two", {".git/HEAD": "", "main.py": "main"})
    rows = [{"repo_name": "owner/one", "path": path, "content": text} for path, text in FILES.items()]
    rows.append({"repo_name": "owner/two", "path": "main.py", "content": "\u2028"})
    rows.append({"repo_name": "owner/two", "path": "binary.py", "content": "NUL \u0000"})
    random.Random(0).shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = repositories(tmp_path / "rows.jsonl")
    assert two == ("owner/two", "owner/two", "\u2028", *two[3:])
    assert one == next(iter(repositories(tmp_path / "tree")))
    assert not list(Path(tempfile.gettempdir()).glob("memexp-*/rows.db"))


def test_a_share_of_the_repositories(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}/x.py": str(number) for number in range(200)})
    some = {document.id for document in repositories(tmp_path, share=0.3)}
    assert 30 < len(some) < 90
    assert some < {document.id for document in repositories(tmp_path, share=0.6)}
    for share, *words in ((0.0, "share is 0", "1 at most"), (1.5, "share is 1.5", "from 0 to 1")):
        fields = {name: ["x"] for name in ("text", "repository", "path")}
        options = RepositoriesOptions(sets=[], fields=fields, licence="x", instead="code", share=share)
        with pytest.raises(UserError, check=says("data.source.", "expected", *words)):
            check(options, "data.source")


def test_rows_without_a_repository(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"path": "x.py", "content": "x"}\n')
    with pytest.raises(UserError, check=says("rows.jsonl, line 1", "content, path", "expected", "'repo_name'")):
        list(repositories(tmp_path / "rows.jsonl"))


def theory(name: str, *imported: str) -> str:
    return f"(* theory Old imports None begin *)\ntheory {name}\n  imports {' '.join(imported)}\nbegin\nend\n"


ARCHIVE = {
    "thys/ROOTS": "Trees\nGraphs\n",
    "thys/Trees/ROOT": "session Trees = HOL +",
    "thys/Trees/Zero.thy": theory("Zero", "Main"),
    "thys/Trees/A.thy": theory("A", '"sub/Middle"', "Zero"),
    "thys/Trees/sub/Middle.thy": theory("Middle", '"../Zero"', '"HOL-Library.Multiset"'),
    "thys/Trees/sub/Top.thy": theory("Top", "Trees.A"),
    "thys/Graphs/ROOT": "session Graphs = Trees +",
    "thys/Graphs/Graph.thy": theory("Graph", "Trees.Zero", "Later"),
    "thys/Graphs/Later.thy": theory("Later", "Main"),
    "thys/Graphs/Zoo.thy": theory("Zoo", "Graph"),
    "etc/settings": "",
}


def names(text: Any) -> list[str]:
    return [line.split()[1] for line in str(text).splitlines() if line.startswith("theory")]


def test_theories_stand_behind_what_they_import(tmp_path: Path) -> None:
    write(tmp_path, ARCHIVE)
    documents = {document.id: names(document.text) for document in theories(tmp_path)}
    assert documents == {
        "thys/Graphs": ["Later", "Graph", "Zoo"],
        "thys/Trees": ["Zero", "Middle", "A", "Top"],
    }


def test_theories_from_rows(tmp_path: Path) -> None:
    rows = [
        {"text": text, "meta": json.dumps({"repo": "mirror/afp", "path": path})}
        for path, text in sorted(ARCHIVE.items(), reverse=True)
        if path.endswith(".thy")
    ]
    rows.append({"text": theory("Own", "Main"), "meta": {"repo": "some/body", "path": "src/Own.thy"}})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {document.id: names(document.text) for document in theories(tmp_path / "rows.jsonl")} == {
        "mirror/afp/Graphs": ["Later", "Graph", "Zoo"],
        "mirror/afp/Trees": ["Zero", "Middle", "A", "Top"],
        "some/body": ["Own"],
    }


def test_a_document_whose_rows_stand_in_several_published_splits(tmp_path: Path) -> None:
    """Where files of rows are split by theory, an entry is whole again, and on no side as yet."""
    for number, split in enumerate(("train", "validation", "test")):
        rows = [
            {"text": theory(f"{entry}{number}", "Main"), "meta": {"repo": "afp", "path": f"thys/{entry}/{number}.thy"}}
            for entry in ("A", "B")
        ]
        (tmp_path / f"{split}-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(document.id, document.split, names(document.text)) for document in theories(tmp_path)] == [
        ("afp/A", "", ["A0", "A1", "A2"]),
        ("afp/B", "", ["B0", "B1", "B2"]),
    ]


def test_imports_that_go_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, {"d/A.thy": theory("A", "B"), "d/B.thy": theory("B", "A"), "d/C.thy": theory("C", "Main")})
    (document,) = theories(tmp_path)
    assert names(document.text) == ["B", "A", "C"]


def test_of_two_theories_of_a_name_the_one_beside_is_imported(tmp_path: Path) -> None:
    write(tmp_path, {"d/ROOT": "", "d/a/B.thy": theory("B", "Main"), "d/z/B.thy": theory("B", "Main")})
    write(tmp_path, {"d/z/A.thy": theory("A", "B")})
    (document,) = theories(tmp_path)
    assert names(document.text) == ["B", "B", "A"]


def test_what_a_header_imports() -> None:
    header = 'theory "X-Y" imports\n  Main "../Dir/Foo" "HOL-Library.Bar"\n  (* not this *) Baz\nkeywords "x" begin'
    assert imports(header) == ["Main", "Foo", "Bar", "Baz"]
    assert imports("theory X begin") == []


def test_a_folder_without_theories(tmp_path: Path) -> None:
    write(tmp_path, {"README": "nothing here"})
    with pytest.raises(UserError, check=says(str(tmp_path), ".thy")):
        theories(tmp_path)


def test_a_theory_in_another_encoding(tmp_path: Path) -> None:
    write(tmp_path, {"d/ROOT": ""})
    (tmp_path / "d" / "A.thy").write_bytes(b"theory A \xe9")
    with pytest.raises(UserError, check=says("A.thy", "not UTF-8")):
        list(theories(tmp_path))


def test_no_room_to_sort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    def full(path: Path) -> sqlite3.Connection:
        base = sqlite3.Connection(path)
        base.execute("PRAGMA max_page_count = 4")
        return base

    monkeypatch.setattr(sqlite3, "connect", full)
    row = json.dumps({"repo_name": "a/b", "path": "x.py", "content": "x" * 100_000})
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(UserError, check=says("database or disk is full", "expected", "TMPDIR")):
        list(repositories(tmp_path / "rows.jsonl"))


def test_versions_of_a_file_are_all_kept(tmp_path: Path) -> None:
    rows = [("x.py", "one"), ("x.py", "two"), ("x.py", "one"), ("y.py", "three")]
    write_rows(tmp_path / "rows.jsonl", [{"repo_name": "a/b", "path": path, "content": text} for path, text in rows])
    [document] = repositories(tmp_path / "rows.jsonl")
    assert sorted(str(document.text).split("\n")) == ["one", "three", "two"]


def test_a_name_may_be_joined_of_two_fields(tmp_path: Path) -> None:
    """Two owners may have a repository of the same name."""
    meta = [{"author": author, "repo": "thesis", "path": "Main.thy"} for author in ("alice", "bob")]
    write_rows(tmp_path / "rows.jsonl", [{"text": f"theory {one['author']}", "meta": one} for one in meta])
    fields = {"text": ["text"], "repository": ["meta.author/meta.repo", "meta.repo"], "path": ["meta.path"]}
    options = TheoriesOptions(sets=[], fields=fields, licence="x", instead="proofs")
    source = Theories(options, str(tmp_path / "rows.jsonl"))
    assert [document.id for document in source] == ["alice/thesis", "bob/thesis"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def test_identity_tells_what_is_a_document(tmp_path: Path) -> None:
    write(tmp_path, {f"{top}/{name}/m.py": "text" for top in "ab" for name in "xy"})
    before = repositories(tmp_path).identity()
    assert repositories(tmp_path).identity() == before
    write(tmp_path, {"a/x/.git/HEAD": ""})  # hidden, so none of the files
    assert [document.id for document in repositories(tmp_path)] != ["a", "b"]
    assert repositories(tmp_path).identity() != before
