"""`memexp data`: the list, what is measured of a corpus of known documents, and what cannot be looked into."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from memexp.cli.main import main
from memexp.config.groups import Data, Tokenizer
from memexp.config.introspection import choices_of, description_of
from memexp.config.sources import FilesOptions
from memexp.data.corpus import Corpus
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.report.corpus.statistics import Distance, Length, inspect_corpus
from memexp.report.corpus.table import list_corpora

from ...messages import says

LETTERS = "".join(chr(code) for code in range(32, 127))
TEXTS = {"short": "x" + LETTERS[:4], "twice": LETTERS[:60] + LETTERS[:40], "late": LETTERS + "\n" * 100 + LETTERS[:20]}
"""In bytes 5, 100 and 215: the first repeats nothing; the second its first 40 at 60 back; the third a newline at one
back, and 20 letters at 195."""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"number {row}"}) + "\n" for row in (1, 2)))
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text)
    data = Data("mine", FilesOptions(), Tokenizer(kind="bytes"), valid_documents=1, test_documents=1, path=str(folder))
    return prepare(data, tmp_path / "root")


@pytest.fixture
def known(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus whose training split is the three texts."""
    documents = {document.id: document for split in ("train", "valid", "test") for document in corpus.split(split)}
    chosen = [documents[f"{name}.txt"] for name in TEXTS]
    monkeypatch.setattr(Corpus, "split", lambda self, name: chosen if name == "train" else [])
    return corpus


def test_what_is_measured_is_so(known: Corpus) -> None:
    found = inspect_corpus(known, split="train", ngram=2, sample=0)
    assert (found.documents, found.tokens, found.bytes, found.sampled) == (3, 320, 320, 3)
    assert found.quantiles == {"p10": 5, "median": 100, "p90": 215, "max": 215}
    assert found.lengths[0] == Length(4, 1, 5 / 320)
    assert found.lengths[-1] == Length(128, 1, 215 / 320)
    assert [each.low for each in found.lengths] == [4, 8, 16, 32, 64, 128]
    assert sum(each.documents for each in found.lengths) == 3
    assert found.classes == {}
    total = 4 + 99 + 214
    shares = {each.low: (each.share, each.within) for each in found.distances if each.share}
    assert shares == {
        1: (pytest.approx(98 / total), pytest.approx(98 / total)),
        32: (pytest.approx(39 / total), pytest.approx(137 / total)),
        128: (pytest.approx(19 / total), pytest.approx(156 / total)),
    }
    assert found.frequent[0] == (r"\n", 100 / 320)
    count = {char: sum(text.count(char) for text in TEXTS.values()) for char in set("".join(TEXTS.values()))}
    assert found.used == len(count)
    assert found.passage_of == "late.txt"
    assert "".join(found.passage) == TEXTS["late"][83:131].replace("\\", "\\\\").replace("\n", r"\n")


def test_a_sample_is_of_whole_documents_and_holds_enough(known: Corpus) -> None:
    for sample, documents in ((1, 1), (5, 1), (6, 2), (105, 2), (106, 3), (320, 3), (999, 3)):
        found = inspect_corpus(known, split="train", ngram=2, sample=sample)
        assert (found.sampled, found.sampled_tokens) == (documents, (5, 105, 320)[documents - 1])
    assert inspect_corpus(known, split="train", ngram=2, sample=5).distances == []
    assert [each.low for each in inspect_corpus(known, split="train", ngram=2, sample=9).distances if each.share] == [
        32
    ]
    assert inspect_corpus(known, split="train", ngram=99, sample=0).distances[-1] == Distance(1, 1 / 119, 1 / 119)


def test_the_list_has_prepared_damaged_and_absent_corpora(corpus: Corpus) -> None:
    root = corpus.path.parents[1]
    (root / "data" / "broken").mkdir()
    (root / "data" / "broken" / "manifest.json").write_text('{"name": "broken", "splits": {}}')
    (root / "data" / ".half.partial").mkdir()
    (root / "data" / ".half.partial" / "manifest.json").write_text("{}")
    broken, mine, other = list_corpora(root, ["mine", "other"])
    splits = corpus.manifest["splits"].values()
    assert (mine.name, mine.state, mine.tokenizer, mine.licences) == ("mine", "prepared", "bytes", ["not stated"])
    assert (mine.documents, mine.tokens) == (5, sum(split["tokens"] for split in splits))
    assert mine.disk == sum(file.stat().st_size for file in corpus.path.iterdir())
    assert (other.name, other.state, other.documents, other.disk) == ("other", "not prepared", None, None)
    assert broken.state == "damaged"
    assert says("manifest.json", "damaged")(broken.problem)


def test_on_the_command_line(
    corpus: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # room for a table
    root = corpus.path.parents[1]
    words = ["data.name=mine", "data.tokenizer.kind=bytes", "data.valid_documents=1", "data.test_documents=1"]
    words += [f"data.path={root.parent / 'texts'}", f"root={root}"]
    assert main(["data", "inspect", "text", *words, "ngram=3", "split=test", f"out={root / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "mine, test: 1 document" in shown
    assert "3-grams that occurred before" in shown
    written = json.loads((root / "out" / "test.json").read_text())
    assert written["ngram"] == 3
    assert written["tokens"] == corpus.manifest["splits"]["test"]["tokens"]
    assert (root / "out" / "test.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "out" / "test.svg").is_file()

    capsys.readouterr()
    assert main(["data", f"root={root}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "mine" in line]
    assert [text.strip() for text in line.split("│")[1:4]] == ["mine", "prepared", "bytes"]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_list_says_of_each_corpus_what_it_is_and_where_it_comes_from(
    columns: str, empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that are not prepared, without a network; sizes are those that the committed page has."""
    monkeypatch.setenv("COLUMNS", columns)
    page = Path(__file__).resolve().parents[3] / "data" / "README.md"
    (empty / "data").mkdir()
    (empty / "data" / "README.md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["data", f"root={empty}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    shown = re.sub(r"\W+", "", "".join(lines))
    for item in list_corpora(empty, choices_of("data")):
        assert item.origin
        assert item.what == description_of("data", item.name)
        if columns == "80":  # a list, in which folded lines follow each other
            assert re.sub(r"\W+", "", f"{item.name} state not prepared") in shown
            assert re.sub(r"\W+", "", f"origin {item.origin} what {item.what}") in shown
    for corpus, tokens in re.findall(
        r"^\| `(\w+)` .*\| ([\d,]+) \([^|]*\) \|[^|]*\|$", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert f"about {tokens}" in " ".join(lines), corpus


def test_documents_of_each_class_are_counted(known: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from memexp.report.corpus.files import to_terminal

    labelled = [each._replace(label=label) for each, label in zip(known.split("train"), "yxx", strict=True)]
    monkeypatch.setattr(Corpus, "split", lambda self, name: labelled)
    found = inspect_corpus(known, split="train", ngram=2, sample=0)
    assert list(found.classes.items()) == [("x", 2), ("y", 1)]
    with (console := Console(width=100)).capture() as shown:
        console.print(to_terminal(found))
    assert "Documents of each class: x 2, y 1" in shown.get()


def test_a_plot_of_nothing_repeated_is_a_plot(known: Corpus) -> None:
    from memexp.report.corpus.files import plot

    assert plot(inspect_corpus(known, split="train", ngram=2, sample=5)).keys() == {"png", "svg"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["inspct"], ("inspct", "did you mean inspect?")),
        (["inspect", "cod"], ("cod", "did you mean code?")),
        (["inspect", "tiny", "extra"], ("'extra'", "data takes WHAT DATA")),
    ],
)
def test_wrong_words_are_refused_in_a_line(
    typed: list[str], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *typed, f"root={tmp_path}"]) == 2
    assert says("memexp data: ", *words)(capsys.readouterr().err)


def test_an_unprepared_corpus_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "tiny", "data.tokenizer.vocabulary=300", f"root={tmp_path}"]) == 2
    command = f"`memexp prepare data=tiny data.tokenizer.vocabulary=300 root={tmp_path}`"
    assert says("memexp data: ", "tiny-bpe300-", command)(capsys.readouterr().err)


def test_an_empty_split_is_refused(known: Corpus) -> None:
    with pytest.raises(UserError, check=says("test split", "empty")):
        inspect_corpus(known, split="test", ngram=2, sample=0)


def test_documents_of_no_token_do_no_harm(known: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *_) = known.split("train")
    monkeypatch.setattr(Corpus, "split", lambda self, name: [first._replace(tokens=np.zeros(0, np.uint16))])
    found = inspect_corpus(known, split="train", ngram=2, sample=0)
    assert (found.lengths, found.distances, found.frequent, found.passage) == ([], [], [], [])
