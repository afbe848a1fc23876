from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.ops.status.markup import Markup, join, tag


def test_elements_stand_in_each_other() -> None:
    made = tag("p", "a ", tag("b", "b"), [" c", None, Markup("&nbsp;")], class_="x", aria_live="polite", hidden=True)
    assert made == '<p class="x" aria-live="polite" hidden>a <b>b</b> c&nbsp;</p>'


def test_an_attribute_that_is_false_or_none_is_left_out() -> None:
    assert tag("p", title=None, hidden=False, data_number=0) == '<p data-number="0"></p>'


def test_an_element_with_nothing_inside_ends_itself() -> None:
    assert tag("svg", tag("rect", x=1), tag("rect", x=2)) == '<svg><rect x="1"/><rect x="2"/></svg>'


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])))
def test_no_text_leaves_its_element_and_no_value_its_attribute(text: str) -> None:
    reader = Reader()
    reader.feed(tag("p", text, [text], title=text))
    reader.close()
    assert reader.tags == [("p", [("title", text)])]
    assert reader.text == text * 2


def test_what_is_html_already_is_not_escaped_again() -> None:
    assert join(["<", tag("i", "<")]) == "&lt;<i>&lt;</i>"
