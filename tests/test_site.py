"""The documentation as a site: every page is in it, every link leads somewhere, nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    found = {str(page.relative_to(tmp_path / "site").with_suffix("")) for page in (tmp_path / "site").rglob("*.html")}
    assert found == {*pages, "404"}
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"{page}.md" in listed for page in pages)
    reference = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert 'id="sifu_graph.Graph.generate"' in reference and 'id="sifu_graph.build_graph"' in reference
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.?https?://[^>]*", reference) == []
