"""The structure of the package: who imports whom, and what is never imported."""

import ast
import re
import sys
from pathlib import Path

import pytest

import deepseek_vl_command
import deepseek_vl_hf
from packages import FORBIDDEN, OPTIONAL

ROOT = Path(deepseek_vl_hf.__file__).parent
REPOSITORY = ROOT.parent.parent
LAUNCHER = Path(deepseek_vl_command.__file__).parent

# Lower layers first; a module may import modules of its own layer or of lower ones.
LAYERS = (
    ("version", "devices", "kinds", "program", "hf"),
    ("cpu.dtypes", "nano", "conversation.chat_templates", "models.grounding"),
    ("pictures", "models.deepseek_vl2.tiling", "models.deepseek_ocr.views"),
    (
        "conversation",
        "models.fusion",
        "models.positions",
        "models.grid_attention",
        "models.sam",
        "models.deepseek_ocr.clip",
        "models.checks",
        "models.deepseek_ocr.image_inputs",
        "models.weights",
        "models.rotary",
        "models.encoding",
        "models.recomputation",
        "models.sub_configs",
        "models.family_config",
        "models.pretrained",
        "models.generation",
        "models.logits",
        "models.repetition",
        "models.sampling",
        "models.steps",
    ),
    ("models.deepseek_moe",),
    ("cpu",),
    ("configuration",),
    ("image_processing_deepseek",),
    ("processing_deepseek", "modeling"),
    ("models.families", "models.language_view", "models.original_calls"),
    (
        "checkpoints.layouts.files",
        "checkpoints.layouts.generation_file",
        "checkpoints.layouts.small_files",
        "checkpoints.layouts.rules",
        "quantization",
        "training.lora",
        "chat",
    ),
    ("checkpoints.tensors", "checkpoints.layouts"),
    ("checkpoints.loading", "checkpoints.conversion"),
    ("checkpoints", "ocr"),
    ("registration",),
    ("serving", "training", "evaluation", "original"),
    ("cli",),
    ("__main__",),
)
# Modules that need an optional package, and are imported only when it is: never at the top of others.
NEEDING = {
    "hf.torchao": {"torchao"},
    "quantization.tensors": {"torchao"},
    "quantization.operations": {"torchao"},
    "chat.page": {"gradio"},
    "serving.door": {"starlette"},
    "serving.vllm_settings": {"vllm"},
    "serving.vllm_models": {"vllm"},
    "serving.vllm_renderer": {"vllm"},
    "evaluation.lmms_model": {"lmms_eval", "loguru"},
}
MODULES = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py"]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def layer(module: str) -> int:
    """Position of a module in LAYERS, by its place or by the beginning of its file's name."""
    for number, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + ".") or module.rpartition(".")[2].startswith(name + "_"):
                return number
    raise AssertionError(f"{module} has no layer; add it to LAYERS and to docs/architecture.md")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute name of an imported module of ours or package, at the top of the file) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = [*path.relative_to(ROOT.parent).parent.parts]
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            ours = [name for name in submodules if is_module(name)]
            found += [(name, top) for name in (ours or [module])]
    return found


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file()


def family(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "models" and len(parts) > 2 and parts[1] != "deepseek_moe" else None


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_down(path):
    module = dotted(path)
    for name, _ in imports(path):
        if not name.startswith("deepseek_vl_hf."):
            continue
        imported = name.removeprefix("deepseek_vl_hf.")
        assert layer(imported) <= layer(module), f"{module} imports {imported}"
        if family(module) and family(imported):
            assert family(imported) == family(module), f"{module} imports another family's {imported}"
        pair = {part.rpartition(".")[2].partition("_deepseek")[0] for part in (module, imported)}
        assert pair != {"processing", "modeling"}, f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_forbidden_and_optional_packages(path):
    module = dotted(path)
    for name, top in imports(path):
        needed = NEEDING.get(name.removeprefix("deepseek_vl_hf."), {name.partition(".")[0]})
        assert not needed & FORBIDDEN, f"{module} imports {name}"
        assert not (top and needed & OPTIONAL - NEEDING.get(module, set())), f"{module} imports {name} at the top"


def test_the_checker_sees_imports():
    """Guards the checks above: they must not pass because nothing was found."""
    modeling = ROOT / "models" / "deepseek_vl" / "modeling_deepseek_vl.py"
    names = {name for name, _ in imports(modeling)}
    assert {"torch", "deepseek_vl_hf.models.steps", "deepseek_vl_hf.models.checks"} <= names
    assert layer("models.deepseek_vl.modeling_deepseek_vl") > layer("models.fusion")


def test_the_launcher_imports_the_standard_library_alone():
    """It loads the package by the name of a command; of the package only the commands and `python -m` know it."""
    allowed = {*sys.stdlib_module_names, LAUNCHER.name}
    for path in LAUNCHER.rglob("*.py"):
        assert {name.partition(".")[0] for name, _ in imports(path)} <= allowed, path.name
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    importing = [
        path for path in ROOT.rglob("*.py") if LAUNCHER.name in {name.split(".")[0] for name, _ in imports(path)}
    ]
    assert {path.relative_to(ROOT).parts[0] for path in importing} == {"cli", "program.py"}


def test_chat_templates_import_nothing():
    assert imports(ROOT / "conversation" / "chat_templates.py") == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_commands_print():
    for path in (path for path in MODULES if not dotted(path).startswith("cli.")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        assert not [call for call in calls if call.func.id == "print"], dotted(path)


def test_the_map_of_the_code_shows_every_file():
    """docs/architecture.md; families' files and commands are named together there."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    together = ("configuration_", "image_processing_", "processing_", "modeling_")
    names = {path.name for path in MODULES if not (path.name.startswith(together) or dotted(path).startswith("cli."))}
    assert names - set(re.findall(r"\w+\.py", text)) == set()
    for room in {path.parent.name for path in MODULES}:
        assert f"{room}/" in text, room
