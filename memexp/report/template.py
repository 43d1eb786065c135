"""Pages in one file: a template with its style and script, and a content security policy that allows nothing else."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.wording import number

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def render(name: str, *, like: str | None = None, **values: Any) -> str:
    """Render NAME.html with base.css, and with NAME.css and NAME.js if they exist; every value is escaped.

    The policy of the page allows only this style and this script, by their hashes, and local images. It allows no connection.

    Args:
        like: the name of the style and script, if they are not NAME's own.
    """
    style, script = _read("base.css") + _read(f"{like or name}.css"), _read(f"{like or name}.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(f"{name}.html").render(**values, policy=policy, style=style, script=script)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = number
    return environment


def _read(name: str) -> str:
    path = _TEMPLATES / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" if text else "'none'"
