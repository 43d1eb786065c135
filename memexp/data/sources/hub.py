"""Data sets of the hub, streamed: the first of several that can be read, or one line that says why none can be."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from memexp.errors import UserError
from memexp.terminal import same_command

TIMEOUT = 4.0
"""Seconds to wait for the hub's first answer. `datasets` by itself would repeat its request for half a minute."""


class Found(NamedTuple):
    """A data set that can be read."""

    name: str
    revision: str
    """The commit that is read, from the first row to the last."""
    splits: dict[str, Iterable[dict[str, Any]]]


def find(sets: Sequence[dict[str, Any]], *, otherwise: str) -> Found:
    """The first data set that can be read.

    Args:
        sets: arguments of `datasets.load_dataset` for each; `data_files` has the patterns of each split, of the same kind.
        otherwise: what a user can do without the hub, for messages.

    Raises:
        UserError: the hub does not answer, or gives none of the sets.
    """
    from huggingface_hub import HfApi, constants, errors

    unusable = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.DisabledRepoError)
    reasons = []
    for options in sets:
        name = options["path"]
        gated = f"{name} is gated: accept its terms at {constants.ENDPOINT}/datasets/{name}, then `hf auth login`"
        info = None
        try:
            info = HfApi().dataset_info(
                name, revision=options.get("revision"), timeout=TIMEOUT, expand=["sha", "gated"]
            )
            return Found(name, str(info.sha), _splits(options, str(info.sha)))
        except errors.GatedRepoError:
            reasons.append(gated)
        except unusable:
            reasons.append(f"{name} is not there")
        # Such as a script, or files that `datasets` cannot read; it raises StopIteration for a file without rows.
        except (FileNotFoundError, errors.EntryNotFoundError, ValueError, RuntimeError, StopIteration) as error:
            reasons.append(gated if info and info.gated else f"{name}: {_line(error)}")
        except (OSError, errors.HTTPError) as error:  # of the library that `datasets` uses
            raise UserError(
                f"cannot reach {constants.ENDPOINT} for {name}: {_line(error)}; expected a connection. {otherwise}"
            ) from error
    raise UserError(f"the hub gives no data set to read: {'; '.join(reasons)}. {otherwise}")


def _splits(options: dict[str, Any], commit: str) -> dict[str, Iterable[dict[str, Any]]]:
    import datasets  # here, because it takes seconds

    if "data_files" not in options:
        return dict(datasets.load_dataset(**{**options, "revision": commit}, streaming=True))
    # The files are read by their addresses, because `datasets` refuses a repository that contains a script.
    files = {
        split: [f"hf://datasets/{options['path']}@{commit}/{pattern}" for pattern in patterns]
        for split, patterns in options["data_files"].items()
    }
    tables = all(pattern.endswith(".parquet") for patterns in files.values() for pattern in patterns)
    return dict(datasets.load_dataset("parquet" if tables else "json", data_files=files, streaming=True))


def stream(found: Found, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and content of each row of a split.

    Raises:
        UserError: the connection is lost.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    number = 0
    try:
        for number, row in enumerate(found.splits[split], start=1):
            yield number, row
    except (OSError, errors.HTTPError, DatasetsError, ValueError) as error:
        raise UserError(
            f"{found.name} broke off after row {number:,} of {split}: {_line(error)}; expected more. Likely cause: the "
            f"connection was lost; run {same_command()} again, or download the files and give data.path"
        ) from error


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
