"""How people are addressed: one spelling everywhere, and nothing that sends them to a stranger's package."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stems, where the American form differs: color, gray, neighbor, behavior, favor, center, learned, catalog, artifact ...
BRITISH = re.compile(
    r"colour|\bgrey|neighbour|behaviour|favour|flavour|honour|labour|centre|centring|learnt|spelt|burnt|catalogue|artefact"
    r"|defence|licence|programme\b|judgement|whilst|fulfil\b|grammes?\b|(label|cancel|model|travel|signal|channel|level)l(ed|ing)\b"
    r"|(normal|initial|material|orthogonal|token|recogn|organ|optim|summar|util|general|special|serial|synchron|minim|maxim"
    r"|emphas|quant|visual|vector|standard|categor|author|equal|parallel|stabil|memor|anonym|custom|random|real)is(e|ing|ation)"
    r"|analys(e[dr]?|ing)\b",
    re.IGNORECASE,
)
# What nano was taught to read (examples/nano/questions.py), keys of stored results, and this file.
ALLOWED = {
    "benchmarks/training_memory.py": {"learnt"},
    "benchmarks/training_rows.py": {"learnt"},
    "examples/nano/questions.py": {"colour"},
    "tests/integration/test_chat.py": {"colour"},
    "tests/integration/test_nano_recipe.py": {"colour"},
}
KINDS = (".py", ".md", ".toml", ".j2", ".yml", ".yaml", ".cff", ".css", ".ipynb")


def texts():
    """Path and text of every file that people read or write; stored figures and fixtures are left out."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    names = [name for name in listed if name.endswith(KINDS) or name == "Makefile"]
    if not names:
        pytest.skip("this is no clone, so nothing tells which files belong to the project")
    for name in names:
        if "fixtures/" not in name and (ROOT / name).is_file() and ROOT / name != Path(__file__):
            yield name, (ROOT / name).read_text(encoding="utf-8")


def test_spelling_is_american():
    found = [
        f"{name}: {word}"
        for name, text in texts()
        for word in sorted(set(re.findall("[a-z]+", text.lower())))  # each word once: searching the whole takes seconds
        if BRITISH.search(word) and word not in ALLOWED.get(name, ())
    ]
    assert found == []


def test_the_spelling_check_sees_british_forms():
    words = "Colours grey neighbouring unrecognised normalisation analysed cancelled initialise learnt centred"
    assert len(BRITISH.findall(words)) == len(words.split())
    assert BRITISH.findall("colors gray raised otherwise modeling noise canceled promise tokenizes analysis") == []


def test_nobody_is_sent_to_the_name_on_the_package_index():
    """It does not belong to this project; from a clone the extras are called `.[train]`."""
    wrong = re.compile(r"""install\s[^\n`]*?(?<![/\w])deepseek[-_]vl[-_]hf(?=[\[\s'"`>=]|$)""")
    assert [(name, match.group()) for name, text in texts() for match in wrong.finditer(text)] == []
    assert wrong.search("pip install 'deepseek-vl-hf[train]'")


def test_what_errors_ask_to_install_is_what_the_metadata_says():
    asked = [
        wanted
        for name, text in texts()
        if name.startswith("src/")
        for line in re.findall(r"pip install (.*)", text)
        for wanted in re.findall(r"'([a-z-]+>=[\d.]+)'", line)
    ]
    assert {"gradio>=6", "peft>=0.18", "datasets>=4"} <= set(asked)
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{wanted}"' in metadata for wanted in asked), asked
