"""Pages in one file: a template with its style and script, and a content security policy that allows nothing else."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from memexp.wording import number

_TEMPLATES = Path(__file__).parent / "templates"


def render(name: str, **values: Any) -> str:
    """Render NAME.html with base.css, NAME.css and, if it exists, NAME.js; every value is escaped.

    The policy of the page allows only this style and this script, by their hashes, and local images. It allows no connection.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = number
    style, script = _read("base.css") + _read(f"{name}.css"), _read(f"{name}.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{name}.html").render(**values, policy=policy, style=style, script=script)


def _read(name: str) -> str:
    path = _TEMPLATES / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" if text else "'none'"
