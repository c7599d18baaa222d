"""Settings of the documentation site, which `make docs` builds with Sphinx into build/site.

Why Sphinx: it is released several times a year, and warns of everything that leads nowhere: pages, anchors inside of
pages, Python names. `make docs` turns these warnings into errors. Zensical, younger, documents its checks of
references as deprecated in their present form. Furo is the theme: dark and
light, readable on a phone, nothing fetched from other servers. MyST reads the Markdown that the pages are in.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

project = "deepseek_vl_hf"
author = "The deepseek_vl_hf authors"
release = re.findall(r'__version__ = "(.*)"', (ROOT / "src/deepseek_vl_hf/version.py").read_text(encoding="utf-8"))[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_static"]
html_theme = "furo"
html_title = f"deepseek_vl_hf {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# An output or a command is no Python.
highlight_language = "text"

# Of classes that transformers has much to say about, our own words and arguments alone.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = False
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_preprocess_types = False
# Types of other libraries, and ours without a page of their own, are shown and lead nowhere. What a page refers to by a
# role of its own (py:class and the like, with the package's name in front) has to exist.
nitpick_ignore_regex = [(r"py:(class|obj|exc|func|meth|data|attr)", r"(?!deepseek_vl_hf\.[A-Za-z0-9_]+$).*")]

# Links that are right in the repository, and what they are in the site. README.md is its first page; other files
# outside of docs/, which have no page, can be downloaded from it, which Sphinx does by itself.
REWRITTEN = {
    "](../README.md": "](index.md",
    "](../CONTRIBUTING.md": "](contributing.md",
    "](../CHANGELOG.md": "](changelog.md",
}


def rewrite_links(_app, _page: str, source: list[str]) -> None:
    """Changes a page's links before it is read."""
    for old, new in REWRITTEN.items():
        source[0] = source[0].replace(old, new)


def rewrite_included(_app, path: Path, _parent: str, source: list[str]) -> None:
    """Does the same in README.md and CONTRIBUTING.md, which lie above docs/ and link into it."""
    if path.suffix == ".md":
        source[0] = re.sub(r"\]\(docs/", "](", source[0])
        source[0] = (
            source[0].replace("](CONTRIBUTING.md", "](contributing.md").replace("](CHANGELOG.md", "](changelog.md")
        )
        source[0] = re.sub(r"\]\(((?:LICENSE|CITATION|examples|benchmarks|tests|src)[^)]*)\)", r"](../\1)", source[0])


def in_single_backticks(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Docstrings mark code as Markdown does; reStructuredText wants two strokes."""
    lines[:] = [re.sub(r"(?<![`:\w])`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def setup(app) -> None:
    """Connects the functions above."""
    app.connect("source-read", rewrite_links)
    app.connect("include-read", rewrite_included)
    # Before napoleon, which is connected with the usual priority.
    app.connect("autodoc-process-docstring", in_single_backticks, priority=100)
