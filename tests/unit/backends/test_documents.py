"""Only prose is read from a page, and a package that cannot be had is explained."""

import shutil
from pathlib import Path

import pytest

from backends.training.documents import (
    DocumentError,
    Package,
    extract_paragraphs,
    fetch,
    read_paragraphs,
)
from backends.training.sample import DOCUMENTS, choose_chunks

PAGE = """<html><head><title>A title that is long enough to be prose.</title></head><body>
<nav><p>Home is where you can read about all of our products.</p></nav>
<div class="sphinxsidebar"><div><p>This sidebar is a nested box of plain words.</p></div></div>
<h1>A heading that could be read as a sentence.</h1>
<p>The <code>open()</code> function opens a
   file &amp; returns it.
<p>This paragraph was never closed, as is common.
<ul><li>An item of a list that reads as prose.<li>Short one.</ul>
<pre>x = this is code, which nobody would read aloud as prose.</pre>
<table><tr><td>A cell of a table can also hold a whole sentence.</td></tr></table>
<p>0x10 == 16; 0x20 == 32; {a} | {b} | {c} &lt;&gt; [d] = %s.</p>
<p>No sentence ends in these six words</p>
<script>var text = "a script is never read as a sentence.";</script>
</body></html>"""


def test_prose_is_read_and_navigation_headings_code_and_tables_are_not() -> None:
    assert extract_paragraphs(PAGE) == [
        "The open() function opens a file & returns it.",
        "This paragraph was never closed, as is common.",
        "An item of a list that reads as prose.",
    ]


def test_a_page_that_is_gone_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"some-doc 1\.2 has no gone\.html"):
        read_paragraphs(Package("some-doc", "1.2", tmp_path), ("gone.html",))


def test_without_apt_get_the_error_says_where_this_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DocumentError, match=r"apt-get is not on this machine.*Debian 12"):
        fetch("some-doc", tmp_path)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt-get")
def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no-such-package.*run `apt-get update` first"):
        fetch("no-such-package-of-turnout", tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="this machine has no dpkg-deb")
def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "some-doc_1_all.deb").write_bytes(b"no archive")
    with pytest.raises(DocumentError, match=r"dpkg-deb --field .*some-doc_1_all\.deb"):
        fetch("some-doc", tmp_path)


def test_two_versions_of_a_package_leave_no_choice(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"some-doc_{version}_all.deb").touch()
    with pytest.raises(DocumentError, match="holds 2 archives of some-doc"):
        fetch("some-doc", tmp_path)


def test_a_chunk_that_an_earlier_chain_holds_is_left_out() -> None:
    seen: set[str] = set()
    assert choose_chunks(["a", "b", "A", "c"], seen, 2) == ["a", "b"]
    assert choose_chunks(["b", "c", "d"], seen, 2) == ["c", "d"]


def test_every_document_states_its_licence() -> None:
    assert len(DOCUMENTS) == 12
    assert all(document.licence and document.copyright for document in DOCUMENTS)
