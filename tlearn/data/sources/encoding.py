"""The text of a file that does not tell its encoding: recognised where one reading alone makes sense."""

import codecs
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress

# 8-bit encodings that programs of spreadsheets write, the commonest first, then those of East Asia
_LEGACY = (
    *("cp1252", "iso8859-15", "cp1250", "iso8859-2", "cp1251", "cp1253", "cp1254", "cp1257", "mac_roman", "koi8-r"),
    *("cp437", "cp850", "cp852", "cp866", "cp932", "gb18030", "big5", "cp949"),
)
# What they write for nearly every letter beyond ASCII; a text without such bytes is not theirs.
_DOS, _DOS_LETTERS = ("cp437", "cp850", "cp852", "cp866"), range(0x80, 0xB0)
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
TRIED = ("utf-8", "utf-16", *_LEGACY)
# Signs that stand beside words, in the names of classes and files
_SIGNS = set(
    "\u00a9\u00ae\u00b0\u00b2\u00b3\u00bd\u00a1\u00bf\u00ab\u00bb\u00d7\u00a3\u00a7\u20ac\u2122"
    "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"
)
_SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL"}
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}


def readings(content: bytes) -> dict[str, str]:
    """Return each text that the bytes may be, by its encoding: one, or several where nothing decides; or none."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _decoded(content[len(mark) :], (encoding,))
    # Without a mark, UTF-16 has a zero in every other byte of each separator and Latin letter.
    zeros = [content[place:4096:2].count(0) for place in (0, 1)]
    if max(zeros) > min(len(content), 4096) // 5:
        return _decoded(content, ("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le",))
    if unicode := _decoded(content, ("utf-8",)):
        return unicode
    dos = any(byte in _DOS_LETTERS for byte in content)
    legacy = [encoding for encoding in _LEGACY if dos or encoding not in _DOS]
    return {name: text for name, text in _decoded(content, legacy).items() if _makes_sense(text)}


def decoded(content: bytes, encoding: str) -> str:
    """Return the text in a given encoding; raise UnicodeError where it is not."""
    return content.decode(encoding).removeprefix("\ufeff")


def beyond_ascii(text: str) -> list[str]:
    """Return the different words of a text that are not ASCII, in their order."""
    return list(dict.fromkeys(word for word in re.findall(r"[^\W_]+", text) if not word.isascii()))


def is_unicode(encoding: str) -> bool:
    """Return whether an encoding has the characters of all languages."""
    return codecs.lookup(encoding).name.startswith("utf")


def _decoded(content: bytes, encodings: Sequence[str]) -> dict[str, str]:
    """Decode in each encoding that can; of several with the same text, in the first."""
    names: dict[str, str] = {}
    for encoding in encodings:
        with suppress(UnicodeError):
            names.setdefault(content.decode(encoding), encoding)
    return {name: text for text, name in names.items()}


def _makes_sense(text: str) -> bool:
    """Return whether what is not ASCII looks like words of one script and usual signs, as a wrong encoding seldom does.

    Wrong encodings are found by signs between letters, capitals inside of words, and words of accented letters alone.
    """
    for match in re.finditer(r"[^\x00-\x7f]", re.sub(r"(?<=\w)\u2019(?=\w)", "", text)):
        around = match.string[max(0, match.start() - 1) : match.start()] + match.string[match.end() : match.end() + 1]
        letter = unicodedata.category(match[0])[0] == "L"
        if not letter and (match[0] not in _SIGNS or (len(around) == 2 and around.isalnum())):
            return False
    return all(_is_word(word) for word in beyond_ascii(text) if any(map(str.isalpha, word)))


def _is_word(word: str) -> bool:
    scripts = set(_scripts(word))
    if unicodedata.normalize("NFKC", word) != word or not scripts <= _SCRIPTS or "\u0192" in word:
        return False
    if len(scripts) > 1 and not scripts <= _EAST_ASIAN:
        return False
    capitals = any(letter.isupper() and not letter.isascii() for letter in word[1:]) and not word.isupper()
    return not capitals and not (scripts == {"LATIN"} and re.search(r"[^\x00-\x7f]{5}", word))


def _scripts(word: str) -> Iterator[str]:
    for character in word:
        if character.isalpha():
            yield unicodedata.name(character, "?").split()[0]
