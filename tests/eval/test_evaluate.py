"""Scoring a run: what is refused, what is kept, and what it says."""

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memexp import files
from memexp.cli.main import main
from memexp.config.arch import ARCHS
from memexp.config.arch.knn_memory import KnnArch
from memexp.config.field import default_of
from memexp.config.groups import Scoring
from memexp.data.corpus import Corpus, TokenDocument
from memexp.device import Description
from memexp.errors import UserError
from memexp.eval import evaluate as module
from memexp.eval.evaluate import Request, evaluate, means, pick_documents, validation_nats, with_mem
from memexp.eval.score import score_documents
from memexp.files import write_sealed
from memexp.model.build import build_model
from memexp.model.knn_memory import engines
from memexp.store.folder import Run, Score
from memexp.store.identity import trained_settings
from memexp.train import checkpoint

from ..messages import says
from ..tiny import configure

SCORING = Scoring(split="test", documents=2, max_document=200, lanes=2)


def call(run: Run, root: Path, *, force: bool = False, **request: Any) -> Score:
    asked = Request(**{"scoring": SCORING} | request)
    return evaluate(run, trained_settings(run), asked, root, command="memexp eval", force=force)


def nats(score: Score) -> np.ndarray:
    found: np.ndarray = np.load(score.path / "token_nats.npy")
    return found


@pytest.fixture
def copy(knn: Run, root: Path) -> Iterator[Run]:
    """A copy of the run that a test may damage; gone afterwards."""
    path = knn.path.with_name("copied")
    shutil.copytree(knn.path, path, ignore=shutil.ignore_patterns("eval"))
    yield Run(path)
    shutil.rmtree(path)


def test_what_is_kept_fits_together(knn: Run, root: Path, corpus: Corpus) -> None:
    score = call(knn, root)
    summary = score.summary
    assert score.path.name == "test-2x200-64-on"
    texts = corpus.split("test")[:2]
    expected = np.concatenate([document.tokens[1:201] for document in texts])
    assert (np.load(score.path / "tokens.npy") == expected).all()
    sums = [pytest.approx(part.astype(np.float64).sum()) for part in np.split(nats(score), 2)]
    assert score.documents == [
        {"id": document.id, "tokens": 200, "nats": total} for document, total in zip(texts, sums, strict=True)
    ]
    assert len(nats(score)) == summary["tokens"] == 400
    assert summary["nats_per_token"] == math.fsum(nats(score).tolist()) / 400
    assert summary["bytes"] == len(b"".join(corpus.tokenizer.pieces(expected)))
    assert (summary["context"], summary["cache"], summary["memory_slots"], summary["mem"]) == (16, 16, 64, 64)
    assert summary["memory_fill"] == 1.0
    assert summary["memory"] == "on"
    assert summary["tokenizer_hash"] == corpus.tokenizer_hash


def test_mem_is_changed(knn: Run, root: Path, corpus: Corpus) -> None:
    score = call(knn, root, mem=128)
    assert score.path.name == "test-2x200-128-on"
    assert score.summary["memory_slots"] == 128
    model = build_model(configure("arch=knn", "arch.scale=8", "mem=128"), vocabulary=corpus.vocabulary)
    model.load_state_dict(torch.load(knn.path / "weights.pt", weights_only=True)["model"])
    expected = score_documents(model, pick_documents(corpus, SCORING), lanes=1, max_document=200)
    np.testing.assert_allclose(nats(score), expected.nats, atol=1e-5)
    assert np.abs(nats(score) - nats(call(knn, root))).max() > 1e-3
    assert call(knn, root, mem=64).path == call(knn, root).path


def test_memory_is_switched_off_and_exchanged(knn: Run, root: Path) -> None:
    on, off, foreign = (call(knn, root, memory=memory) for memory in ("on", "off", "foreign"))
    assert [score.path.name for score in (off, foreign)] == ["test-2x200-64-off", "test-2x200-64-foreign"]
    assert off.summary["memory"] == "off"
    assert foreign.summary["memory"] == "foreign"
    np.testing.assert_allclose(nats(off), nats(call(knn, root, mem=0)), atol=1e-5)
    assert np.abs(nats(foreign) - nats(on)).max() > 1e-3
    assert on.summary["tokens_hash"] == off.summary["tokens_hash"] == foreign.summary["tokens_hash"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"memory": "foreign"}, ["memory is foreign", "mem=0 has no memory", "expected memory=on"]),
        ({"memory": "off"}, ["memory is off", "mem=0 has no memory", "expected memory=on"]),
        ({"mem": 64}, ["mem is 64", "no memory"]),
    ],
)
def test_a_model_without_memory_refuses(request_: dict[str, Any], words: list[str], vanilla: Run, root: Path) -> None:
    with pytest.raises(UserError, check=says(*words)):
        call(vanilla, root, **request_)


def test_a_memory_smaller_than_what_is_retrieved_is_refused(knn: Run, root: Path) -> None:
    with pytest.raises(UserError, check=says("mem is 8", "arch.neighbours is 32")):
        call(knn, root, mem=8)


def test_one_document_has_no_foreign_memory(knn: Run, root: Path) -> None:
    with pytest.raises(UserError, check=says("there is 1 document to score", "expected two")):
        call(knn, root, memory="foreign", scoring=replace(SCORING, documents=1))


def test_a_memory_that_cannot_be_resized_keeps_its_size(knn: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnnArch, "resizable", False)
    with pytest.raises(UserError, check=says("mem is 128", "mem=64", "parameters", "expected")):
        call(knn, root, mem=128)


def test_a_score_is_found_again_and_force_redoes_it(knn: Run, root: Path) -> None:
    score = call(knn, root)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in score.path.iterdir()}
    assert call(knn, root) == score
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in score.path.iterdir()} == before
    first = nats(score)
    call(knn, root, force=True)
    assert all(path.stat().st_ino != before[path.name][0] for path in score.path.iterdir() if path.name != ".lock")
    assert (nats(score) == first).all()


def test_what_is_retrieved_is_kept_when_asked_for(knn: Run, root: Path) -> None:
    scoring = replace(SCORING, max_document=60)
    path = call(knn, root, scoring=scoring).path / "retrieved.npy"
    assert not path.exists()
    call(knn, root, scoring=scoring, retrieved=2)
    found = np.load(path)
    assert found.shape == (120, 2)
    assert (found["distance"] <= 59).all()
    assert found["weight"].any()
    before = path.stat().st_ino
    assert call(knn, root, scoring=scoring).path == call(knn, root, scoring=scoring, retrieved=1).path == path.parent
    assert path.stat().st_ino == before
    call(knn, root, scoring=scoring, force=True)
    assert not path.exists()


def test_a_score_that_is_redone_and_dies_is_the_one_before(
    knn: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = replace(SCORING, max_document=50)
    score = call(knn, root, scoring=scoring)
    before = {path.name: path.read_bytes() for path in score.path.iterdir()}
    (score.path / ".tokens.npy.abc.partial").write_bytes(b"half")  # of a process that was killed

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, check=says("token_nats.npy", "No space left on device", "untouched")):
            call(knn, root, scoring=scoring, retrieved=2)
    assert {path.name: path.read_bytes() for path in score.path.iterdir()} == before
    assert call(knn, root, scoring=scoring, retrieved=2).summary["retrieved"] == 2


def test_a_run_that_is_not_done_is_refused(copy: Run, root: Path) -> None:
    """Its weights would change, and the score found again later would be about weights that nobody has."""
    (copy.path / "summary.json").unlink()
    with pytest.raises(UserError, check=says("not done (stopped)", "expected")):
        call(copy, root)


def test_damaged_weights_are_named(copy: Run, root: Path) -> None:
    path = copy.path / "weights.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, check=says(f"{path} ", "cannot be read", f"delete {copy.path}/summary.json", "memexp train")
    ):
        call(copy, root)


def test_weights_of_another_version_are_refused(copy: Run, root: Path) -> None:
    path = copy.path / "weights.pt"
    content = torch.load(path, weights_only=True)
    name, weight = next((name, weight) for name, weight in content["model"].items() if weight.ndim == 2)
    content["model"][name] = weight[:, :-1].clone()
    del content["checksum"]
    checkpoint.save(path, content)
    with pytest.raises(
        UserError, check=says(f"{path} ", "does not fit this model", f"delete {copy.path}/summary.json", "memexp train")
    ):
        call(copy, root)


def damaged_configs() -> list[tuple[bytes, str]]:
    return [
        (b"", "holds no settings"),
        (b"\xff\xfe\xff", "cannot read"),
        (b"arch: [", "cannot read"),
        (b"arch: {name: knn}\nsize: 3\n", "does not fit this version"),
        (b"arch: {name: other}\n", "does not fit this version"),
    ]


@pytest.mark.parametrize(("content", "words"), damaged_configs())
def test_a_damaged_config_is_named(content: bytes, words: str, copy: Run, root: Path) -> None:
    (copy.path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, check=says(str(copy.path / "config.yaml"), words)):
        call(copy, root)


@pytest.mark.parametrize(("stored_on", "gpu", "host", "named"), [
    ("device", 10**8, 10**12, "the memory of this GPU"), ("device", 10**12, 10**8, ""),
    ("host", 10**12, 10**8, "the memory of this machine, where arch.stored_on=host"), ("host", 10**9, 10**12, ""),
])  # fmt: skip
def test_a_memory_is_compared_with_where_it_is(
    stored_on: str, gpu: int, host: int, named: str, knn: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU and with much memory; the next refusal, of weights that are not there, shows that this one did not happen."""
    settings = trained_settings(knn)
    settings = replace(settings, mem=1_000_000, arch=replace(settings.arch, stored_on=stored_on))
    spec = module.reopen(knn, settings, root)
    monkeypatch.setattr(module, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(module, "describe", lambda *_, **__: Description("a GPU", gpu))
    monkeypatch.setattr(module, "memory_bytes", lambda: host)
    monkeypatch.setattr(module, "restore_trained", _no_weights)
    with pytest.raises(UserError, check=says(named, "expected at most" if named else "no weights")):
        module.load_model(spec, memory="on", device="cuda", lanes=1)


def test_a_search_that_a_gpu_cannot_do_is_refused_before_it_begins(
    knn: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trained_settings(knn)
    spec = module.reopen(knn, replace(settings, arch=replace(settings.arch, search="faiss_flat")), root)
    monkeypatch.setattr(module, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(module, "describe", lambda *_, **__: Description("a GPU", 10**12))
    monkeypatch.setattr(module, "restore_trained", _no_weights)
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    monkeypatch.setattr(engines, "_faiss", lambda: object())
    with pytest.raises(UserError, check=says("faiss_flat on CUDA", "expected", "arch.search=exact")):
        module.load_model(spec, memory="on", device="cuda")


@pytest.mark.parametrize("why", [None, "arch.some=thing"])
def test_a_loss_that_is_not_finite_is_named_with_its_cause(
    why: str | None, knn: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = module.score_with_progress

    def spoilt(*given: Any, **more: Any) -> Any:
        scores = scored(*given, **more)
        scores.nats[-1] = math.nan
        return scores

    monkeypatch.setattr(module, "score_with_progress", spoilt)
    monkeypatch.setattr(KnnArch, "unstable", lambda arch: why)
    causes = f"Likely cause: {why + '; or ' if why else ''}optim.rate is too high"
    with pytest.raises(UserError, check=says(f"{knn.name} has diverged", "nan nats", causes)):
        call(knn, root, force=True)


def _no_weights(*_: object, **__: object) -> None:
    raise UserError("no weights")


@pytest.mark.parametrize(
    ("written", "edited", "named"),
    [
        ("layers: 2", "layers: 3", "size.layers=3"),
        ("segment: 16", "segment: 8", "segment=8"),
        ("seed: 0", "seed: 4", "seed=4"),
        ("cut: crop", "cut: chunks", "data.cut=chunks"),
    ],
)
def test_edited_settings_are_named(written: str, edited: str, named: str, copy: Run, root: Path) -> None:
    config = copy.path / "config.yaml"
    assert written in config.read_text()
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(lines).replace(written, edited))
    with pytest.raises(UserError, check=says("config.yaml", "checksum", "delete that line")):
        call(copy, root)
    config.write_text("".join(lines[:-1]).replace(written, edited))
    with pytest.raises(UserError, check=says("config.yaml", named, "expected the same", "edited")):
        call(copy, root)


def test_a_damaged_identity_is_named(copy: Run, root: Path) -> None:
    (copy.path / "identity.json").write_text("{}")
    with pytest.raises(UserError, check=says("identity.json", "damaged")):
        call(copy, root)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.json"])
def test_another_corpus_than_the_one_trained_on_is_refused(
    name: str, copy: Run, root: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bytes as tokens the tokenizer alone would not tell."""
    files = corpus.manifest["files"] | {name: {"bytes": 1, "sha256": "0" * 64}}
    other = replace(corpus, manifest=corpus.manifest | {"files": files})
    monkeypatch.setattr(module, "open_corpus", lambda path: other)
    with pytest.raises(UserError, check=says("trained on a corpus", "00000000", "expected the same")):
        call(copy, root)


def test_the_corpus_is_found_where_it_lies_whatever_its_source_says_now(
    copy: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of text that has changed since, or is seen from another directory, takes no score away."""

    def unreachable(*arguments: object) -> None:
        raise UserError("the source has changed")

    monkeypatch.setattr(module, "prepare", unreachable)
    assert call(copy, root).summary["tokens"] > 0
    write_sealed(copy.path / "summary.json", copy.summary | {"corpus": "data/gone"})
    assert call(copy, root, memory="off").summary["tokens"] > 0  # a corpus of the same content
    monkeypatch.setattr(module, "with_content", lambda *given: None)
    with pytest.raises(UserError, check=says("the source has changed")):
        call(copy, root, memory="foreign")


def test_validation_is_the_mean_over_the_validation_split(corpus: Corpus) -> None:
    config = configure("arch=xl")
    torch.manual_seed(0)
    model = build_model(config, vocabulary=corpus.vocabulary)
    picked = [document for document in corpus.split("valid") if len(document.tokens) > 1][:2]
    scores = score_documents(model, picked, lanes=1, max_document=64)
    assert validation_nats(model, corpus, config) == pytest.approx(math.fsum(scores.nats.tolist()) / 128, rel=1e-5)


def test_documents_are_the_first_that_have_something_to_score(corpus: Corpus) -> None:
    texts = corpus.split("test")
    assert [each.id for each in pick_documents(corpus, replace(SCORING, documents=1))] == [texts[0].id]
    assert len(pick_documents(corpus, replace(SCORING, documents=0))) == len(texts)


def test_documents_with_answers_are_those_whose_answers_are_all_read() -> None:
    """Or a document of which only the first answers were read would count as right."""

    class Answering:
        path = "corpus"

        def split(self, name: str) -> list[TokenDocument]:
            answers = [np.arange(10) >= first for first in (4, 2, 4)]
            ends = [np.where(np.arange(10) < 7, each, False) for each in answers]
            masks = [answers[0], ends[1], ends[2]]
            return [TokenDocument(str(at), np.arange(10), 0, mask) for at, mask in enumerate(masks)]

    def picked(limit: int) -> list[str]:
        return [each.id for each in pick_documents(Answering(), replace(SCORING, documents=0, max_document=limit))]  # type: ignore[arg-type]

    assert picked(0) == ["0", "1", "2"]
    assert picked(6) == ["1", "2"]
    with pytest.raises(UserError, check=says("holds nothing to score", "eval.max_document=5", "expected")):
        picked(5)


# ------------------------------------------------------------------------------------------------ means


def test_means_by_hand() -> None:
    """Four times ln 2 of nats in three tokens, which are four bytes, three characters and two words."""
    two = math.log(2)
    found = means(np.array([two, two, 2 * two], dtype=np.float64), ["é b".encode()])
    assert found["nats_per_token"] == pytest.approx(4 * two / 3)
    assert found["perplexity"] == pytest.approx(2 ** (4 / 3))
    assert found["bits_per_token"] == pytest.approx(4 / 3)
    assert found["bits_per_byte"] == pytest.approx(1.0)
    assert found["bits_per_character"] == pytest.approx(4 / 3)
    assert found["word_perplexity"] == pytest.approx(4.0)
    assert (found["tokens"], found["bytes"]) == (3, 4)


def test_no_word_is_of_two_documents() -> None:
    """Text of a document ends and begins anywhere, so nothing stands between the last word of one and the first of the next."""
    found = means(np.full(6, math.log(2)), [b"a b", b"c", b"d e"])
    assert found["word_perplexity"] == pytest.approx(2 ** (6 / 5))
    assert found["bits_per_byte"] == found["bits_per_character"] == pytest.approx(6 / 7)


def test_sums_are_float64() -> None:
    nats = np.array([2.0**24] + [1.0] * 1000, dtype=np.float32)
    assert float(nats.sum()) != 2**24 + 1000  # what float32 would make of it
    assert means(nats, [b"x"])["nats_per_token"] == (2**24 + 1000) / 1001


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert means(np.array([1e6]), [b"x"])["perplexity"] == math.inf


# -------------------------------------------------------------------------------------------------- cli


def test_one_word_as_long_as_a_book_has_no_perplexity() -> None:
    assert means(np.full(1000, 1.0), [b"x" * 1000])["word_perplexity"] is None


def test_eval_prints_what_it_found(knn: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", knn.name, f"root={root}", "eval.documents=2", "eval.max_document=200", "mem=32"]
    assert main([*words, "retrieved=2"]) == 0
    assert (knn.path / "eval" / "test-2x200-32-on" / "retrieved.npy").exists()
    assert knn.path / "eval" / "test-2x200-32-on" in [score.path for score in knn.scores]
    assert "test-2x200-32-on" in capsys.readouterr().out.replace("\n", "")
    assert main([*words, "memory=foreign", "eval.documents=1"]) == 2
    assert says("memexp eval: ", "memory is foreign", "there is 1 document to score", "expected", "eval.documents")(
        capsys.readouterr().err
    )


def test_a_sweep_of_scores_is_checked_before_the_first(
    copy: Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "-m", copy.name, "mem=0,7", f"root={root}", "eval.documents=2"]) == 2
    refused, last = capsys.readouterr().err.splitlines()
    assert says("refused mem=7: ", "mem is 7", "arch.neighbours", "expected")(refused)
    assert says("1 of 2 jobs is refused", "nothing was started")(last)
    assert copy.scores == []


def test_weights_that_were_cut_short(copy: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(copy.path / "weights.pt", 100)
    assert main(["eval", copy.name, f"root={root}"]) == 2
    words = ("weights.pt has 100 bytes", "Likely cause: it was cut short", "delete", "summary.json", "trains it again")
    assert says(*words)(capsys.readouterr().err)


def other_value(item: Field[Any], default: Any) -> Any:
    choices = item.metadata["choices"]
    if choices:
        return next(each for each in choices if each != default)
    return not default if isinstance(default, bool) else default + 1


OF_MEMORY = [
    (arch, item.name, other_value(item, default_of(item)))
    for arch, schema in ARCHS.items()
    if schema.resizable and arch != "knn_routed"  # options of knn
    for item in fields(schema)
    if item.metadata.get("of_memory")
]


@pytest.mark.parametrize(("arch", "option", "value"), OF_MEMORY)
def test_a_memory_with_any_option_is_scored_at_another_size(arch: str, option: str, value: Any) -> None:
    """Also without it, where the option has no effect, and without a gradient."""
    more = {"negatives": ("arch.neighbours=4", "arch.combine=joint", "bptt_segments=1", "accumulate=2")}.get(option, ())
    trained, larger = (16, [32]) if ARCHS[arch].most_mem is None else (ARCHS[arch].most_mem, [])
    settings = configure(f"arch={arch}", f"mem={trained}", f"arch.{option}={value}", *more)
    sizes = [0, *larger]
    assert [with_mem(settings, mem, run=Run(Path("run"))).mem for mem in sizes] == sizes
    with pytest.raises(UserError, check=says("mem is -1", "expected")):
        with_mem(settings, -1, run=Run(Path("run")))
