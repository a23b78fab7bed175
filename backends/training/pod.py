"""Perl's documents: the prose of a page of POD, Plain Old Documentation (perlpod). Pure."""

import re
from typing import Final

from backends.training.documents import is_prose

_CODE: Final = re.compile(r"[A-Z]<(?:<+ (.*?) >+|([^<>]*))>", re.DOTALL)
_ENTITIES: Final = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}


def extract_pod_paragraphs(page: str) -> list[str]:
    """Read the prose paragraphs of a POD page, in reading order, white space made single.

    Headings, indented listings, `=for` and `=begin` blocks are left out; formatting codes are
    replaced by what they format, a link by its text.
    """
    page = re.sub(r"^=begin\b.*?^=end\b[^\n]*$", "", page, flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n\s*\n", page)
    plain = (_plain(block) for block in blocks if not re.match(r"[=\s]", block))
    return [" ".join(text.split()) for text in plain if is_prose(text)]


def _plain(text: str) -> str:
    while (replaced := _CODE.sub(_formatted, text)) != text:
        text = replaced
    return text


def _formatted(match: re.Match[str]) -> str:
    content = match.group(1) or match.group(2) or ""
    match match.group()[0]:
        case "L":
            return content.partition("|")[0].replace("/", " ")
        case "E":
            return _ENTITIES.get(content, "")
        case "X" | "Z":
            return ""
    return content
