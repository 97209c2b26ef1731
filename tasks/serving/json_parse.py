"""JSON request bodies, read as rapidjson does with the flags of util/json_tensor.cc.

Fast path: the standard library's C scanner. What it refuses, or reads otherwise than rapidjson,
goes through the slow reader below, which also has rapidjson's error texts and offsets.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tasks.serving.status import invalid_argument

_SPACE = re.compile(r"[ \t\n\r]*")
# Half surrogate pairs, exponents and integers that may not fit a double: the two readers differ.
_READ_SLOWLY = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}|[0-9]{300}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NAN_OR_INFINITY = re.compile(r"-?(?:NaN|Inf(?:inity)?(?!i))")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def parse_json(body: bytes) -> Any:
    """Return the first JSON value of `body`; what follows it is ignored. Bytes stay bytes:
    a string that is not UTF-8 comes back with surrogate escapes.
    """
    if not body:
        message = "JSON Parse error: The document is empty"
        raise invalid_argument(message)
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if _READ_SLOWLY.search(body) is None:
        try:
            return _DECODER.raw_decode(text, _SPACE.match(text).end())[0]  # type: ignore[union-attr]
        except (ValueError, RecursionError):
            pass
    return _SlowReader(text).read()


_END = object()


class _ParseError(Exception):
    def __init__(self, text: str, position: int) -> None:
        super().__init__(text)
        self.text = text
        self.position = position


class _SlowReader:
    """Reads without recursion: any depth of nesting."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> Any:
        """Return the first value, or raise with rapidjson's words."""
        try:
            return self._document()
        except _ParseError as error:
            offset = len(self._text[: error.position].encode("utf-8", "surrogateescape"))
            message = f"JSON Parse error: {error.text} at offset: {offset}"
            raise invalid_argument(message) from None

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]

    def _document(self) -> Any:
        self._skip_space()
        if not self._peek():
            raise _ParseError("The document is empty.", self._at)
        value = self._value()
        open_containers = [value] if isinstance(value, dict | list) else []
        fresh = True  # the innermost container was opened just now
        while open_containers:
            self._skip_space()
            inner = open_containers[-1]
            found, fresh = (
                self._member(inner, fresh=fresh)
                if isinstance(inner, dict)
                else self._element(inner, fresh=fresh)
            )
            if found is _END:
                open_containers.pop()
            elif fresh:
                open_containers.append(found)
        return value

    def _value(self) -> Any:
        """Read a scalar, or open a container."""
        match self._peek():
            case "{":
                self._at += 1
                return {}
            case "[":
                self._at += 1
                return []
            case '"':
                return self._string()
            case "n":
                return self._literal("null", None)
            case "t":
                return self._literal("true", True)
            case "f":
                return self._literal("false", False)
            case _:
                return self._number()

    def _member(self, members: dict[str, Any], *, fresh: bool) -> tuple[Any, bool]:
        """Read `, "name": value` of an open object, or its end; say if it opened a container."""
        if self._peek() == "}":
            self._at += 1
            return _END, False
        if not fresh:
            self._expect(",", "Missing a comma or } after an object member.")
        if self._peek() != '"':
            raise _ParseError("Missing a name for object member.", self._at)
        name = self._string()
        self._skip_space()
        self._expect(":", "Missing a colon after a name of object member.")
        value = self._value()
        members.setdefault(name, value)
        return value, isinstance(value, dict | list)

    def _element(self, elements: list[Any], *, fresh: bool) -> tuple[Any, bool]:
        """Read `, value` of an open array, or its end; say if it opened a container."""
        if self._peek() == "]":
            self._at += 1
            return _END, False
        if not fresh:
            self._expect(",", "Missing a comma or ] after an array element.")
        value = self._value()
        elements.append(value)
        return value, isinstance(value, dict | list)

    def _expect(self, token: str, otherwise: str) -> None:
        if self._peek() != token:
            raise _ParseError(otherwise, self._at)
        self._at += 1
        self._skip_space()

    def _literal(self, word: str, value: Any) -> Any:
        for letter in word:
            if self._peek() != letter:
                raise _ParseError("Invalid value.", self._at)
            self._at += 1
        return value

    def _number(self) -> Any:
        start = self._at
        special = _NAN_OR_INFINITY.match(self._text, start)
        if special is not None:
            self._at = special.end()
            return float(special[0])
        number = _NUMBER.match(self._text, start)
        if number is None:
            raise _ParseError("Invalid value.", start + (self._peek() == "-"))
        self._at = number.end()
        self._check_number_ends(number)
        if number[1] is None and number[2] is None and len(number[0]) < 300:
            return int(number[0])
        value = float(number[0])
        if value in (float("inf"), float("-inf")):
            raise _ParseError("Number too big to be stored in double.", start)
        return value

    def _check_number_ends(self, number: re.Match[str]) -> None:
        following = self._peek()
        if following == "." and number[1] is None and number[2] is None:
            raise _ParseError("Miss fraction part in number.", self._at + 1)
        if following and following in "eE" and number[2] is None:
            signed = self._text[self._at + 1 : self._at + 2] in ("+", "-")
            raise _ParseError("Miss exponent in number.", self._at + 1 + signed)

    def _string(self) -> str:
        self._at += 1
        parts = []
        while True:
            plain = _PLAIN.match(self._text, self._at)
            parts.append(plain[0])  # type: ignore[index]
            self._at = plain.end()  # type: ignore[union-attr]
            stop = self._peek()
            if stop == '"':
                self._at += 1
                return "".join(parts)
            if stop == "\\":
                parts.append(self._escape())
            elif stop in ("", "\0"):
                raise _ParseError("Missing a closing quotation mark in string.", self._at)
            else:
                raise _ParseError("Invalid encoding in string.", self._at)

    def _escape(self) -> str:
        start = self._at
        letter = self._text[start + 1 : start + 2]
        if letter != "u":
            if letter not in _ESCAPES or not letter:
                raise _ParseError("Invalid escape character in string.", start)
            self._at += 2
            return _ESCAPES[letter]
        code = self._hex4(start, start + 2)
        self._at = start + 6
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)
        low_follows = self._text[self._at : self._at + 2] == "\\u"
        if code > 0xDBFF or not low_follows:
            raise _ParseError("The surrogate pair in string is invalid.", start)
        low = self._hex4(start, self._at + 2)
        if not 0xDC00 <= low <= 0xDFFF:
            raise _ParseError("The surrogate pair in string is invalid.", start)
        self._at += 6
        return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))

    def _hex4(self, start: int, at: int) -> int:
        digits = _HEX4.match(self._text, at)
        if digits is None:
            raise _ParseError("Incorrect hex digit after \\u escape in string.", start)
        return int(digits[0], 16)
