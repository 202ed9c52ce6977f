"""Installed fonts that have the characters of a picture. It knows matplotlib and font files only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

USUAL = "DejaVu Sans"  # comes with matplotlib
LIKELY = (
    "cjk",
    "sourcehan",
    "wqy",
    "wenquan",
    "pingfang",
    "hiragino",
    "msyh",
    "msjh",
    "simhei",
    "simsun",
    "heiti",
    "songti",
    "mingliu",
    "fallback",
    "uming",
    "ukai",
    "arphic",
    "gulim",
    "malgun",
    "unifont",
)
PLAIN = ("sans", "regular", "gothic")
HEAVY = ("bold", "black", "heavy", "italic", "oblique", "light", "thin", "mono")


def families_for(characters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together have these characters, in the order of use, and the characters that none has.

    All installed font files are searched, the likely ones first; a family is used if it adds characters.
    """
    from matplotlib import font_manager, ft2font

    families = [USUAL]
    missing = {ord(character) for character in characters if not character.isspace()}
    missing -= set(ft2font.FT2Font(font_manager.findfont(USUAL)).get_charmap())
    paths = sorted(font_manager.findSystemFonts(), key=lambda path: _order(Path(path).name.lower()))
    for path in paths:
        if not missing:
            break
        try:
            font = ft2font.FT2Font(path)
            added = missing & set(font.get_charmap())
            if added and font.scalable:
                font_manager.fontManager.addfont(path)
                families.append(font.family_name)
                missing -= added
        except (OSError, RuntimeError, ValueError):  # not a font, or of a kind that matplotlib cannot draw
            continue
    return families, {chr(code) for code in missing}


def _order(name: str) -> tuple[bool, bool, bool, str]:
    return (
        not any(word in name for word in LIKELY),
        any(word in name for word in HEAVY),
        not any(word in name for word in PLAIN),
        name,
    )
