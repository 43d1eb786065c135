"""memexp: train, evaluate and compare transformers with memory on one interface and one data pipeline."""

from pathlib import Path

__version__ = "0.1.0"

# Installed, `cli/` and `conf/` are memexp.cli and memexp.conf; in a checkout they stand beside this package.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "cli" / "main.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
