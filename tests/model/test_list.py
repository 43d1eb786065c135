"""The list of equivalence tests in README.md."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_of_the_list_is_there() -> None:
    rows = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = [re.match(r"\| `([\w/]+\.py)::(test_\w+)` \|", row) for row in rows]
    assert all(named)
    missing = [
        found[0] for found in named if found is not None and f"\ndef {found[2]}(" not in (HERE / found[1]).read_text()
    ]
    assert rows
    assert not missing
