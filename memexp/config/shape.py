"""What the files of a run folder must look like before anything uses them, because they may come from somebody else."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memexp.errors import UserError
from memexp.files import DIGITS, check_depth, parse_yaml

Shape = Any
"""A type; a tuple of types; a list with the shape of its items; or a mapping of keys, each with its shape if it is there."""

_UNBOUNDED = "perplexity"
"""The number that is infinite after a training that diverged; tables leave such a score out."""

_NUMBER = (int, float)
_COUNT = "a whole number of at least 0"
_TEXT = {"name": str}
_KNOWN = (int, float, type(None))

CONFIG: Shape = {
    "root": (str, type(None)), "arch": _TEXT | {"_target_": str, "cache": _COUNT},
    "data": _TEXT | {"source": dict, "tokenizer": dict, "max_document": _COUNT}, "size": dict, "optim": dict,
    "eval": {"split": str, "documents": _COUNT, "max_document": _COUNT, "lanes": _COUNT}, "mem": _COUNT, "segment": _COUNT,
    "lanes": _COUNT, "accumulate": _COUNT, "steps": _COUNT, "seed": _COUNT, "tag": str, "init_from": (str, type(None)),
}  # fmt: skip
"""config.yaml."""

IDENTITY: Shape = {
    "hash": str, "arch": dict, "data": dict, "size": dict, "optim": dict, "softmax": dict, "revisions": [str],
}  # fmt: skip
"""identity.json."""

METRICS: Shape = [{
    "step": _COUNT, "tokens": _NUMBER, "loss": _KNOWN, "tokens_per_second": _KNOWN, "seconds": _NUMBER, "gauges": dict, "aux": dict,
}]  # fmt: skip
"""The lines of metrics.jsonl."""

RUN_SUMMARY: Shape = {
    "steps": _COUNT, "tokens": _COUNT, "parameters": _COUNT, "tokens_per_second": _NUMBER, "seconds": _NUMBER, "loss": _KNOWN,
    "memory_fill": _KNOWN, "peak_memory_bytes": _COUNT, "command": str, "corpus": str,
}  # fmt: skip
"""summary.json of a run."""

SCORE_SUMMARY: Shape = {
    "data": str, "split": str, "documents": _COUNT, "max_document": _COUNT, "mem": _COUNT, "memory": str, "context": _COUNT,
    "cache": _COUNT, "memory_slots": _COUNT, "nats_per_token": _NUMBER, "perplexity": _KNOWN, "bits_per_token": _NUMBER,
    "bits_per_byte": _NUMBER, "bits_per_character": _NUMBER, "word_perplexity": _KNOWN, "tokens": _COUNT, "bytes": _COUNT,
    "tokenizer_hash": str, "tokens_hash": str, "memory_fill": _KNOWN, "command": str, "corpus": str, "retrieved": _COUNT,
    "seconds": _NUMBER, "cpu_seconds": _KNOWN, "tokens_read": _COUNT, "tokens_per_second": _NUMBER, "accuracy": _NUMBER, "exact_match": _NUMBER, "f1": _NUMBER,
    "f1_macro": _NUMBER, "gauges": {None: _NUMBER}, "hardware": {"name": str, "memory_bytes": _COUNT, "reason": str}, "classes": {None: {"documents": _COUNT, "f1": _NUMBER}},
    "slices": {None: {None: {"accuracy": _NUMBER, "exact_match": _NUMBER, "answers": _COUNT}}},
}  # fmt: skip
"""summary.json of a score. The key None stands for every key."""

POSITIONS: Shape = {None: {"tokens": _COUNT, "nats": _NUMBER}}
"""What a light copy keeps of a score's losses by position."""

_FILE = {"bytes": _COUNT, "sha256": str}
MANIFEST: Shape = {
    "name": str, "dtype": str, "settings": dict, "source": {"what": str, "parts": list},
    "tokenizer": {"kind": str, "hash": str, "vocabulary": _COUNT, "path": (str, type(None))},
    "files": {None: _FILE}, "splits": {None: {"documents": _COUNT, "bytes": _COUNT, "tokens": _COUNT}}, "seconds": _NUMBER,
    "splitting": {"by": str, "said": str},
}  # fmt: skip
"""manifest.json of a prepared corpus."""

CORPUS: Shape = [{
    "id": str, "group": str, "bytes": _COUNT, "split": str, "tokens": _COUNT, "slices": (dict, type(None)), "label": (str, type(None)),
    "start": _COUNT,
}]  # fmt: skip
"""documents.json of a prepared corpus."""

DOCUMENTS: Shape = [{"id": str, "tokens": _COUNT, "nats": _NUMBER, "correct": _COUNT}]
"""documents.json of a score."""


def checked(content: Any, shape: Shape, path: Path) -> Any:
    """Return `content` if it has the shape.

    Args:
        path: the file that it was read from, for the message.

    Raises:
        UserError: names the first value of another type.
    """
    if (fault := _fault(content, shape, "")) is not None:
        raise UserError(
            f"{path} does not fit this version of memexp: it {fault}. Likely cause: it was edited or damaged"
        )
    return content


def checked_documents(content: Any, path: Path) -> list[dict[str, Any]]:
    """Return the content of documents.json if it is a list of documents, each with an id and a number of tokens.

    Raises:
        UserError: it is not.
    """
    fault = _fault(content, DOCUMENTS, "")
    if fault is None and not all("id" in row and "tokens" in row for row in content):
        fault = "has rows without them"
    if fault is not None:
        raise UserError(
            f"{path} is not a list of documents (it {fault}); expected each document's id and tokens. Likely cause: it was cut short or edited; score "
            "again with force=true"
        )
    documents: list[dict[str, Any]] = content
    return documents


def _fault(content: Any, shape: Shape, where: str) -> str | None:
    """What is wrong first, such as 'says steps=true; expected a whole number of at least 0'; None if nothing is."""
    if isinstance(shape, list):
        if not isinstance(content, list):
            return _other(where, content, "a list")
        faults = (_fault(item, shape[0], f"{where}[{index}]") for index, item in enumerate(content))
        return next((fault for fault in faults if fault is not None), None)
    if isinstance(shape, Mapping):
        if not isinstance(content, dict):
            return _other(where, content, "a mapping")
        for key, value in content.items():
            if not isinstance(key, str):
                return _other(where, key, "text as keys")
            inner = shape.get(key, shape.get(None))
            if inner is not None and (fault := _fault(value, inner, f"{where}.{key}" if where else key)) is not None:
                return fault
        return None
    if shape == _COUNT:
        return None if type(content) is int and content >= 0 else _other(where, content, _COUNT)
    types = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(content, types) or (isinstance(content, bool) and bool not in types):
        return _other(
            where, content, "finite numbers" if float in types else " or ".join(_NAMES[each] for each in types)
        )
    if isinstance(content, float) and not (math.isfinite(content) or (where == _UNBOUNDED and content > 0)):
        return _other(where, content, "finite numbers")
    return None


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
    bool: "true or false",
}


def _other(where: str, seen: Any, expected: str) -> str:
    shown = repr(seen)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return f"says {where}={shown}; expected {expected}" if where else f"holds {shown}; expected {expected}"


def plain_yaml(text: str) -> Any:
    """The content of YAML text that may come from somebody else: only lists, mappings, text and numbers.

    Raises:
        ValueError: it is not YAML; or it has tags, aliases (a short text with many of them stands for an endless one), dates,
            numbers beyond 64 bits, or deeply nested lists.
    """
    import yaml

    try:
        _refuse_nested(text)
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in parse_yaml(text, events=True)):
            raise ValueError("it has an alias (*NAME), which memexp never writes")
        content = parse_yaml(text)
        check_depth(content)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error  # a YAML error has several lines
    except RecursionError as error:
        raise ValueError("lists or mappings are nested too deep") from error
    _refuse_unknown(content)
    return content


def _refuse_nested(text: str) -> None:
    """Refuse what is nested so deep that the parser itself would fail."""
    if sum(text.count(mark) for mark in "[{") > 1000 or any(
        len(line) - len(line.lstrip(" -?:")) > 200 for line in text.split("\n")
    ):
        raise RecursionError


def _refuse_unknown(content: Any) -> None:
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise ValueError(f"a key is {key!r}, which is no text")
            _refuse_unknown(value)
    elif isinstance(content, list):
        for value in content:
            _refuse_unknown(value)
    elif isinstance(content, int) and abs(content) >= 10**DIGITS:
        raise ValueError("it holds a whole number beyond 64 bits")
    elif not isinstance(content, str | int | float | None):
        raise ValueError(f"it holds a {type(content).__name__}, which no setting is")
    elif isinstance(content, str):
        content.encode()  # half a character, which no file takes, is a ValueError
