"""Text from somewhere else, made fit for a terminal."""

from __future__ import annotations


def visible(text: str) -> str:
    """Return text on one line in which nothing steers a terminal: what is not printable is written out.

    Control characters, bidirectional overrides, line ends, and bytes that were no text become `\\x1b` and so
    on; a backslash stays what it is, so this is for people and not for reading back.
    """
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
