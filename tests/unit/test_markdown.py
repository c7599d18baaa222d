"""Answers in Markdown at a terminal: styles as they come, and not a character lost that is no mark."""

import pytest

from deepseek_vl_hf.cli.markdown import BOLD, CODE, MarkdownStyles

ANSWERS = {
    "4": [("", "4")],
    "A **red circle**, `code`.": [("", "A "), (BOLD, "red circle"), ("", ", "), (CODE, "code"), ("", ".")],
    "# Two *words*\n\nnext": [(BOLD, "Two *words*"), ("", "\n\nnext")],
    "- one\n  * **two**\n1. three": [("", "• one\n  • "), (BOLD, "two"), ("", "\n1. three")],
    "```python\nx = a**b  # no **mark**\n- y\n```\nend": [(CODE, "x = a**b  # no **mark**\n- y\n"), ("", "end")],
    "2**3, call(**kwargs), 5 * 3\nand ` alone": [("", "2**3, call(**kwargs), 5 * 3\nand ` alone")],
    "**open": [("", "**open")],
    "--- | *a* | #5 **": [("", "--- | *a* | #5 **")],
    "-": [("", "-")],
    "  indented\n\n": [("", "  indented\n\n")],
    "<|ref|>a_b_c<|/ref|> 图片**里**有": [("", "<|ref|>a_b_c<|/ref|> 图片"), (BOLD, "里"), ("", "有")],
}


def joined(pieces):
    """Neighbors of one style as one."""
    found = []
    for style, text in pieces:
        if found and found[-1][0] == style:
            found[-1] = (style, found[-1][1] + text)
        elif text:
            found.append((style, text))
    return found


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("length", [1, 2, 3, 1000])
def test_styles_do_not_depend_on_the_pieces(answer, length):
    styles = MarkdownStyles()
    shown = [styles.add(answer[start : start + length]) for start in range(0, len(answer), length)]
    assert joined([each for pieces in (*shown, styles.end()) for each in pieces]) == ANSWERS[answer]


def test_plain_text_is_not_held_back():
    styles = MarkdownStyles()
    assert [styles.add(piece) for piece in ("a red", " circle", " and *")] == [
        *([("", "a red")], [("", " circle")]),
        [("", " and ")],
    ]
