"""From typed words to Hydra's: sizes, positional words and quotes, against Hydra's own parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.cli.arguments import parse
from memexp.config.words import quote
from memexp.errors import UserError

from ..messages import says


def parsed(override: str):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("mem=64k", "mem=65536"),
        ("mem=1M", "mem=1048576"),
        ("mem=0,8k,64k", "mem=0,8192,65536"),
        ("mem=1.5k", "mem=1536"),
        ("segment=range(1k,2k)", "segment=range(1024,2048)"),
        ("arch.cache=2k", "arch.cache=2048"),
        ("eval.max_document=8k", "eval.max_document=8192"),
        ("data.min_document=40k", "data.min_document=40960"),
        ("steps=10k", "steps=10000"),
        ("lanes=1k", "lanes=1000"),
        ("optim.rate=3e-4", "optim.rate=3e-4"),
        ("tag=64k", "tag='64k'"),
        ("tag=a,b", "tag='a,b'"),
        ("init_from=null", "init_from=null"),
        ("data.path=~/my texts", "data.path='~/my texts'"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2"),
    ],
)
def test_values(typed, read) -> None:
    assert parse("train", [typed]).overrides == [read]


@pytest.mark.parametrize("typed", ["mem=64kb", "mem=k"])
def test_no_size_is_refused(typed) -> None:
    with pytest.raises(UserError, check=says(f"mem is '{typed[4:]}'", "expected a whole number", "64k")):
        parse("train", [typed])


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20))
def test_quoted_text_is_read_as_itself(text) -> None:
    value = parsed(f"tag={quote(text)}").value()
    assert value == text
    assert isinstance(value, str)


def test_positional_words_are_settings() -> None:
    assert parse("eval", ["a@b-1", "mem=8k"]).overrides == ["run=a@b-1", "mem=8192"]
    assert parse("table", ["a", "1-b"]).overrides == ["runs=[a,'1-b']"]
    assert parse("diff", ["a", "b"]).overrides == ["a=a", "b=b"]
    assert parse("eval", ["--cfg", "job", "a"]).overrides == ["run=a"]


def test_settings_of_a_swept_group_are_left_to_the_jobs() -> None:
    words = ["-m", "arch=knn,vanilla", "arch.cache=1k,64", "mem=0", "tag=x"]
    hydra = parse("train", words).for_hydra()
    assert hydra[:4] == ["-m", "arch=knn,vanilla", "mem=0", "tag=x"]
    assert parsed(hydra[4]).key_or_group == "hydra.sweeper.params"
    assert parsed(hydra[4]).value() == {"arch.cache": "1024,64"}
    assert parse("train", ["-m", "arch=knn", "arch.cache=64"]).for_hydra() == ["-m", "arch=knn", "arch.cache=64"]
