"""``python tools/words.py``: finds words that the project no longer uses.

The list is ``tools/words.txt``; the files and folders that are checked, and those that are left out, are in
``pyproject.toml``, ``[tool.words]``. Markdown is checked without its code blocks and inline code, Python in its
docstrings, comments and string literals, any other file whole. Exit code 1 if something was found.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "words.txt"
CHECKED = (".md", ".py", ".txt", ".yml", ".yaml", ".cff")


def read_list(path: Path) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of the list, each with its replacement. A space in a pattern matches a line break too."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, replacement = (part.strip() for part in line.split("->"))
        spaced = pattern.replace(" ", r"[\s#]+")
        found.append((re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE), replacement))
    return found


def blank(text: str, pattern: str) -> str:
    """The text with every match of the pattern replaced by spaces; line breaks stay, so that positions do too."""
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.MULTILINE | re.DOTALL)


def markdown_prose(text: str) -> str:
    for pattern in (r"^```.*?^```", r"^    \S[^\n]*", r"`[^`\n]+`", r"\]\([^)\n]*\)", r"<!--.*?-->"):
        text = blank(text, pattern)
    return text


def python_prose(text: str) -> str:
    """Comments and strings of a module, at their positions."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    kept = list(re.sub(r"[^\n]", " ", text))
    literal = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in literal:
            begin = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            kept[begin:end] = text[begin:end]
    return "".join(kept)


def findings(path: Path, words: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """One line for each match: file, line, what was found, what to write."""
    text = path.read_text(encoding="utf-8")
    prose = {".md": markdown_prose, ".py": python_prose}.get(path.suffix, str)(text)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for pattern, replacement in words:
        for match in pattern.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            yield f'{name}:{line}: "{" ".join(match[0].split())}" -> {replacement}'


def files(paths: list[str], excluded: list[str]) -> list[Path]:
    found: list[Path] = []
    for name in paths:
        path = ROOT / name
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in below if file.suffix in CHECKED]
    left_out = [ROOT / name for name in excluded]
    return [file for file in found if not any(file.is_relative_to(path) for path in left_out)]


def main() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["words"]
    words = read_list(LIST)
    found = [line for path in files(settings["paths"], settings["exclude"]) for line in findings(path, words)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
