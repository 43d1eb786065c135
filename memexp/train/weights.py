"""The weights of a run: what is saved of them, how a model gets them back, and how another run starts from them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memexp.data.tokenizers import WITHOUT_MODEL
from memexp.errors import UserError
from memexp.files import SUMMARY
from memexp.model.segment import SegmentModel
from memexp.store.folder import WEIGHTS, Run, command_in
from memexp.store.identity import read_identity
from memexp.train import checkpoint
from memexp.train.spec import RunSpec

NETWORK = ("layers", "width", "heads", "head_size", "feedforward", "weights")
"""Settings of `size` that a run must share with the run whose weights it starts from."""


def trained_weights(model: SegmentModel) -> dict[str, Tensor]:
    """What is saved of a model: its weights, without those of a published checkpoint that are frozen."""
    frozen = frozen_weights(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def frozen_weights(model: SegmentModel) -> set[str]:
    """The names of weights that training does not change, as in `state_dict`."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}


def take(model: SegmentModel, weights: dict[str, Tensor]) -> None:
    """Load weights that `trained_weights` gave.

    Raises:
        RuntimeError: they are not those of this model.
    """
    frozen = frozen_weights(model)
    own = {name: value for name, value in model.state_dict().items() if name in frozen}
    model.load_state_dict(weights | own)


def load_weights(run: Run, *, identity: str) -> dict[str, Any]:
    """The last weights of a run.

    Args:
        identity: the hash of the run's identity.

    Raises:
        UserError: the run is not done, so it has no final weights; or the weights are damaged.
    """
    if run.summary is None:
        raise UserError(
            f"{run.path} is not done ({run.state}); expected a run that was trained to its end. "
            "The command that began it continues from its newest checkpoint"
        )
    path = run.path / WEIGHTS
    remedy = how_to_train_again(run, run.summary)
    weights: Any = checkpoint.load(path, identity=identity, remedy=remedy).get("model")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(
            f"{path} holds no weights; expected a tensor for each name. Likely cause: it was edited; {remedy}"
        )
    return weights


def restore_trained(model: SegmentModel, run: Run, *, identity: str) -> None:
    """Give a model the last weights of a run with its settings.

    Raises:
        UserError: as `load_weights`; or the weights do not fit, because another version wrote them.
    """
    weights = load_weights(run, identity=identity)
    assert run.summary is not None
    with fitting(run.path / WEIGHTS, remedy=how_to_train_again(run, run.summary)):
        take(model, weights)


def how_to_train_again(run: Run, summary: dict[str, Any]) -> str:
    """What the user can do if the weights of a run that is done are damaged."""
    kept = summary.get("command")
    command = command_in(run.root, str(kept)) if kept else "memexp train"
    if run.root is None:
        return f"copy it again from where it was trained, or train it in a root of yours with `{command}`"
    return f"delete {run.path / SUMMARY}, and `{command}` trains it again"


@contextmanager
def fitting(path: Path, *, remedy: str) -> Iterator[None]:
    """Say in one line that what a file holds does not fit the model."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        seen = str(error).splitlines()[-1].strip()  # torch prints one line for each mismatch
        raise UserError(
            f"{path} does not fit this model: {seen}; expected weights of a run with these settings. Likely cause: another "
            f"version of memexp wrote it; {remedy}"
        ) from error


def start_from(model: SegmentModel, spec: RunSpec, run: Run) -> list[str]:
    """Load another run's weights where names match; returns messages on which weights are new and which are not used.

    Raises:
        UserError: that run has no final weights, or they mean something else here or do not fit.
    """
    theirs, own = read_identity(run), model.state_dict()
    weights = load_weights(run, identity=theirs["hash"])
    _refuse_another_network(run, theirs, spec)
    _refuse_another_tokenizer(run, theirs, spec)
    notes = [f"weights from {run.name}", *_with_new_classes(weights, own, theirs, spec)]
    _refuse_other_shapes(run, weights, own)
    _refuse_other_attention(run, weights, own, spec)
    frozen = frozen_weights(model)
    _refuse_lost_training(run, theirs, weights, own, frozen, spec)
    found, unexpected = model.load_state_dict(weights, strict=False)
    missing = [key for key in found if key not in frozen]
    _refuse_random_weights(run, missing, spec)
    model.start_new(missing)
    notes += [f"new, from its initial value: {key}" for key in missing]
    return notes + [f"not used here: {key}" for key in unexpected]


def _refuse_another_network(run: Run, theirs: dict[str, Any], spec: RunSpec) -> None:
    for setting in NETWORK:
        source, target = theirs.get("size", {}).get(setting), asdict(spec.config.size)[setting]
        if source != target:
            raise UserError(
                f"init_from={run.name}: size.{setting} is {source} in that run and {target} in this one; expected the same "
                "network apart from its memory. Use the same size= as that run"
            )


def _refuse_another_tokenizer(run: Run, theirs: dict[str, Any], spec: RunSpec) -> None:
    tokenizer, corpus = str(theirs.get("data", {}).get("tokenizer_hash")), spec.corpus
    if tokenizer != corpus.tokenizer_hash:
        has_model = spec.config.data.tokenizer.kind not in WITHOUT_MODEL
        model_file = ", or data.tokenizer.path=FILE with the tokenizer.model of its corpus" if has_model else ""
        raise UserError(
            f"init_from={run.name}: it reads tokenizer {tokenizer[:8]}, but {corpus.path} has "
            f"{corpus.tokenizer_hash[:8]}; expected the same, because token ids have other meanings otherwise. Use the same "
            f"data= as that run{model_file}"
        )


def _with_new_classes(
    weights: dict[str, Tensor], own: dict[str, Tensor], theirs: dict[str, Any], spec: RunSpec
) -> list[str]:
    """Give classes that mean something else in that run the initial vectors of this one; returns what to tell the user.

    Args:
        weights: those of that run, which are changed.
        own: the initial ones of this run.
        theirs: the identity of that run.
    """
    notes, corpus = [], spec.corpus
    words = "head.embedding_VD"
    before = theirs.get("data", {})
    # classes have numbers, which mean the same only in the same corpus
    strange = before.get("documents_checksum") != corpus.content["documents_checksum"] or before.get("task") is None
    if corpus.classes and strange and words in weights and len(weights[words]) >= corpus.answers_from:
        weights[words] = torch.cat([weights[words][: corpus.answers_from], own[words][corpus.answers_from :]])
        notes.append(f"new, from their initial value: the {len(corpus.classes)} classes of {words}")
    if corpus.classes and strange and spec.config.size.checkpoint is not None:
        weights.pop("head.output.weight", None)  # of words, or of other classes
    return notes


def _refuse_other_shapes(run: Run, weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    wrong = [key for key in weights if key in own and weights[key].shape != own[key].shape]
    if wrong:
        key = wrong[0]
        settings = "data=, task= and cutoffs=" if key.startswith("head.") else "arch settings"
        raise UserError(
            f"init_from={run.name}: {key} has shape {tuple(weights[key].shape)} in that run and {tuple(own[key].shape)} in this "
            f"one ({len(wrong)} weights differ); expected the same shapes. Use the same {settings} as that run"
        )


def _refuse_other_attention(run: Run, weights: dict[str, Tensor], own: dict[str, Tensor], spec: RunSpec) -> None:
    others, ours = _layers_with_attention(weights), _layers_with_attention(own)
    if spec.config.size.checkpoint is None and others != ours:  # a checkpoint's are the same
        raise UserError(
            f"init_from={run.name}: {others} layers of that run have attention, and {ours} of this one; expected as many, because a layer "
            "without attention has other weights"
        )


def _layers_with_attention(names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names if name.startswith("layers.")})


def _refuse_lost_training(
    run: Run,
    theirs: dict[str, Any],
    weights: dict[str, Tensor],
    own: dict[str, Tensor],
    frozen: set[str],
    spec: RunSpec,
) -> None:
    lost = [key for key in weights if key in frozen or (key not in own and key.startswith("layers.base."))]
    if spec.config.size.checkpoint is not None and lost:
        raise UserError(
            f"init_from={run.name}: it trained {lost[0]} ({len(lost)} weights) with optim.train={theirs['optim'].get('train', 'all')}, which "
            f"optim.train={spec.config.optim.train} would put back as published; expected the optim.train= and "
            "optim.rank= of that run"
        )


def _refuse_random_weights(run: Run, missing: list[str], spec: RunSpec) -> None:
    if missing and not spec.config.steps:
        raise UserError(
            f"init_from={run.name}: that run has not trained {missing[0]} ({len(missing)} weights), and with steps=0 nothing would; "
            "expected the arch, mem, size and optim settings of that run"
        )
