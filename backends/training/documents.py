"""Real documents: Debian's documentation packages, and the prose inside their HTML pages.

A package is fetched with `apt-get download` and unpacked with `dpkg-deb --extract`: nothing is
installed and nothing of it runs. Its pages are read by the standard library's parser. A paragraph
is the text between two block tags; navigation, headings, tables and listings are left out, and so
is any paragraph that reads like none (a signature, a label, a line of symbols). What remains can
be read aloud in order.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(
    "address|article|aside|blockquote|body|br|center|d[dlt]|details|div|figure|footer|h[1-6]|header"
    "|hr|li|main|nav|[ou]l|p|pre|section|table|tbody|t[dhr]"
)
_LEFT_OUT: Final = re.compile(
    "dt|figure|footer|h[1-6]|head|header|nav|pre|script|select|style|svg|table"
)
_LEFT_OUT_CLASSES: Final = re.compile(  # Sphinx and its themes, then SQLite, PostgreSQL, Apache
    r"\b(sphinxsidebar|related|headerlink|versionadded|wy-nav-side|wy-nav-top|toc\w*"
    r"|fancy[-_]toc\d?|nosearch|menu\w*|navheader|navfooter|synopsis"
    r"|toplang|bottomlang|up|path|qv|copyright)\b"
)
_VOID: Final = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr")
_MIN_WORDS: Final = 6
_MIN_LETTERS: Final = 0.72
_LONG_WORDS: Final = 12
"""From here on a paragraph may break off, where a listing that is left out ended its sentence."""
_ENDS: Final = (".", ":", ";", "!", "?", ")", '"', "'", "\u2019", "\u201d")


class DocumentError(Exception):
    """A package or a page that cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """An unpacked Debian package: where it lies, and which version it is."""

    name: str
    version: str
    root: Path


def fetch(name: str, directory: Path) -> Package:
    """Unpack a package below `directory`, downloading it unless its .deb already lies there.

    Raises DocumentError: no apt-get or dpkg-deb here, no such package, or a damaged archive.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (archives := sorted(directory.glob(f"{name}_*.deb"))):
        _run("apt-get", "download", name, within=directory)
        archives = sorted(directory.glob(f"{name}_*.deb"))
    if len(archives) != 1:
        raise DocumentError(
            f"{directory} holds {len(archives)} archives of {name}: leave the one to read"
        )
    root = directory / name
    version = _run("dpkg-deb", "--field", str(archives[0]), "Version", within=directory).strip()
    _run("dpkg-deb", "--extract", str(archives[0]), str(root), within=directory)
    return Package(name, version, root)


def _run(command: str, *arguments: str, within: Path) -> str:
    executable = shutil.which(command)
    if executable is None:
        raise DocumentError(
            f"{command} is not on this machine: the documents come from Debian packages, so run "
            "this on Debian 12 (a container will do)"
        )
    done = subprocess.run(  # noqa: S603 - the arguments are our own table's
        [executable, *arguments],
        cwd=within,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise DocumentError(
            f"`{command} {' '.join(arguments)}` failed: {words[-1] if words else 'it said nothing'}"
            "; run `apt-get update` first, on Debian 12"
        )
    return done.stdout


def read_paragraphs(package: Package, files: tuple[str, ...]) -> list[str]:
    """Read the prose of a document whose pages are `files`, in this order.

    Raises DocumentError when a page is not in the package.
    """
    paragraphs: list[str] = []
    for file in files:
        try:
            page = (package.root / file).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise DocumentError(
                f"{package.name} {package.version} has no {file}: has the package changed? Name "
                "the new file in backends/training/sample.py"
            ) from None
        paragraphs.extend(extract_paragraphs(page))
    return paragraphs


def extract_paragraphs(page: str) -> list[str]:
    """Read the prose paragraphs of an HTML page, in reading order, white space made single."""
    parser = _Paragraphs()
    parser.feed(page)
    parser.close()
    parser.end_paragraph()
    return [paragraph for paragraph in parser.paragraphs if is_prose(paragraph)]


def is_prose(text: str) -> bool:
    """Whether a paragraph can be read as sentences: enough words, and mostly letters."""
    words = text.split()
    letters = sum(character.isalpha() for character in text)
    solid = sum(len(word) for word in words)
    ended = len(words) >= _LONG_WORDS or text.endswith(_ENDS)
    return len(words) >= _MIN_WORDS and letters >= _MIN_LETTERS * solid and ended


class _Paragraphs(HTMLParser):
    """Collects the text between block tags, outside the elements that are left out.

    Pages in the wild leave paragraphs and list items open, so no tree is built: an element that
    is left out ends where as many of its own tag have closed as have opened.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._text: list[str] = []
        self._skipped = ""
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
            return
        if _BLOCK.fullmatch(tag):
            self.end_paragraph()
        names = " ".join(value or "" for name, value in attrs if name in {"class", "id", "role"})
        left_out = _LEFT_OUT.fullmatch(tag) or _LEFT_OUT_CLASSES.search(names)
        if left_out and not _VOID.fullmatch(tag):
            self._skipped, self._depth = tag, 1

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = ""
        elif _BLOCK.fullmatch(tag):
            self.end_paragraph()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(data)

    def end_paragraph(self) -> None:
        """Close the paragraph that was being read, if it holds any text."""
        text = " ".join("".join(self._text).replace("¶", " ").split())
        if text:
            self.paragraphs.append(text)
        self._text.clear()
