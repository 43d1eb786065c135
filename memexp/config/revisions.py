"""Settings whose meaning changed: which runs an older version of memexp made with another meaning.

A run's identity names the revisions that are in force for its settings. So a run that was made before a revision is another
run than the one that the same settings give now: it has another folder, and fills no cell of a table. Runs whose settings
mean what they always did keep their identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
"""All settings of `memexp train`, as nested mappings."""


@dataclass(frozen=True)
class Revision:
    """A change of what some settings mean.

    Attributes:
        name: what the identity of a run names; it never changes.
        since: what holds since the revision, as a sentence without a full stop.
        in_force: whether the settings of a run mean something else since the revision.
        came_with: dotted names of settings that came with the revision. A run that was made before has none of them, and is
            still a run of the same settings.
    """

    name: str
    since: str
    in_force: Callable[[Settings], bool]
    came_with: tuple[str, ...] = ()


REVISIONS = (
    Revision(
        name="waves-of-model-width",
        since="with arch.position=xl the waves have the width of the model instead of the width of all heads",
        in_force=lambda settings: (
            settings["arch"].get("position") == "xl"
            and settings["size"]["width"] != settings["size"]["heads"] * settings["size"]["head_size"]
        ),
    ),
    Revision(
        name="published-recall",
        since="with arch.faithful=true the recall loss is that of the published code",
        in_force=lambda settings: settings["arch"].get("faithful", False) and settings["arch"]["recall"] > 0,
    ),
    Revision(
        name="adafactor-as-published",
        since="Adafactor adds 1e-30 to squared gradients, has momentum, and keeps the squares of small matrices whole",
        in_force=lambda settings: settings["optim"]["name"] == "adafactor",
        came_with=("optim.momentum", "optim.factor_from"),
    ),
)
"""All revisions, the oldest first. Entries are added at the end and never removed."""


def in_force(settings: Settings) -> list[Revision]:
    """The revisions that changed what these settings mean."""
    return [revision for revision in REVISIONS if revision.in_force(settings)]
