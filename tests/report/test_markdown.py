"""Parts of pages between marks."""

import pytest

from smoothcert.errors import InvalidArgumentError
from smoothcert.report.markdown import marks, replace_part

START, END = MARKS = marks("table", "python -m src.report table=table")
OTHER = marks("other", "python -m src.report table=other")


@pytest.fixture
def page(tmp_path):
    return tmp_path / "page.md"


def test_the_marks_are_comments_that_name_the_command():
    assert MARKS == (
        "<!-- table: python -m src.report table=table -->",
        "<!-- end of table -->",
    )


@pytest.mark.parametrize("old", ["", "\nold\n", "\n\n| a |\n\n", "x" * 5000])
def test_only_what_stands_between_the_marks_is_replaced(page, old):
    page.write_text(f"# Täble\r\n{START}{old}{END}\nafter ✓", newline="")
    replace_part(page, MARKS, "| b |\n")
    assert page.read_text() == f"# Täble\n{START}\n\n| b |\n\n{END}\nafter ✓"


def test_replacing_twice_is_replacing_once(page):
    page.write_text(f"{START}\n{END}\n")
    replace_part(page, MARKS, "| b |\n")
    once = page.read_bytes()
    replace_part(page, MARKS, "| b |\n")
    assert page.read_bytes() == once


def test_the_parts_of_a_page_do_not_touch_each_other(page):
    page.write_text(f"{OTHER[0]}\n1\n{OTHER[1]}\n{START}\n2\n{END}\n{OTHER[0]}")
    replace_part(page, MARKS, "3\n")
    assert page.read_text() == f"{OTHER[0]}\n1\n{OTHER[1]}\n{START}\n\n3\n\n{END}\n{OTHER[0]}"


@pytest.mark.parametrize(
    "text", ["", "text", START, END, f"{END}\n{START}", f"{START}\n{OTHER[1]}", START[:-1] + END]
)
def test_a_page_without_both_marks_in_order_is_refused_and_stays(page, text):
    page.write_text(text)
    with pytest.raises(InvalidArgumentError, match=f"Expected the marks {START} and {END} in"):
        replace_part(page, MARKS, "new")
    assert page.read_text() == text
    assert [path.name for path in page.parent.iterdir()] == ["page.md"]
