"""The identity of a run: what determines its result, and therefore its folder. Does not import torch."""

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch
from memexp.config.field import AUTO, default_of
from memexp.config.groups import Data, Optim, Size, cutoffs_in_force
from memexp.config.revisions import REVISIONS, in_force
from memexp.config.shape import IDENTITY, checked
from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.store.folder import CONFIG_FILE, IDENTITY_FILE, Run, find_run

_SCHEMAS: list[Any] = [Data, *ARCHS.values(), Size, Optim]
LATER = {item.name for schema in _SCHEMAS for item in fields(schema) if item.metadata.get("later")}
"""Settings that were added later: an identity holds them only where they differ from their default."""


def identify(config: TrainConfig, corpus: Corpus, root: Path) -> dict[str, Any]:
    """Everything that determines the result of a run, with its hash under "hash".

    The corpus enters by the checksums of its content. The run that weights come from enters by the hash of its own identity.
    """
    if config.precision == AUTO:
        raise ValueError("precision=auto determines no result; memexp.train.spec.specify chooses the precision first")
    content = of_the_result(config)
    content["data"] |= {"name": config.data.name, **corpus.content}
    if config.init_from is not None:
        content["init_from"] = read_identity(find_run(root, config.init_from))["hash"]
    return content | {"hash": fingerprint(content)}


def with_precision(identity: dict[str, Any], precision: str) -> dict[str, Any]:
    """The identity of the same run in another precision."""
    content = {name: value for name, value in identity.items() if name != "hash"} | {"precision": precision}
    return content | {"hash": fingerprint(content)}


def trained_settings(run: Run) -> TrainConfig:
    """The settings that a run was trained with. They may mean something else now: the run can still be scored.

    Raises:
        UserError: config.yaml and identity.json disagree, or a newer version of memexp made the run.
    """
    settings, identity = run.settings, read_identity(run)
    if unknown := set(revisions_of(run)) - {revision.name for revision in REVISIONS}:
        raise UserError(
            f"{run.path} was trained since {', '.join(sorted(unknown))}, which this version of memexp does not know; expected "
            "settings with the meaning that they have here. Likely cause: a newer version made the run"
        )
    for name, value in of_the_result(settings).items():
        trained = identity.get(name, _defaults(settings).get(name))
        if isinstance(value, dict) and isinstance(trained, dict):
            defaults = _defaults(getattr(settings, name, None))
            for key in value.keys() | (trained.keys() & LATER):
                default = defaults.get(key)
                _compare(run, f"{name}.{key}", value.get(key, default), trained.get(key, default))
        elif name not in ("init_from", "revisions"):  # of the run to start from, the identity holds the hash
            _compare(run, name, value, trained)
    return settings


def _defaults(schema: Any) -> dict[str, Any]:
    """The values of settings that an identity does not name: they came later, or were at their default."""
    return {item.name: default_of(item) for item in fields(schema)} if is_dataclass(schema) else {}


def _compare(run: Run, name: str, configured: Any, trained: Any) -> None:
    if configured != trained:
        raise UserError(
            f"{run.path / CONFIG_FILE} says {name}={configured}, but the run was trained with {name}={trained}; expected "
            "the same value. Likely cause: config.yaml was edited"
        )


def of_the_result(config: TrainConfig) -> dict[str, Any]:
    """The settings that affect the trained weights; `identify` adds the content of the corpus and of the starting run."""
    return result_settings(asdict(config))


def result_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in `config` that affect the trained weights; `config` must hold every setting of the schemas."""
    content = _affecting(config, TrainConfig)
    size = config["size"]
    if softmax := cutoffs_in_force(size["cutoffs"], tokenizer=config["data"]["tokenizer"]["kind"]):
        content["softmax"] = {"cutoffs": softmax, "narrowing": size["narrowing"]}
    if revisions := in_force(config):
        content["revisions"] = [revision.name for revision in revisions]
    return content


def _affecting(settings: dict[str, Any], schema: Any) -> dict[str, Any]:
    content = {}
    for item in fields(schema):
        if item.metadata["effect"] != "result":
            continue
        value = settings[item.name]
        if is_dataclass(item.type):
            content[item.name] = _affecting(value, ARCHS[value["name"]] if item.type is Arch else item.type)
        elif not (item.metadata["later"] and value == default_of(item)):
            content[item.name] = value
    return content


def read_identity(run: Run) -> dict[str, Any]:
    """The identity that was saved when the run was trained.

    Raises:
        UserError: identity.json is absent or damaged.
    """
    path = run.path / IDENTITY_FILE
    identity: dict[str, Any] = run.identity
    content = {name: value for name, value in identity.items() if name != "hash"} if isinstance(identity, dict) else {}
    if not content or identity.get("hash") != fingerprint(content):
        raise UserError(
            f"{path} is damaged: its content has the hash {fingerprint(content)[:8]}; expected the hash written in "
            "it. Likely cause: it was edited or damaged; the `memexp train` that made the run writes it again"
        )
    identity = checked(identity, IDENTITY, path)
    return identity


def revisions_of(run: Run) -> list[str]:
    """The names of the revisions that the run was trained with."""
    names: list[str] = read_identity(run).get("revisions", [])
    return names


def run_folder(config: TrainConfig, identity: dict[str, Any], root: Path) -> Run:
    """The run folder of these settings and this identity; it need not exist yet."""
    words = [config.arch.name, config.data.name, f"mem{config.mem}", f"s{config.seed}", identity["hash"][:8]]
    return Run(root / "results" / "runs" / "-".join(words))
