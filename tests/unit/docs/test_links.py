import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md")
PAGES = [ROOT / name for name in OUTSIDE] + sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    dead = [link for link in local_links(page) if not leads_somewhere(page, link)]
    assert not dead


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in local_links(ROOT / "README.md")}
    assert set(PAGES) - linked == {ROOT / "README.md"}


def test_a_dead_link_would_be_found() -> None:
    assert not leads_somewhere(ROOT / "README.md", "docs/nowhere.md")
    assert not leads_somewhere(ROOT / "README.md", "docs/operations.md#nothing-of-this-name")
    assert leads_somewhere(ROOT / "README.md", "docs/operations.md#parked-rows")


def local_links(page: Path) -> Iterator[str]:
    links = LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return (link for link in links if not link.startswith(("https://", "http://", "mailto:")))


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
