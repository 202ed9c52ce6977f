"""``tools/words.py`` finds words of its list in prose, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import words

LIST = words.read_list(words.LIST)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("page.md", "Fine.\n\nSaid by whoever reads,\nso\nmany times.\n", [3, 4]),
        ("page.md", "```\nnobody\n```\n\n    nobody\n\nthe word `nobody`, [a page](nobody.md)\n", []),
        ("code.py", 'nobody = 1  # whoever\ntext = f"nobody {name}"\n', [1, 2]),
        ("code.py", '"""Asks\n\nnobody."""\n', [3]),
        ("page.md", "underlies, ongoing, so manyfold\n", []),
    ],
)
def test_what_is_found(name: str, text: str, lines: list[int], tmp_path: Path) -> None:
    page = tmp_path / name
    page.write_text(text, encoding="utf-8")
    found = [int(line.removeprefix(f"{page}:").split(":")[0]) for line in words.findings(page, LIST)]
    assert sorted(found) == lines


def test_every_pattern_has_a_replacement() -> None:
    assert len(LIST) > 20
    assert all(replacement for _, replacement in LIST)
