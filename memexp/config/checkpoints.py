"""Published checkpoints, as `size=checkpoint` names them: a folder or a model of the hub, and what its config.json says.

Only files are read, without torch. Weights are `.safetensors` files alone, because others can hold code; nothing that a
checkpoint brings is run.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.arch.base import AttentionArch
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.files import read_text

TIMEOUT = 4.0
"""Seconds to wait for the hub's answer. `transformers` by itself would repeat its request for half a minute."""

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "*.safetensors"
FETCHED = [CONFIG, TOKENIZER, WEIGHTS, "model.safetensors.index.json", "README.md", "LICENSE*"]
"""All that is ever fetched of a model on the hub."""

PRESET = "checkpoint"
"""The choice of `size` that stands for a published checkpoint."""


class Folder(NamedTuple):
    """A checkpoint on this machine."""

    path: Path
    revision: str | None
    """The commit of the hub; None for a folder of the user."""


def with_checkpoint(config: TrainConfig, *, ask: bool = True) -> TrainConfig:
    """Fill in what the checkpoint says: sizes, checksum, licence, tokenizer. Without a checkpoint nothing changes.

    Args:
        ask: whether the hub may be asked for a checkpoint that is not here yet.

    Raises:
        UserError: there is no such checkpoint, none that memexp can read, or a setting contradicts it.
    """
    size, arch = config.size, config.arch
    if size.name != PRESET:
        if size.checkpoint is not None:
            raise UserError(
                f"size.checkpoint is {size.checkpoint}, but size={size.name} has a shape of its own; expected size={PRESET} with it"
            )
        if config.optim.train != "all":
            raise UserError(
                f"optim.train is {config.optim.train}, but size={size.name} starts from random weights, all of which must be trained; "
                f"expected optim.train=all, or size={PRESET}. To score the weights of another run, type init_from=RUN steps=0"
            )
        return config
    if size.checkpoint is None:
        raise UserError(
            f"size={PRESET} needs a checkpoint; expected size.checkpoint=FOLDER or the name of a model on the hub, such as "
            "size.checkpoint=HuggingFaceTB/SmolLM2-135M"
        )
    if size.cutoffs:
        raise UserError(
            f"size.cutoffs is {size.cutoffs}, but a published checkpoint has one output layer for all words; expected no size.cutoffs"
        )
    folder = find_folder(size.checkpoint, size.revision, ask=ask)
    if (path := config.data.tokenizer.path) is not None and Path(path).expanduser() != folder.path / TOKENIZER:
        raise UserError(
            f"data.tokenizer.path is {path}, but size={PRESET} reads with the checkpoint's own tokenizer; expected no path"
        )
    if config.data.tokenizer.kind != "bpe":
        raise UserError(
            f"data.tokenizer.kind is {config.data.tokenizer.kind}, but size={PRESET} reads with the checkpoint's own tokenizer; expected no "
            "data.tokenizer.kind"
        )
    if not (folder.path / TOKENIZER).is_file():
        raise UserError(
            f"{folder.path} has no {TOKENIZER}; expected the tokenizer that the checkpoint was trained with"
        )
    said: dict[str, Any] = shape_of(folder.path)
    vocabulary = said.pop("vocabulary")  # of the embedding; the tokenizer may have fewer entries
    if (given := config.data.tokenizer.vocabulary) not in (0, vocabulary):
        raise UserError(
            f"data.tokenizer.vocabulary is {given}, but {size.checkpoint} has {vocabulary}; expected no data.tokenizer.vocabulary"
        )
    config.data.tokenizer.vocabulary = vocabulary
    said |= {"weights": checksum(folder.path), "licence": licence_of(folder.path)}
    for name, value in said.items():
        given = getattr(size, name)
        if given not in (value, type(size).__dataclass_fields__[name].default):
            raise UserError(f"size.{name} is {given}, but {size.checkpoint} has {value}; expected no size.{name}")
        setattr(size, name, value)
    if folder.revision is None:
        size.checkpoint = str(folder.path)
    size.revision = folder.revision
    config.data.tokenizer.path = str(folder.path / TOKENIZER)
    if isinstance(arch, AttentionArch) and hasattr(arch, "knn_layers") and not arch.knn_layers:
        # memory in one layer of a trained network recovers nothing; a layer with a window has never looked further
        far = [number for number, window in enumerate(windows_of(folder.path), start=1) if window is None]
        arch.knn_layers = far or list(range(1, size.layers + 1))
    return config


def scores_another(config: TrainConfig) -> bool:
    """Whether nothing is trained: the weights of another run are scored, such as on another corpus."""
    return config.init_from is not None and not config.steps


def find_folder(name: str, revision: str | None, *, ask: bool) -> Folder:
    """The folder of a checkpoint: the user's own, that of the hub's cache, or one that is fetched now.

    Args:
        ask: whether the hub may be asked. Only a user who names a checkpoint makes anybody ask, not a run folder, which may come from
            somebody else.

    Raises:
        UserError: it is not there, or has no weights that memexp reads.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return Folder(_complete(path.absolute()), None)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise UserError(
            f"size.checkpoint is {name}, which is no folder; expected one with {CONFIG}, {TOKENIZER} and {WEIGHTS}, or "
            "the name of a model on the hub, such as HuggingFaceTB/SmolLM2-135M"
        )
    cached = _cached(name, revision)
    if cached is None and not ask:
        raise UserError(
            f"{name} is not in the hub's cache on this machine; expected this checkpoint there. "
            f"`hf download {name}{f' --revision {revision}' if revision else ''}` fetches it"
        )
    return cached or _fetched(name, revision)


def _cached(name: str, revision: str | None) -> Folder | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
        return Folder(_complete(path), path.name)
    except (LocalEntryNotFoundError, HfHubHTTPError, UserError, OSError, ValueError):
        return None


def _fetched(name: str, revision: str | None) -> Folder:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
        files = [sibling.rfilename for sibling in info.siblings or []]
        if not any(file.endswith(".safetensors") for file in files):
            raise UserError(
                f"{name} on the hub has no {WEIGHTS}; expected weights in that form, because others can hold code"
            )
        return Folder(
            _complete(Path(snapshot_download(name, revision=info.sha, allow_patterns=FETCHED))), str(info.sha)
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        at = f" with the revision {revision}" if revision else ""
        raise UserError(
            f"there is no folder {name} and no model of that name{at} on the hub; expected one of the two"
        ) from error
    except (OSError, errors.HTTPError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"cannot reach {constants.ENDPOINT} for {name}: {reason}; expected a connection, or size.checkpoint=FOLDER"
        ) from error


def _complete(path: Path) -> Path:
    """The folder, if it has all parts of the weights.

    Raises:
        UserError: it lacks some.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} has no {CONFIG}; expected the folder of a checkpoint as transformers writes it")
    there = {file.name for file in path.glob(WEIGHTS)}
    if not there:
        raise UserError(f"{path} has no {WEIGHTS}; expected weights in that form, because others can hold code")
    index = path / "model.safetensors.index.json"
    files = _json(index).get("weight_map") if index.is_file() else {}
    if not isinstance(files, dict):
        raise UserError(f"{index} has no weight_map; expected the file of each weight, as transformers writes it")
    named = set(map(str, files.values()))
    if missing := sorted(named - there):
        raise UserError(
            f"{path} lacks {missing[0]} ({len(missing)} of {len(named)} files); expected all. Fetch it again"
        )
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}; expected what transformers writes") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a mapping, as transformers writes it")
    return content


def shape_of(path: Path) -> dict[str, int]:
    """The settings of `size` that config.json gives, whose names differ from family to family, and the size of the vocabulary.

    Raises:
        UserError: it does not give them, or its weights are quantized.
    """
    content = _of_text(path)
    if content.get("quantization_config") is not None:
        raise UserError(
            f"{path} holds quantized weights; expected the checkpoint that they were made of, in fp32 or bf16"
        )
    width = _first(content, path, "hidden_size", "n_embd", "d_model")
    heads = _first(content, path, "num_attention_heads", "n_head", "n_heads")
    return {
        "vocabulary": _first(content, path, "vocab_size"),
        "layers": _first(content, path, "num_hidden_layers", "n_layer", "n_layers"),
        "width": width,
        "heads": heads,
        "head_size": _first(content, path, "head_dim", otherwise=width // heads),
        "groups": _first(content, path, "num_key_value_heads", otherwise=heads),
        "feedforward": _first(content, path, "intermediate_size", "n_inner", "ffn_dim", otherwise=4 * width),
    }


def windows_of(path: Path) -> list[int | None]:
    """How many tokens each layer sees at most, the token itself included; None: all before it.

    Raises:
        UserError: config.json does not give the number of layers.
    """
    content, layers = _of_text(path), shape_of(path)["layers"]
    window = content.get("sliding_window")
    if window is None or content.get("use_sliding_window") is False:
        return [None] * layers
    kinds = content.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    pattern, first = content.get("sliding_window_pattern"), content.get("max_window_layers")
    if isinstance(pattern, int) and pattern > 0:  # each so many layers, one sees all
        return [None if (index + 1) % pattern == 0 else window for index in range(layers)]
    if content.get("use_sliding_window") and isinstance(first, int):
        return [window if index >= first else None for index in range(layers)]
    return [window] * layers


def _of_text(path: Path) -> dict[str, Any]:
    """What config.json says of the decoder of text, also of a model that reads images too."""
    content = _json(path / CONFIG)
    return content | content["text_config"] if isinstance(content.get("text_config"), dict) else content


def _first(content: Mapping[str, Any], path: Path, *names: str, otherwise: int | None = None) -> int:
    for name in names:
        if content.get(name) is not None:
            if type(content[name]) is not int or not 0 < content[name] < 1 << 24:
                raise UserError(f"{path / CONFIG} says {name}={content[name]!r}; expected a positive whole number")
            return int(content[name])
    if otherwise is None:
        raise UserError(f"{path / CONFIG} has no {' or '.join(names)}; expected the config of a decoder")
    return otherwise


def checksum(path: Path) -> str:
    """The SHA-256 of config, tokenizer and weights, in hexadecimal, wherever they are."""
    files = [path / CONFIG, path / TOKENIZER, *sorted(path.glob(WEIGHTS))]
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            seen = file.stat()
            whole.update(f"{file.name} {_checksum(file, seen.st_size, seen.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@cache
def _checksum(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def licence_of(path: Path) -> str | None:
    """The licence that the model's card names, such as apache-2.0; None if it names none."""
    card = path / "README.md"
    if not card.is_file():
        return None
    head = card.read_bytes()[: 1 << 16].decode("utf-8", "replace")
    front = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"^license: *([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
