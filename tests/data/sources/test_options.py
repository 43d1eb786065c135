"""The options of the sources: their list, what is refused, and what older runs and corpora say of them."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from memexp.cli.main import main
from memexp.config.compose import compose, typed
from memexp.config.field import UNSET, default_of
from memexp.config.groups import Data
from memexp.config.introspection import CONF, choices_of, source_of
from memexp.config.sources import SOURCES, TARGETS, FilesOptions, Part, SourceOptions, read_source
from memexp.data import sources
from memexp.data.library import folder_of
from memexp.data.sources.fetch import CLIENTS, FORMS
from memexp.data.sources.formats import FORMATS
from memexp.errors import UserError
from memexp.store.archive import light_copies

from ...messages import says

ROOT = Path(__file__).parents[3]
RUNS = [copy for file in sorted((ROOT / "results").glob("**/runs.jsonl")) for copy in light_copies(file)]

FOLDERS = {
    "arxiv_math": "arxiv_math-unigram32000-47a37c28",
    "books": "books-bpe1024-b1b50992",
    "c4_4k": "c4_4k-unigram32000-53c7cdc1",
    "code": "code-bpe1024-07c1d7ba",
    "code_go": "code_go-bpe1024-addb8fda",
    "copy": "copy-words-fbd70ae7",
    "enwik8": "enwik8-bytes-f9cfdc01",
    "equations": "equations-words-884a0a41",
    "github": "github-unigram32000-75d49759",
    "hyperpartisan": "hyperpartisan-unigram8000-dc8f2e55",
    "isabelle": "isabelle-unigram32000-8caf3603",
    "math": "math-bpe1024-f5ab9a9b",
    "mqar": "mqar-words-411af025",
    "pg19": "pg19-unigram32000-08c6b9c4",
    "proofs": "proofs-bpe1024-e7249780",
    "proofs_acl2": "proofs_acl2-bpe1024-0f6a0c54",
    "proofs_hol": "proofs_hol-bpe1024-d26b2d26",
    "retrieval": "retrieval-words-213436d7",
    "reverse": "reverse-words-33241d66",
    "speeches": "speeches-bpe1024-1d44ca26",
    "stdlib": "stdlib-bpe1024-638bfcd0",
    "text8": "text8-bytes-96c77aec",
    "tiny": "tiny-bpe512-789d3b04",
    "web": "web-bpe1024-9a03d743",
    "wiki": "wiki-bpe1024-5919e8ba",
    "wiki_markup": "wiki_markup-bytes-5f63e83d",
    "wikitext103": "wikitext103-unigram32000-27949ec8",
    "wikitext103_words": "wikitext103_words-lines-bb441cc6",
    "hyperpartisan data.source.label=x": "hyperpartisan-unigram8000-e7cf713d",
    "pg19 data.min_document=5": "pg19-unigram32000-1b30ff0b",
    "arxiv_math data.source.category=cs.": "arxiv_math-unigram32000-7b27dac2",
    "c4_4k data.source.rows=0": "c4_4k-unigram32000-cbef530e",
    "c4_4k data.source.longer_than=100": "c4_4k-unigram32000-0951db72",
    "c4_4k data.source.splits={train:[valid]}": "c4_4k-unigram32000-df2475de",
    "github data.source.share=1": "github-unigram32000-5acaaafe",
    "github data.source.share=0.5": "github-unigram32000-38edc221",
    "github data.source.seed=3": "github-unigram32000-0b550579",
    "github data.source.suffixes=[.py]": "github-unigram32000-75d49759",
    "enwik8 data.source.piece=5000": "enwik8-bytes-aeea348b",
    "enwik8 data.source.size=500000": "enwik8-bytes-ecd55f5f",
    "copy data.source.lengths=[6,12,18,24]": "copy-words-c5542f4d",
    "copy data.source.documents=[10,5,5]": "copy-words-0074d340",
    "copy data.source.seed=4": "copy-words-c9db1c7f",
    "reverse data.source.lengths=[6]": "reverse-words-d93c6375",
    "retrieval data.source.pairs=[1,2,3,4]": "retrieval-words-d21c2fdb",
    "mqar data.source.pairs=[4] data.source.length=64 data.source.vocabulary=99": "mqar-words-07dbab3b",
    "equations data.source.documents=[1,1,1]": "equations-words-40cbbc49",
    "code data.source.packages=[json,csv]": "code-bpe1024-9eab823a",
    "code data.source.standard_library=false": "code-bpe1024-9fac1872",
    "tiny data.source.packages=[json]": "tiny-bpe512-6bd63c4f",
    "stdlib data.source.cut_above=100000": "stdlib-bpe1024-0b6b3d14",
    "stdlib data.source.standard_library=true": "stdlib-bpe1024-638bfcd0",
    "proofs data.source.parts.hol-light.join=1000": "proofs-bpe1024-5e701a7d",
    "proofs data.source.parts.hol-light.without=[]": "proofs-bpe1024-7b83e926",
    "wiki data.source.parts.gensim.format=wiki_markup": "wiki-bpe1024-6652d23f",
    "books data.source.what=x": "books-bpe1024-b1b50992",
    "babi": "babi-words-e2243988",
    "needle": "needle-words-2ad19de4",
    "passkey": "passkey-words-7649be3d",
    "remember": "remember-words-99981da7",
    "rewrite": "rewrite-words-4df091d3",
    "babi data.source.question=qa5 data.source.noise=none": "babi-words-e7e04401",
    "needle data.source.haystack=needles": "needle-words-4300430d",
    "rewrite data.source.test_pairs=[500]": "rewrite-words-24cba73e",
}
"""Folder names of corpora as version after version has prepared them, by the settings that are typed."""


@pytest.mark.hard
def test_corpora_keep_the_names_of_their_folders(tmp_path: Path) -> None:
    found = {}
    for words in FOLDERS:
        settings = typed(compose("prepare", f"data={words}".split(" ")))
        found[words] = folder_of(settings.data, tmp_path).name
    assert found == FOLDERS
    assert {words.split(" ")[0] for words in FOLDERS} == {*choices_of("data")} - {"text"}


def test_committed_corpora_are_those_of_the_table() -> None:
    folders = [json.loads(path.read_text())["folder"] for path in (ROOT / "results" / "corpora").glob("*.json")]
    others = {"proofs_hol-bpe1024-094b9ee9"}  # measured when its configuration left out less
    assert len(folders) > 5
    assert {*folders} - others <= {*FOLDERS.values()}


# ----------------------------------------------------------------------------------------------- runs


def test_settings_of_every_committed_run_are_read() -> None:
    """A run for each of the settings of data that runs have."""
    assert len(RUNS) > 300
    runs = {json.dumps(json.loads(run.line)["config"]["data"]): run for run in RUNS}
    assert len(runs) > 15
    kinds = set()
    for said, run in runs.items():
        data = run.settings.data
        kinds.add(type(data.source))
        assert _holds(asdict(data), json.loads(said), run.path)
    assert len(kinds) >= 6


def _holds(now: Any, then: Any, where: Any) -> bool:
    """Whether all that was said then is said now, but for `root`, which said where a machine keeps its packages."""
    if isinstance(then, dict):
        return all(name == "root" or _holds(now[name], value, where) for name, value in then.items())
    assert now == then, where
    return True


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"_target_": "os.system", "command": "ls"},
            ("_target_ is 'os.system'", "expected", "memexp.data.sources.Files"),
        ),
        ({"_target_": "memexp.data.sources.File"}, ("did you mean memexp.data.sources.Files",)),
        ({"_target_": "memexp.data.corpus.prepare"}, ("_target_ is 'memexp.data.corpus.prepare'", "expected")),
        ({"_target_": ["memexp.data.sources.Files"]}, ("_target_ is ['memexp.data.sources.Files']", "expected")),
        ({}, ("_target_ is None", "expected")),
        ("files", ("_target_ is None", "expected")),
        ({"_target_": "memexp.data.sources.Files", "feild": "x"}, ("data.source.feild", "did you mean field?")),
        ({"_target_": "memexp.data.sources.Files", "suffixes": 5}, ("data.source.suffixes: ",)),
        (
            {"_target_": "memexp.data.sources.Copy", "lengths": ["x"], "documents": [1, 1, 1]},
            ("data.source.lengths[0]: ",),
        ),
        ({"_target_": "memexp.data.sources.PackageTexts", "what": "x", "parts": {"a": 3}}, ("data.source.parts.a: ",)),
        ({"_target_": "memexp.data.sources.Texts"}, ("data.source.sets: ",)),
    ],
)
def test_what_a_run_folder_may_not_say(given: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, check=says(*words)):
        read_source(given)


def test_nothing_else_is_opened(tmp_path: Path) -> None:
    class Other(SourceOptions):
        pass

    listed = "expected", "memexp.data.sources.Files"
    with pytest.raises(UserError, check=says("data.source", "Other", *listed)):
        sources.open_source(Data(name="x", source=Other("memexp.data.sources.Files")), tmp_path)
    with pytest.raises(UserError, check=says("_target_ is 'memexp.data.sources.Texts'", *listed)):
        sources.open_source(Data(name="x", source=FilesOptions("memexp.data.sources.Texts")), tmp_path)


# -------------------------------------------------------------------------------------------- schemas


def test_every_source_is_listed_with_its_class() -> None:
    published = {name for name in sources.__all__ if name[0].isupper()} - {"Document", "Source"}
    assert {target.removeprefix("memexp.data.sources.") for target in TARGETS} == published
    assert {source_of(data) for data in choices_of("data")} == {*SOURCES}


@pytest.mark.parametrize("schema", [*SOURCES.values(), Part])
def test_every_option_says_what_it_is(schema: Any) -> None:
    for item in fields(schema):
        assert item.metadata["help"]
        assert not item.metadata["help"].endswith(".")


def test_words_of_a_part_are_those_that_are_known() -> None:
    choices = {item.name: set(item.metadata["choices"]) for item in fields(Part)}
    assert (choices["client"], choices["format"], choices["form"]) == ({*CLIENTS}, {*FORMATS}, {*FORMS})


@pytest.mark.parametrize("data", choices_of("data"))
def test_a_file_says_only_what_differs_from_the_schema(data: str) -> None:
    given = yaml.safe_load((CONF / "data" / f"{data}.yaml").read_text()).get("source", {})
    schema = SOURCES[source_of(data) or ""]
    defaults = {item.name: default_of(item) for item in fields(schema)}
    assert [name for name, value in given.items() if value == defaults[name] != UNSET] == []


# ----------------------------------------------------------------------------------- what is typed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("data=text data.source.feild=x", ("data.source.feild", "did you mean data.source.field?")),
        ("data=tiny data.source.pairs=[1]", ("data.source.pairs", "expected", "data=mqar")),
        ("data=text data.source.suffixes=.txt", ("data.source.suffixes is", "'.txt'", "expected a list")),
        ("data=enwik8 data.source.piece=0", ("data.source.piece is 0", "expected at least 1")),
        ("data=enwik8 data.source.piece=x", ("data.source.piece is 'x'", "expected a whole number", "64k")),
        ("data=copy data.source.lengths=[24,0]", ("data.source.lengths is [24, 0]", "expected at least 1")),
        ("data=copy data.source.lengths=[]", ("data.source.lengths is []", "expected a list", "from 1")),
        ("data=copy data.source._target_=os.system", ("_target_ is 'os.system'", "memexp.data.sources.Copy")),
        (
            "data=wiki data.source.parts.gensim.format=htm",
            ("data.source.parts.gensim.format is 'htm'", "expected", "did you mean html?"),
        ),
        ("data=wiki +data.source.parts.gensim.x=1", ("data.source.parts.gensim.x", "expected")),
        ("data=pg19 data.source.fields={text:[]}", ("data.source.fields", "text", "expected")),
        ("data=tiny data.path=.", ("data.path is .", "data=tiny", "expected data=text")),
    ],
)
def test_options_are_refused_as_other_settings_are(
    settings: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", *settings.split(" "), f"root={tmp_path}"]) == 2
    assert says(*words)(capsys.readouterr().err)
