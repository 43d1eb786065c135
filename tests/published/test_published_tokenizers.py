"""A checkpoint's tokenizer.json in our pipeline: the same tokens as the package tokenizers gives, and the bytes of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memexp.config.groups import Tokenizer as Settings
from memexp.data.tokenizers import PROBE, Published, load, name_of_file, read, tokenizer_hash
from memexp.errors import UserError

from ..messages import says
from .packages import package

library = package("tokenizers")

TEXTS = [
    PROBE,
    "",
    " ",
    "def f(x):\n    return x  # \u4e2d\u6587 \U0001f600\r\n",
    "a<|end|>b <s> <0x41>",
    "e\u0301\u00e9 " * 50,
]

CORPUS = ["the cat sat on the mat " * 20, "def f(x):\n    return x\n" * 20, "caf\u00e9 na\u00efve \u4e2d\u6587 " * 5]


def trained(kind: str, tmp_path: Path, change: Any = None, *, begin: bool = False) -> Path:
    """A tokenizer.json as GPT-2's or as Llama 2's is made."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "pieces", unk_token="<unk>" if kind == "pieces" else None))
    special = ["<unk>", "<s>", "<|end|>"]
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(tokenizer.to_str())
    if kind == "pieces":  # only begin, end and unknown are special
        content["added_tokens"] = content["added_tokens"][:3]
    if change is not None:
        change(content)
    path = tmp_path / "Some-Model" / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_text_comes_back_by_its_bytes(kind: str, begin: bool, tmp_path: Path) -> None:
    path = trained(kind, tmp_path, begin=begin)
    tokenizer = read(Settings(path=str(path)))
    assert isinstance(tokenizer, Published)
    again = load(tokenizer.save(), name="again")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.pieces(ids)) == text.encode()
        assert tokenizer.decode(ids) == text
        assert ids.tolist() == again.encode(text).tolist()
        assert (ids[:1].tolist() == [1]) == begin
        assert 2 not in ids  # text never is a special token
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    assert name_of_file(str(path)) == "Some-Model"


def test_tokens_are_those_of_the_package(tmp_path: Path) -> None:
    path = trained("bytes", tmp_path)
    tokenizer = read(Settings(path=str(path)))
    assert tokenizer is not None
    theirs = library.Tokenizer.from_file(str(path))
    for text in (*CORPUS, TEXTS[3]):
        assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
    assert len(tokenizer.encode(CORPUS[0])) < len(CORPUS[0]) / 2
    assert tokenizer.vocabulary == theirs.get_vocab_size()


def test_what_a_model_puts_before_its_first_word_is_left_out(tmp_path: Path) -> None:
    """Llama 2 begins each text with a space, which no text had."""
    path = trained("pieces", tmp_path)
    lossless = read(Settings(path=str(path)))
    lossy = read(Settings(path=str(path), lossless=False))
    assert lossless is not None
    assert lossy is not None
    assert lossless.decode(lossless.encode("the cat")) == "the cat"
    assert lossy.decode(lossy.encode("the cat")) == " the cat"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda content: content["model"]["vocab"].pop("\u0101"), "changes text"),
        (lambda content: content.update(model=None), "is no tokenizer.json"),
        (lambda content: content.clear(), "is no tokenizer.json"),
    ],
)
def test_what_changes_text_or_is_none_is_refused(change: Any, seen: str, tmp_path: Path) -> None:
    path = trained("bytes", tmp_path, change)
    with pytest.raises(UserError, check=says(seen, "expected")):
        read(Settings(path=str(path)))


def test_a_folded_text_is_not_folded(tmp_path: Path) -> None:
    path = trained("bytes", tmp_path, lambda content: content.update(normalizer={"type": "Lowercase"}))
    tokenizer = read(Settings(path=str(path)))
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("The CAT")) == "The CAT"


def test_the_hubs_cache_names_the_model() -> None:
    cache = "/x/models--HuggingFaceTB--SmolLM2-135M/snapshots/0123/tokenizer.json"
    assert name_of_file(cache) == "SmolLM2-135M"
    assert name_of_file("/x/my.model") == "my"


def test_the_package_is_loaded_only_for_such_a_tokenizer() -> None:
    code = "import sys, memexp.data.tokenizers; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
