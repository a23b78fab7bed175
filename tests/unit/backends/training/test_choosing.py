"""What a corpus is made of: pages in reading order, nothing held out, no text twice."""

from pathlib import Path

from backends.training.build import Page, choose_chains
from backends.training.copies import runs_of, share_copied
from backends.training.documents import Package
from backends.training.pod import extract_pod_paragraphs
from backends.training.sources import COLLECTIONS, Collection, group_pages, reading_order

COLLECTION = Collection("doc", "usr/doc", "CC0-1.0", "nobody", left_out=r"^/_\w+/")
PACKAGE = Package("doc", "1", Path("/nowhere"))


def sentences(topic: str, count: int) -> tuple[str, ...]:
    return tuple(
        f"the {topic} {i} is one {topic} {i} of many {topic} {i} here" for i in range(count)
    )


def test_pages_are_read_along_their_links_and_the_rest_by_name() -> None:
    pages = {
        "a/z.html": '<link rel="next" title="b" href="b.html" />',
        "a/b.html": '<LINK REL="next" href="../c/d.html#top">',
        "c/d.html": "the end",
        "a/a.html": "alone",
    }
    assert reading_order(pages) == ["a/a.html", "a/z.html", "a/b.html", "c/d.html"]


def test_pages_whose_links_run_in_a_circle_are_each_read_once() -> None:
    pages = {name: f'<link rel="next" href="{to}">' for name, to in (("a", "b"), ("b", "a"))}
    assert sorted(reading_order(pages)) == ["a", "b"]


def test_short_pages_of_a_shelf_join_and_a_long_one_stays_whole() -> None:
    sizes = [("x", "1", 300), ("x", "2", 400), ("x", "3", 5), ("y", "4", 2000), ("y", "5", 3)]
    assert group_pages(sizes, 600) == [
        ("x", ("1", "2")),
        ("x", ("3",)),
        ("y", ("4",)),
        ("y", ("5",)),
    ]


def test_a_collection_takes_its_own_pages_alone() -> None:
    assert COLLECTION.chooses("usr/doc/a/b.html")
    assert not COLLECTION.chooses("usr/doc/_static/b.html")
    assert not COLLECTION.chooses("usr/doc/a/b.txt")
    assert not COLLECTION.chooses("usr/docs/b.html")
    assert COLLECTION.shelf("usr/doc/a/c/b.html") == "a"
    assert COLLECTION.shelf("usr/doc/b.html") == ""


def test_every_source_names_its_licence_and_its_owner() -> None:
    assert all(collection.licence and collection.copyright for collection in COLLECTIONS)


def test_held_out_pages_their_near_copies_and_repeated_texts_are_left_out() -> None:
    held_out = sentences("whale", 20)
    copied = (*sentences("otter", 10), *held_out[:8])
    pages = [
        Page(file="held.html", shelf="", chunks=held_out),
        Page(file="copy.html", shelf="", chunks=copied),
        Page(file="own.html", shelf="", chunks=(*sentences("heron", 30), held_out[3])),
        Page(file="same.html", shelf="", chunks=sentences("Heron", 30)),
        Page(file="short.html", shelf="s", chunks=sentences("newt", 6)),
    ]
    said: list[str] = []
    chains = choose_chains(
        [(COLLECTION, PACKAGE, pages)], {"held.html": list(held_out)}, said.append
    )
    assert [chain.source.files for chain in chains] == [("own.html", "same.html")]
    assert chains[0].chunks == sentences("heron", 30)
    assert chains[0].source.licence == "CC0-1.0"
    assert said[0] == "left out doc: held.html (held out)"
    assert "copy.html" in said[1]


def test_runs_are_compared_without_case_and_punctuation() -> None:
    runs = runs_of(["One, two three: four five six."])
    assert share_copied(["ONE TWO THREE FOUR FIVE"], runs) == 1
    assert share_copied(["one two three four seven"], runs) == 0
    assert share_copied([], runs) == 0


def test_pod_gives_its_prose_without_codes_listings_and_headings() -> None:
    page = (
        "=head1 NAME\n\nThe C<open> function opens the B<file I<name>> that you give to it, see "
        "L<perlfunc|perldoc/open>.\n\n    my $listing = 1;\n\n=begin html\n\nThis is not for "
        "reading aloud, but for a browser to show.\n\n=end html\n\nIt is E<lt>true that "
        "C<< a < b >> may be written like this too.\n"
    )
    assert extract_pod_paragraphs(page) == [
        "The open function opens the file name that you give to it, see perlfunc.",
        "It is <true that a < b may be written like this too.",
    ]
