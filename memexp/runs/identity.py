"""What determines a run's result, and so its folder. Without torch."""

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS, Arch
from memexp.config.field import default_of
from memexp.config.groups import Data, Optim, Size, cutoffs_in_force
from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus, content_of
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.runs.folder import Run, find_run

_SCHEMAS: list[Any] = [Data, *ARCHS.values(), Size, Optim]
LATER = {item.name for schema in _SCHEMAS for item in fields(schema) if item.metadata.get("later")}
"""Settings that only some identities name."""


def identify(config: TrainConfig, corpus: Corpus, root: Path) -> dict[str, Any]:
    """Everything that two runs must share to have the same result, with its hash under "hash".

    The corpus counts by its content, and the run that weights come from by what determined it.
    """
    content = of_the_result(config)
    content["data"] |= {"name": config.data.name, **identify_corpus(corpus)}
    if config.init_from is not None:
        content["init_from"] = read_identity(find_run(root, config.init_from))["hash"]
    return content | {"hash": fingerprint(content)}


def trained_settings(run: Run) -> TrainConfig:
    """The settings that a run was trained with.

    Raises:
        UserError: config.yaml and identity.json, written together, do not say the same.
    """
    settings, identity = run.settings, read_identity(run)
    for name, value in of_the_result(settings).items():
        there = identity.get(name, _defaults(settings).get(name))
        if isinstance(value, dict) and isinstance(there, dict):
            defaults = _defaults(getattr(settings, name, None))
            for key in value.keys() | (there.keys() & LATER):
                default = defaults.get(key)
                _compare(run, f"{name}.{key}", value.get(key, default), there.get(key, default))
        elif name != "init_from":  # counts by what determined that run
            _compare(run, name, value, there)
    return settings


def _defaults(schema: Any) -> dict[str, Any]:
    """A setting that an identity does not name was not there yet, or was at its default."""
    return {item.name: default_of(item) for item in fields(schema)} if is_dataclass(schema) else {}


def _compare(run: Run, name: str, here: Any, there: Any) -> None:
    if here != there:
        raise UserError(
            f"{run.path / 'config.yaml'} says {name}={here}, but the run was trained with {name}={there}; expected the "
            "same. Likely cause: it was edited"
        )


def of_the_result(config: TrainConfig) -> dict[str, Any]:
    """The settings that change a weight; the corpus and the run that weights came from count by their content besides."""
    return result_settings(asdict(config))


def result_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a mapping, such as config.yaml's, that change a weight; it has every setting of the schemas."""
    content = _of_effect(config, TrainConfig)
    size = config["size"]
    if softmax := cutoffs_in_force(size["cutoffs"], tokenizer=config["data"]["tokenizer"]["kind"]):
        content["softmax"] = {"cutoffs": softmax, "narrowing": size["narrowing"]}
    return content


def _of_effect(settings: dict[str, Any], schema: Any) -> dict[str, Any]:
    content = {}
    for item in fields(schema):
        if item.metadata["effect"] != "result":
            continue
        value = settings[item.name]
        if is_dataclass(item.type):
            content[item.name] = _of_effect(value, ARCHS[value["name"]] if item.type is Arch else item.type)
        elif not (item.metadata["later"] and value == default_of(item)):
            content[item.name] = value
    return content


def identify_corpus(corpus: Corpus) -> dict[str, str]:
    """The content of a corpus, by which it counts."""
    return content_of(corpus.manifest)


def read_identity(run: Run) -> dict[str, Any]:
    """What `identify` gave when the run was trained.

    Raises:
        UserError: it is absent or damaged.
    """
    path = run.path / "identity.json"
    identity: dict[str, Any] = run.identity
    content = {name: value for name, value in identity.items() if name != "hash"} if isinstance(identity, dict) else {}
    if not content or identity.get("hash") != fingerprint(content):
        raise UserError(
            f"{path} is damaged: its content has the hash {fingerprint(content)[:8]}; expected the one that stands in it. "
            "Likely cause: it was edited"
        )
    return identity


def run_folder(config: TrainConfig, identity: dict[str, Any], root: Path) -> Run:
    """Where the run of this identity lies."""
    words = [config.arch.name, config.data.name, f"mem{config.mem}", f"s{config.seed}", identity["hash"][:8]]
    return Run(root / "results" / "runs" / "-".join(words))
