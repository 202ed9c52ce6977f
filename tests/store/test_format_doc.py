"""`docs/format.md` says what the code does: its code runs, and it names every array as it is declared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import small_store
from sifu_store import Store
from sifu_store.layout import ARRAYS, BASE, CLONES, FORMAT_VERSION, OPTIONAL, PAGE_EDGES, WEIGHT
from sifu_store.page_codecs import CODECS, PageCodec

DOC = Path(__file__).parents[2] / "docs" / "format.md"


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small_store.make(tmp_path / "graph.sifu")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), {})
    assert re.search(r"slot 0 holds edge \(\d+, \d+\), W of shape \(4, 4\)", capsys.readouterr().out)


def test_every_array_is_documented_as_declared() -> None:
    text = DOC.read_text(encoding="utf-8")
    assert f"version {FORMAT_VERSION}" in text and f"{PAGE_EDGES} slots" in text
    plain, rest = text.split("## Arrays that are not paged")[1].split("## Paged arrays")
    paged, later = rest.split("## What version 2 adds")
    for spec in ARRAYS:
        section = paged if spec.paged else plain
        assert f"| `{spec.name}` | {spec.dtype} | `{spec.shape_text}` | MUST |" in section
    named = set(re.findall(r"^\| `([a-z]+/[a-z]+)` \|", plain + paged, re.MULTILINE))
    assert named == {spec.name for spec in ARRAYS}
    second, rest = later.split("## What version 3 adds")
    third, fourth = rest.split("## What version 4 adds")
    for spec in OPTIONAL:
        assert f"| `{spec.name}` | {spec.dtype} | `{spec.shape_text}` |" in second
    for spec in BASE:
        assert f"| `{spec.name}` | {spec.dtype} | `{spec.shape_text}` | MUST |" in third
    for spec in CLONES:
        assert f"| `{spec.name}` | {spec.dtype} | `{spec.shape_text}` | MUST |" in fourth


def test_codecs_are_documented_as_declared(tmp_path: Path) -> None:
    small_store.make(tmp_path / "graph.sifu")
    section = DOC.read_text(encoding="utf-8").split("## What version 6 adds")[1].split("## Commits")[0]
    rows = {name: line for line in section.splitlines() for name in CODECS if line.startswith(f"| `{name}` |")}
    assert rows.keys() == set(CODECS)
    for name in CODECS[:3]:
        with Store.open(tmp_path / "graph.sifu", write=True) as store:
            store.recode_pages(PageCodec("float32", name))
            codecs = [codec.to_dict() for codec in store._array(WEIGHT).metadata.codecs]
        expected = [f"`{codec['name']}`" for codec in codecs]
        assert [word for word in re.findall(r"`\w+`", rows[name])[1:] if word in expected] == expected
        for codec in codecs[1:-1]:
            for key in ("level", "cname", "clevel", "shuffle", "typesize"):
                value = codec["configuration"].get(key)
                assert value is None or re.search(rf"`{key}` `?{value}`?", rows[name]), (name, key, value)
