"""Fake runs: folders as train and eval write them, with numbers made up by the test."""

import json
import os
import shutil
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from memexp.files import fingerprint
from memexp.store.folder import Run, Score
from memexp.wording import perplexity_of

TOKENIZER = "aaaaaaaa11111111"


class Fakes:
    """Writes runs and scores below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written = 1_700_000_000

    def run(
        self,
        name: str,
        *,
        arch: str = "knn",
        mem: int = 0,
        seed: int = 0,
        data: str = "code",
        done: bool = True,
        settings: dict[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
        tag: str = "",
    ) -> Run:
        """A run; `settings` are dotted keys of its config, `summary` replaces entries of its summary."""
        config: dict[str, Any] = {
            "root": None,
            "arch": {"_target_": f"memexp.model.{arch}", "name": arch, "mem_is": "state", "position": "t5"},
            "data": {"name": data, "tokenizer": {"kind": "bpe", "vocabulary": 1024}, "max_document": 4096},
            "size": {"name": "small", "layers": 3, "width": 128},
            "optim": {"name": "adamw", "rate": 0.003},
            "eval": {"split": "test", "documents": 8, "max_document": 8192, "lanes": 8},
            "mem": mem,
            "segment": 64,
            "seed": seed,
            "steps": 1367,
            "tag": tag,
            "init_from": None,
        }
        if arch == "knn":
            config["arch"] |= {"cache": 64, "neighbours": 32}
        for key, value in (settings or {}).items():
            *path, last = key.split(".")
            node = config
            for part in path:
                node = node[part]
            node[last] = value
        run = Run(self.root / "results" / "runs" / name)
        run.path.mkdir(parents=True)
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        identity = {key: config[key] for key in ("arch", "data", "mem", "seed", "steps")}
        self.json(run.path / "identity.json", identity | {"hash": fingerprint(identity)})
        lines = [{"step": step, "loss": 7 - step / 400, "tokens_per_second": 3900.0 + step} for step in (10, 500)]
        lines.append({"step": 500, "valid_nats_per_token": 3.5})
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if done:
            content = {
                "run": name, "state": "done", "steps": config["steps"], "tokens": 699_904, "parameters": 734_208,
                "tokens_per_second": 4000.0 + seed, "loss": 3.25, "memory_fill": 1.0 if arch == "knn" else None,
                "command": f"memexp train arch={arch} mem={mem} data={data} seed={seed}",
            }  # fmt: skip
            self.json(run.path / "summary.json", content | (summary or {}))
        self.written += 60
        for path in run.path.iterdir():
            os.utime(path, (self.written, self.written))
        return run

    def score(
        self,
        run: Run,
        nats: Sequence[Sequence[float]] | float,
        *,
        split: str = "test",
        mem: int | None = None,
        memory: str = "on",
        ids: Sequence[str] = (),
        tokens: Sequence[Sequence[int]] | None = None,
        name: str = "8x8192",
        **summary: Any,
    ) -> Score:
        """A score with the nats of each document's tokens, or of two documents of two tokens of that loss each."""
        config = run.config
        arch, own = config["arch"]["name"], config["mem"] if mem is None else mem
        lists = [list(document) for document in (nats if not isinstance(nats, float) else [[nats] * 2] * 2)]
        ids = ids or [f"package{index}" for index in range(len(lists))]
        all_nats = np.array([value for document in lists for value in document], dtype=np.float32)
        all_tokens = np.concatenate([*(tokens or [range(65, 65 + len(document)) for document in lists])])
        score = Score(run.path / "eval" / f"{split}-{name}-{own}-{memory}")
        score.path.mkdir(parents=True)
        np.save(score.path / "token_nats.npy", all_nats)
        np.save(score.path / "tokens.npy", all_tokens.astype(np.uint32))
        rows = [{"id": one, "tokens": len(document)} for one, document in zip(ids, lists, strict=True)]
        self.json(score.path / "documents.json", rows)
        mean = sum(map(float, all_nats)) / max(len(all_nats), 1)
        changed = "" if mem is None and memory == "on" else f" mem={own} memory={memory}"
        content = {
            "data": config["data"]["name"], "split": split, "documents": len(lists), "max_document": 8192, "mem": own,
            "memory": memory, "context": 64, "cache": own if arch == "xl" else 64 if arch == "knn" else 0,
            "memory_slots": own if arch == "knn" else 0, "nats_per_token": mean, "perplexity": perplexity_of(mean),
            "bits_per_token": mean / float(np.log(2)), "bits_per_byte": mean / float(np.log(2)) / 2.5,
            "bits_per_character": 1.0, "word_perplexity": 100.0, "tokens": len(all_nats),
            "bytes": 10 * len(all_nats) // 4,
            "tokenizer_hash": TOKENIZER, "tokens_hash": "cccc", "memory_fill": 1.0 if arch == "knn" else None,
            "seconds": 1.0, "tokens_per_second": 9000.0, "corpus": "data/code-bpe",
            "command": f"memexp eval {run.name}{changed}" if changed else f"memexp train arch={arch} mem={own} "
            f"data={config['data']['name']} seed={config['seed']}",
        }  # fmt: skip
        self.json(score.path / "summary.json", content | summary)
        return score

    @staticmethod
    def json(path: Path, content: Any) -> None:
        path.write_text(json.dumps(content))


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path)


@pytest.fixture
def compared(fakes: Fakes) -> Fakes:
    """Vanilla, XL and two sizes of kNN, two seeds of each but the last, which is also scored in two other ways."""
    losses = {
        ("vanilla", 0): (3.75, 3.875),
        ("xl", 64): (3.5, 3.625),
        ("knn", 512): (3.25, 3.5),
        ("knn", 4096): (3.125,),
    }
    for (arch, mem), seeds in losses.items():
        for seed, loss in enumerate(seeds):
            fakes.score(fakes.run(f"{arch}-{mem}-s{seed}", arch=arch, mem=mem, seed=seed), loss)
    last = Run(fakes.root / "results" / "runs" / "knn-4096-s0")
    fakes.score(last, 3.75, memory="off")
    fakes.score(last, 3.1875, mem=8192, memory_fill=0.5)
    return fakes


@pytest.fixture
def answered(fakes: Fakes) -> Fakes:
    """Vanilla and two seeds of XL on a task with two lengths, XL trained longer; and one run on text."""

    def score(run: Run, short: float, long: float, gate: float | None) -> None:
        slices = {"24": (short, short**2, 480), "120": (long, long**2, 2400)}
        named = ("accuracy", "exact_match", "answers")
        fakes.score(
            run, 1.0, name="1000x0", accuracy=(short + 5 * long) / 6, exact_match=(short**2 + long**2) / 2,
            slices={"length": {value: dict(zip(named, each, strict=True)) for value, each in slices.items()}},
            gauges={} if gate is None else {"gate.1": gate, "scale.1": 16.0},
        )  # fmt: skip

    settings = {"eval.documents": 1000, "eval.max_document": 0, "data.tokenizer.kind": "words"}
    score(fakes.run("vanilla-s0", arch="vanilla", data="copy", settings=settings), 0.125, 0.0625, None)
    for seed, short in enumerate((0.5, 0.75)):
        run = fakes.run(
            f"xl-s{seed}", arch="xl", mem=64, seed=seed, data="copy", settings=settings, summary={"tokens": 1_400_000}
        )
        score(run, short, 0.25, 0.25 + seed / 2)
    fakes.score(fakes.run("text", arch="xl", mem=64), 3.0)
    return fakes


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """A corpus that opens, whose tokenizer has a letter for each token below 256, and what the test puts here."""
    pieces: dict[int, bytes] = {}

    class Tokenizer:
        def pieces(self, ids: Sequence[int]) -> list[bytes]:
            return [pieces.get(one, bytes([one % 256])) for one in ids]

    corpus = types.SimpleNamespace(tokenizer=Tokenizer(), tokenizer_hash=TOKENIZER)
    monkeypatch.setattr("memexp.data.corpus.open_corpus", lambda path: corpus)
    return pieces


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = (next(filter(None, map(shutil.which, names)), None) for names in (
        ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",),
    ))  # fmt: skip
    if binary is None or driver is None:
        pytest.skip("there is no Chromium with its driver (Debian: chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()
