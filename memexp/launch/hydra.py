"""Registers our launcher and our sweeper with Hydra before it starts."""

from functools import cache

OWN = ("hydra._internal.core_plugins.", "hydra_plugins.", "memexp.launch.")
"""Packages that plugins may come from. Hydra accepts the first two. Our plugins cannot be in `hydra_plugins`: every Hydra
program on the machine would load them."""


@cache
def register_plugins() -> None:
    """Make Hydra accept hydra/launcher=local and hydra/sweeper=checked, which `memexp.config.compose` names."""
    from hydra.core.plugins import Plugins

    from memexp.launch.launcher import JobLauncher
    from memexp.launch.sweep import CheckedSweeper

    def is_ours(name: str) -> bool:
        return name.startswith(OWN)

    Plugins.is_in_toplevel_plugins_module = staticmethod(is_ours)  # type: ignore[assignment, method-assign]
    Plugins.instance().register(JobLauncher)
    Plugins.instance().register(CheckedSweeper)
