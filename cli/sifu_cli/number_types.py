"""Types of options that are numbers: click's ranges with finite numbers only, and limits in words."""

from __future__ import annotations

import math
from typing import Any, cast

import click

LIMIT = 2**63
"""Integers must be below it in magnitude: the library keeps them in 64 bits."""


class Integer(click.IntRange):
    """An integer in a range (`min`, `max`, `min_open`, `max_open`), with or without thousands separators."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text of an option.

        Raises
        ------
        click.BadParameter
            It is no integer, or not in the range.
        """
        try:
            number: int = super().convert(cast(int, str(value).replace(",", "")), None, None)
        except click.BadParameter:
            self.fail(f"expected {self.expected}; found {value}", param, ctx)
        if abs(number) >= LIMIT:
            self.fail(f"expected {self.expected}, below {LIMIT:,}; {value} is too large", param, ctx)
        return number

    def _describe_range(self) -> str:
        """The range in the help text; click would print the absence of both limits as `x<=None`."""
        return "" if self.min is self.max is None else super()._describe_range()

    @property
    def expected(self) -> str:
        """The type and the range in words: `an integer, at least 1`."""
        return _in_words("an integer", self)


class Float(click.FloatRange):
    """A finite number in a range (`min`, `max`, `min_open`, `max_open`), with or without thousands separators."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text of an option.

        Raises
        ------
        click.BadParameter
            It is no number, NaN, infinite, or not in the range.
        """
        try:
            number: float = super().convert(cast(float, str(value).replace(",", "")), None, None)
        except click.BadParameter:
            number = math.nan
        if math.isinf(number) and "inf" not in str(value).lower():
            self.fail(f"expected {self.expected}; {value} is too large for a 64-bit number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected {self.expected}; found {value}", param, ctx)
        return number

    def _describe_range(self) -> str:
        """The range in the help text; click would print the absence of both limits as `x<=None`."""
        return "" if self.min is self.max is None else super()._describe_range()

    @property
    def expected(self) -> str:
        """The type and the range in words: `a number, above 0 and at most 1`."""
        return _in_words("a number", self)


class IntegerOr(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """An integer in a range, or one word, which is returned unchanged."""

    name = "integer or word"

    def __init__(self, word: str, integer: Integer) -> None:
        self.word, self.integer = word, integer

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse the text of an option.

        Raises
        ------
        click.BadParameter
            It is neither the word nor such an integer.
        """
        if value == self.word:
            return self.word
        try:
            return self.integer.convert(value, None, None)
        except click.BadParameter as error:
            self.fail(error.message.replace("expected ", f"expected {self.word} or ", 1), param, ctx)


def _in_words(kind: str, limits: click.IntRange | click.FloatRange) -> str:
    words = []
    if limits.min is not None:
        words.append(f"{'above' if limits.min_open else 'at least'} {limits.min:g}")
    if limits.max is not None:
        words.append(f"{'below' if limits.max_open else 'at most'} {limits.max:g}")
    return f"{kind}, {' and '.join(words)}" if words else kind
