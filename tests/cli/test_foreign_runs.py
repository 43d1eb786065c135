"""A run folder from somebody else: whatever it holds, no command that reads it runs code, fetches, or writes outside the root."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from memexp.cli.main import command_module
from memexp.config.commands import DiffConfig, EvalConfig, GenerateConfig, ReportConfig, RunsConfig, TableConfig
from memexp.config.introspection import flatten
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.eval.evaluate import Request, evaluate
from memexp.files import as_json, fingerprint
from memexp.store.folder import Run
from memexp.train.loop import train
from memexp.train.spec import specify

from ..messages import says
from ..tiny import configure

SECRET = "what-nobody-may-see"
SCRIPT = "<script>alert(1)</script>"


class Guard:
    """Notes what a command does that reading never needs. A hook of Python's cannot be removed, so it is switched."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open":
            path, _, flags = given
            if isinstance(path, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._written(path)
        elif event in ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.truncate"):
            self._written(given[0] if event in ("os.mkdir", "os.truncate") else given[1])
        elif event in ("os.remove", "os.rmdir") and given[1] == -1:  # else a name in a folder that is open
            self._written(given[0])
        elif event in (
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
            "socket.getaddrinfo",
            "urllib.Request",
        ):
            self.seen.append(f"{event} {given}")
        elif event == "subprocess.Popen" and "git" not in str(given[1][:1]):  # `git describe`, for the commit of a run
            self.seen.append(f"{event} {given[1]}")

    def _written(self, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path))
        allowed = (
            str(self.root),
            "/dev/",
            "/proc/",
            str(Path.home() / ".cache"),
            str(Path.home() / ".config" / "matplotlib"),
        )
        if not place.startswith(allowed) and "__pycache__" not in place:
            self.seen.append(f"writes {place}")


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a run that is trained and scored, with its memory and without."""
    root = tmp_path_factory.mktemp("original")
    config = configure("arch=knn", "steps=1", "eval.documents=2", "eval.max_document=40")
    run = train(specify(config, prepare(config.data, root), root), command="memexp train")
    for memory in ("on", "off"):
        evaluate(
            run,
            config,
            Request(config.eval, memory=memory, retrieved=2 if memory == "on" else 0, device="cpu"),
            root,
            command="memexp eval",
        )
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "root"
    shutil.copytree(original, root)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    monkeypatch.setenv("MEMEXP_SECRET", SECRET)
    monkeypatch.setenv("TMPDIR", str(root))
    yield root
    guard.root = None


def the_run(root: Path) -> Path:
    [path] = (root / "results" / "runs").iterdir()
    return path


def config_of(name: str, root: Path) -> dict[str, Any]:
    where = {"root": str(root)}
    return {
        "runs": RunsConfig(**where),
        "table": TableConfig(**where),
        "report": ReportConfig(**where),
        "diff": DiffConfig(a=name, b=f"{name}@64-off", **where),
        "eval": EvalConfig(run=name, device="cpu", force=True, **where),
        "generate": GenerateConfig(run=name, prompt="the", tokens=2, device="cpu", **where),
        "train": configure("arch=knn", "steps=1", "eval.documents=2", "eval.max_document=40", "seed=1", f"init_from={name}", f"root={root}"),
    }  # fmt: skip


COMMANDS = ("runs", "table", "report", "diff", "eval", "generate", "train")


def harmless(
    root: Path, guard: Guard, capsys: pytest.CaptureFixture[str], commands: tuple[str, ...] = COMMANDS
) -> dict[str, str]:
    """Run every reading command, each of which must end well or in one line; returns what each said."""
    name, said = the_run(root).name, {}
    configs = config_of(name, root)
    outside = root.parent / "outside"
    for command in commands:
        guard.root, guard.seen = root.resolve(), []
        error = ""
        try:
            command_module(command).run(configs[command])
        except UserError as refused:
            error = str(refused)
        finally:
            guard.root = None
        assert not error or says("expected")(error)
        out = capsys.readouterr()
        said[command] = out.out + out.err + error
        assert guard.seen == [], (command, guard.seen)
        assert SECRET not in said[command]
        assert "Traceback" not in said[command]
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "untouched"
    for page in root.rglob("*.html"):
        assert SCRIPT not in page.read_text()
    for path in [*root.rglob("*.json"), *root.rglob("*.md"), *root.rglob("*.yaml")]:
        if path.is_file():
            assert SECRET not in path.read_text()
    return said


def forge(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the settings of the run, and everything that would show it, as somebody does who means harm."""
    folder = the_run(root)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    reseal(root, change)


def reseal(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    folder = the_run(root)
    identity = json.loads((folder / "identity.json").read_text())
    identity.pop("hash")
    known = json.loads(json.dumps(identity))
    try:
        change(known)
    except KeyError:  # a setting that is no part of the identity
        known = identity
    known["data"] |= {key: value for key, value in identity["data"].items() if key not in known["data"]}
    hashed = fingerprint(known)
    (folder / "identity.json").write_bytes(as_json(known | {"hash": hashed}))
    weights = torch.load(folder / "weights.pt", weights_only=True)
    torch.save(weights | {"identity": hashed}, folder / "weights.pt")


def put(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *groups, last = where.split(".")

    def change(config: dict[str, Any]) -> None:
        node = config
        for group in groups:
            node = node[group]
        if last not in node and not last.startswith("_"):
            raise KeyError(last)
        node[last] = value

    return change


def summarise(root: Path, **values: Any) -> None:
    """Change the summary of the run, with its checksum."""
    path = the_run(root) / "summary.json"
    content = json.loads(path.read_text())
    content = {key: value for key, value in content.items() if key != "checksum"} | values
    path.write_bytes(as_json(content | {"checksum": fingerprint(content)}))


def corpus_of(root: Path) -> Path:
    [path] = (root / "data").glob("[!.]*/manifest.json")
    return path.parent


def lose_corpus(root: Path) -> None:
    shutil.rmtree(corpus_of(root))


def retell(root: Path, name: str, content: bytes, **manifest: Any) -> None:
    """Put content into a file of the corpus, with its checksum and that of the manifest."""
    import hashlib

    folder = corpus_of(root)
    known = json.loads((folder / "manifest.json").read_text())
    known.pop("checksum")
    if name:
        (folder / name).write_bytes(content)
        known["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    known |= manifest
    (folder / "manifest.json").write_bytes(as_json(known | {"checksum": fingerprint(known)}))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def pickled(root: Path) -> bytes:
    return pickle.dumps(Payload(root.parent / "outside" / "marker"))


def link(path: Path, target: str | Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def score_of(root: Path) -> Path:
    return next((the_run(root) / "eval").glob("*-on"))


PACKAGES = {
    "_target_": "memexp.data.sources.PackageTexts", "what": "text",
    "parts": {"evil": {
        "client": "pip", "licence": "none", "attribution": "none", "files": ["*"], "format": "text", "folder": "", "without": [],
        "group": "", "join": 0, "version": "1.0", "sha256": "0" * 64, "form": "source",
    }},
}  # fmt: skip
FILES = {"_target_": "memexp.data.sources.Files", "suffixes": [], "field": "text", "label": None}
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


def yaml_is(text: str) -> Callable[[Path], None]:
    def attack(root: Path) -> None:
        path = the_run(root) / "config.yaml"
        path.write_text(f"{path.read_text()}\n{text}\n")

    return attack


def json_is(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (the_run(root) / name if "/" not in name else score_of(root) / name[6:]).write_text(text)


def without_corpus(*changes: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def attack(root: Path) -> None:
        lose_corpus(root)
        for change in changes:
            forge(root, change)

    return attack


def foreign_corpus(where: str) -> Callable[[Path], None]:
    def attack(root: Path) -> None:
        shutil.copytree(corpus_of(root), root.parent / "elsewhere")
        lose_corpus(root)
        summarise(root, corpus=where.format(root.parent / "elsewhere"))

    return attack


def array(name: str) -> Callable[[Path], None]:
    def attack(root: Path) -> None:
        np.save(
            score_of(root) / name,
            np.array([Payload(root.parent / "outside" / "marker")], dtype=object),
            allow_pickle=True,
        )

    return attack


def named(root: Path) -> None:
    """Markup in every text that a page shows."""
    forge(root, put("tag", SCRIPT))
    summarise(root, command=f"memexp train {SCRIPT}")
    for folder in (the_run(root) / "eval").iterdir():
        rows = json.loads((folder / "documents.json").read_text())
        (folder / "documents.json").write_bytes(
            as_json([row | {"id": f"{SCRIPT}{index}"} for index, row in enumerate(rows)])
        )
        content = json.loads((folder / "summary.json").read_text())
        content = {key: value for key, value in content.items() if key != "checksum"} | {
            "command": SCRIPT,
            "data": SCRIPT,
        }
        (folder / "summary.json").write_bytes(as_json(content | {"checksum": fingerprint(content)}))
    the_run(root).rename(the_run(root).with_name("<svg onload=alert(1)>"))


TARGETS = ("memexp.cli.main.main", "os.system", "subprocess.Popen", "builtins.exec")
GROUPS = ("", "size.", "optim.", "tracker.", "eval.", "data.", "data.tokenizer.")
HUGE = 10**14
BIG = "9" * 400
DEEP = '{"a":' * 5000 + "1" + "}" * 5000

ATTACKS: dict[str, Callable[[Path], None]] = {
    **{f"source {each}": lambda root, each=each: forge(root, put("data.source._target_", each)) for each in TARGETS},
    **{f"arch {each}": lambda root, each=each: forge(root, put("arch._target_", each)) for each in TARGETS},
    **{f"target in {each or 'all'}": lambda root, each=each: forge(root, put(f"{each}_target_", TARGETS[1])) for each in GROUPS},
    "a package to build": without_corpus(put("data.source", PACKAGES)),
    "files of the user": without_corpus(put("data.source", FILES), put("data.path", "/etc")),
    "a device as files": without_corpus(put("data.source", FILES), put("data.path", "/dev/zero")),
    "a tokenizer of the user": without_corpus(put("data.tokenizer.kind", "bpe"), put("data.tokenizer.path", "/dev/zero")),
    "installed packages": without_corpus(put("data.source.packages", ["this.that"])),
    "a corpus at an absolute path": foreign_corpus("{}"),
    "a corpus above the root": foreign_corpus("data/../../elsewhere"),
    "a name that leads out": lambda root: (forge(root, put("data.name", "../../outside/x")), lose_corpus(root))[0],
    "eval leads out": lambda root: link(the_run(root) / "eval", root.parent / "outside"),
    "a score leads out": lambda root: link(score_of(root), root.parent / "outside"),
    "a score's lock leads out": lambda root: link(score_of(root) / ".lock", root.parent / "outside" / "victim"),
    "the lock leads out": lambda root: link(the_run(root) / "lock", root.parent / "outside" / "victim"),
    **{f"{name} without end": lambda root, name=name: link(the_run(root) / name, "/dev/zero") for name in ("config.yaml", "summary.json", "identity.json", "metrics.jsonl", "weights.pt")},
    **{f"{name} is a pipe": lambda root, name=name: pipe(the_run(root) / name) for name in ("config.yaml", "summary.json", "identity.json", "metrics.jsonl", "weights.pt")},
    **{f"{name} of a score is a pipe": lambda root, name=name: pipe(score_of(root) / name) for name in ("summary.json", "documents.json", "token_nats.npy", "tokens.npy", "retrieved.npy")},
    "a Python object": yaml_is('evil: !!python/object/apply:os.mkdir ["/tmp/marker"]'),
    "a Python name": yaml_is("evil: !!python/name:os.system"),
    "a tag of its own": yaml_is("evil: !evil {}"),
    "a thousand million laughs": yaml_is(LAUGHS),
    "YAML nested deep": yaml_is("evil: " + "[" * 900 + "]" * 900),
    "a number of 400 digits": yaml_is(f"mem: {BIG}"),
    "a date": yaml_is("tag: 2001-01-01"),
    "keys that are no text": yaml_is("1: 2"),
    "a pickle as weights": lambda root: (the_run(root) / "weights.pt").write_bytes(pickled(root)),
    "an object in the weights": lambda root: torch.save({"identity": Payload(root.parent / "outside" / "marker"), "model": {}}, the_run(root) / "weights.pt"),
    **{f"an object in {name}": array(name) for name in ("token_nats.npy", "tokens.npy", "retrieved.npy")},
    "a pickle as token_nats.npy": lambda root: (score_of(root) / "token_nats.npy").write_bytes(pickled(root)),
    "a pickle as tokenizer": lambda root: retell(root, "tokenizer.model", pickled(root)),
    "noise as tokenizer": lambda root: retell(root, "tokenizer.model", bytes(range(256)) * 40),
    "words that are no text": lambda root: retell(root, "tokenizer.model", b"words\n\xff\xfe"),
    "objects as tokens": lambda root: retell(root, "", b"", dtype="O"),
    "files of a corpus that lead out": lambda root: retell(root, "", b"", files={"../../../outside/victim": {"bytes": 0, "sha256": ""}}),
    "documents of a corpus that are none": lambda root: retell(root, "documents.json", b'[{"id": 1}]'),
    **{f"{where} is huge": lambda root, where=where: forge(root, put(where, HUGE)) for where in ("size.layers", "size.width", "mem", "lanes", "segment", "steps", "eval.lanes", "arch.cache")},
    **{f"{name} nested deep": json_is(name, DEEP) for name in ("summary.json", "identity.json", "metrics.jsonl", "score/summary.json", "score/documents.json")},
    **{f"{name} of 400 digits": json_is(name, f'{{"steps": {BIG}}}\n') for name in ("summary.json", "identity.json", "metrics.jsonl", "score/summary.json", "score/documents.json")},
    "starts from itself": lambda root: forge(root, put("init_from", the_run(root).name)),
    "starts elsewhere": lambda root: forge(root, put("init_from", str(root.parent / "outside"))),
    "markup in every text": named,
}  # fmt: skip

FEW = ("source memexp.cli.main.main", "a score leads out", "a Python object", "a pickle as weights")


@pytest.mark.parametrize("attack", FEW)
def test_a_folder_from_somebody_else_does_no_harm(
    attack: str, root: Path, guard: Guard, capsys: pytest.CaptureFixture[str]
) -> None:
    ATTACKS[attack](root)
    harmless(root, guard, capsys, ("runs", "table", "diff", "eval", "generate"))


@pytest.mark.hard
@pytest.mark.parametrize("attack", [each for each in ATTACKS if each not in FEW])
def test_no_folder_from_somebody_else_does_harm(
    attack: str, root: Path, guard: Guard, capsys: pytest.CaptureFixture[str]
) -> None:
    ATTACKS[attack](root)
    harmless(root, guard, capsys)


@pytest.mark.hard
def test_an_honest_folder_is_read(root: Path, guard: Guard, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise no attack would have been read."""
    said = harmless(root, guard, capsys, COMMANDS)
    assert not [command for command, text in said.items() if "expected" in text], said


@pytest.mark.hard
def test_no_setting_of_a_folder_is_an_interpolation(root: Path) -> None:
    """Every setting, each with two kinds of interpolation."""
    run = Run(the_run(root))
    before = (run.path / "config.yaml").read_text()
    walked = 0
    for name in flatten(yaml.safe_load(before)):
        for kind in ("${oc.env:MEMEXP_SECRET}", "${memexp_root:${oc.env:MEMEXP_SECRET}}"):
            config = yaml.safe_load(before)
            put(name, kind)(config)
            (run.path / "config.yaml").write_text(yaml.safe_dump(config))
            walked += 1
            settings, error = None, ""
            try:
                settings = flatten(asdict(run.settings))
            except UserError as refused:
                error = str(refused)
            assert SECRET not in error
            if settings is None:
                assert says("config.yaml", "expected")(error)
            else:
                assert settings.get(name) == kind, name
    assert walked > 100


@pytest.mark.parametrize(
    "text", ["${a}", r"\${a}", r"\\${a}", "a ${b:${c}} d", "$", "${", r"a\b", "???x", "}", "${}", r"\\\${x}\\"]
)
def test_text_is_read_as_it_stands(text: str, root: Path) -> None:
    forge(root, put("tag", text))
    assert Run(the_run(root)).settings.tag == text


def test_what_is_read_is_never_a_pickle() -> None:
    """All calls of what could read one."""
    import ast

    import memexp

    [package] = memexp.__path__
    found = 0
    for file in Path(package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"} & set(names), file
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called == "torch.load":
                assert given.get("weights_only") == "True", file
            elif called in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", file
            elif called in ("yaml.load", "yaml.load_all", "yaml.parse"):
                assert "Safe" in given["Loader"] or given["Loader"] == "loader", file
            else:
                assert called not in (
                    "yaml.unsafe_load",
                    "yaml.full_load",
                    "eval",
                    "torch.jit.load",
                    "hydra.utils.instantiate",
                )
                continue
            found += 1
    assert found >= 5


def test_what_memexp_has_is_prepared_again(root: Path) -> None:
    """Also from the settings of a folder."""
    from memexp.eval.evaluate import reopen

    lose_corpus(root)
    run = Run(the_run(root))
    assert reopen(run, run.settings, root).corpus.made


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=os.system",
        "hydra/callbacks=x",
        "+hydra/callbacks=x",
        "hydra.callbacks={}",
        "~hydra.callbacks",
    ],
)
def test_callbacks_of_hydra_are_refused(word: str, memexp: Any) -> None:
    result = memexp("train", word)
    assert (result.code, result.settings) == (2, [])
    assert says("hydra", "callbacks")(result.err)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hydra/callbacks/x.yaml", "x: {_target_: os.mkdir}"),
        ("arch/own.yaml", "# @package _global_\nhydra:\n  callbacks: {x: {_target_: os.mkdir}}"),
        ("data/own.yml", '# @package _global_\nhydra: {"call\\x62acks": {x: {_target_: os.mkdir}}}'),
    ],
)
def test_callbacks_in_a_folder_of_settings_are_refused(name: str, text: str, memexp: Any, tmp_path: Path) -> None:
    path = tmp_path / "conf" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    result = memexp("train", "--config-dir", str(tmp_path / "conf"))
    assert (result.code, result.settings) == (2, [])
    assert says(str(path), "callbacks", "expected")(result.err)


def test_callbacks_behind_a_link_are_refused(memexp: Any, tmp_path: Path) -> None:
    """Hydra follows links to folders too."""
    path = tmp_path / "elsewhere" / "callbacks" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("x: {_target_: os.mkdir}")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "hydra").symlink_to(tmp_path / "elsewhere")
    result = memexp("train", "--config-dir", str(tmp_path / "conf"))
    assert (result.code, result.settings) == (2, [])
    assert says("hydra/callbacks/x.yaml", "expected")(result.err)
