"""What the training corpus is made of: Debian's documentation packages, page by page. Pure.

The corpus is never shipped, only vectors computed from it are read in training; so documents under
the GPL and the GFDL are here too, beside those whose text travels with the sample.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from typing import Final

_NEXT: Final = re.compile(r"<link\b[^>]*\brel=\"next\"[^>]*>", re.IGNORECASE)
_HREF: Final = re.compile(r"\bhref=\"([^\"#?]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Collection:
    """The pages of one package below `folder`, but for those whose path matches `left_out`."""

    package: str
    folder: str
    licence: str
    copyright: str
    suffix: str = ".html"
    left_out: str = r"$^"

    def chooses(self, file: str) -> bool:
        """Whether a file of the package, by its path inside it, is a page of this collection."""
        return (
            file.startswith(f"{self.folder}/")
            and file.endswith(self.suffix)
            and not re.search(self.left_out, file.removeprefix(self.folder))
        )

    def shelf(self, file: str) -> str:
        """Return the first folder below `folder` that a page lies in: what it is about."""
        return file.removeprefix(f"{self.folder}/").rpartition("/")[0].partition("/")[0]


_INDEXES: Final = (
    r"/(genindex[^/]*|py-modindex|search|index|contents|bookindex|keyword-index)\.html$"
)
_POSTGRESQL: Final = (
    "1996-2026 PostgreSQL Global Development Group; "
    "1994 The Regents of the University of California"
)
COLLECTIONS: Final = (
    Collection(
        "linux-doc-6.1",
        "usr/share/doc/linux-doc-6.1/html",
        "GPL-2.0-only",
        "The Linux kernel developers",
        left_out=rf"^/(translations|_\w+)/|{_INDEXES}",
    ),
    Collection(
        "python3.11-doc",
        "usr/share/doc/python3.11/html",
        "PSF-2.0",
        "2001-2023 Python Software Foundation",
        left_out=rf"^/_\w+/|{_INDEXES}",
    ),
    Collection(
        "postgresql-doc-15",
        "usr/share/doc/postgresql-doc-15/html",
        "PostgreSQL",
        _POSTGRESQL,
        left_out=_INDEXES,
    ),
    Collection(
        "perl-doc",
        "usr/share/perl/5.36.0/pod",
        "Artistic-1.0-Perl OR GPL-1.0-or-later",
        "1987-2022 Larry Wall and others",
        suffix=".pod",
        left_out=r"/perltoc\.pod$",  # the other pages' headings once more
    ),
    Collection(
        "git-doc",
        "usr/share/doc/git-doc",
        "GPL-2.0-only",
        "2005-2022 Linus Torvalds and others",
    ),
    Collection(
        "sqlite3-doc",
        "usr/share/doc/sqlite3",
        "LicenseRef-public-domain",
        "none: public domain, by D. Richard Hipp",
        left_out=r"/(search\.d|syntax)/|/(sitemap|keyword_index|toc|doclist|chronology)\.html$",
    ),
    Collection(
        "debian-handbook",
        "usr/share/doc/debian-handbook/html/en-US",
        "CC-BY-SA-3.0 OR GPL-2.0-or-later",
        "2003-2021 Raphaël Hertzog and Roland Mas",
        left_out=_INDEXES,
    ),
    Collection(
        "debian-policy",
        "usr/share/doc/debian-policy",
        "GPL-2.0-or-later",
        "1996-2022 Ian Jackson, Christian Schwarz and others",
        left_out=rf"/_\w+/|-1\.html$|{_INDEXES}",
    ),
    Collection(
        "debian-reference-en",
        "usr/share/debian-reference",
        "GPL-2.0-or-later",
        "2013-2022 Osamu Aoki",
        left_out=_INDEXES,
    ),
    Collection(
        "developers-reference",
        "usr/share/developers-reference",
        "GPL-2.0-or-later",
        "1997-2022 Christian Schwarz, Adam Di Carlo and others",
        left_out=rf"^/_\w+/|{_INDEXES}",
    ),
    Collection(
        "apache2-doc",
        "usr/share/doc/apache2-doc/manual/en",
        "Apache-2.0",
        "The Apache Software Foundation",
        left_out=r"/(index|quickreference|directives|sitemap)\.html$",
    ),
)


def reading_order(pages: Mapping[str, str]) -> list[str]:
    """Order the files of a collection as a reader would: along their links to the next page.

    `pages` is each file's HTML. Pages without such links, and first pages, go by their names.
    """
    following = {file: link for file, page in pages.items() if (link := _next_page(file, page))}
    led_to = {link for file, link in following.items() if link in pages}
    ordered: dict[str, None] = {}
    for first in (*sorted(pages.keys() - led_to), *sorted(pages)):
        file = first
        while file in pages and file not in ordered:
            ordered[file] = None
            file = following.get(file, "")
    return list(ordered)


def _next_page(file: str, page: str) -> str | None:
    link = _NEXT.search(page)
    href = _HREF.search(link.group()) if link else None
    return normpath(join(dirname(file), href.group(1))) if href else None


def group_pages(
    sizes: Iterable[tuple[str, str, int]], wanted: int
) -> list[tuple[str, Sequence[str]]]:
    """Join pages that follow each other on one shelf until a chain holds `wanted` chunks.

    `sizes` is (shelf, file, chunks) in reading order. A page is never divided, so a long one is a
    chain longer than that; the last pages of a shelf may be a shorter one. Returns (shelf, files).
    """
    groups: list[tuple[str, list[str]]] = []
    filled = 0
    for shelf, file, chunks in sizes:
        if not groups or groups[-1][0] != shelf or filled >= wanted:
            groups.append((shelf, []))
            filled = 0
        groups[-1][1].append(file)
        filled += chunks
    return [(shelf, tuple(files)) for shelf, files in groups]
