"""One door to what other libraries do not promise: it is all in `hf/`, listed there, and still there."""

import ast
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers.cache_utils import DynamicLayer
from transformers.image_processing_utils import BaseImageProcessor
from transformers.quantizers import HfQuantizer

import deepseek_vl_hf
from deepseek_vl_hf.hf.private import CONTRACT, CONTRACT_OF_ENGINES, NOT_FROM, TOUCHES
from deepseek_vl_hf.hf.versions import INSTALLED

ROOT = Path(deepseek_vl_hf.__file__).parent
HF = ROOT / "hf"
LIBRARIES = ("transformers", "torch", "torchao", "accelerate")
# Modules whose names are documented; all others are taken for private ones.
PUBLIC_MODULES = {
    *("transformers", "transformers.activations", "transformers.generation", "transformers.generation.streamers"),
    *("transformers.image_processing_utils", "transformers.image_utils", "transformers.modeling_outputs"),
    *("transformers.processing_utils", "transformers.quantizers", "transformers.utils"),
    *(
        "torch",
        "torch.nn",
        "torch.nn.utils.rnn",
        "torch.utils.checkpoint",
        "torch.utils.data",
        "torch.distributed.fsdp",
        "accelerate",
        "accelerate.utils",
    ),
}
# Classes of the libraries that ours inherit; a method of ours with the name of a private one would replace it.
BASES = (
    transformers.PreTrainedModel,
    transformers.GenerationMixin,
    transformers.PreTrainedConfig,
    transformers.ProcessorMixin,
    transformers.DynamicCache,
    DynamicLayer,
    BaseImageProcessor,
    HfQuantizer,
    torch.Tensor,
)
PRIVATE_OF_BASES = {
    name for base in BASES for name in dir(base) if name.startswith("_") and not name.startswith("__")
} - CONTRACT


def files(inside: bool) -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if (HF in path.parents) == inside]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


SELVES = ("self", "cls")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def own_names(tree: ast.Module) -> set[str]:
    """What a file defines or assigns itself; of attributes those that objects set on themselves."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in SELVES:
            names.add(node.attr)
    return names


def imported(tree: ast.Module) -> list[tuple[str, str]]:
    """(module, name) of what comes from the libraries."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return [(node.module, alias.name) for node in nodes if root(node.module) in LIBRARIES for alias in node.names]


def root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def is_module(text: str) -> bool:
    """Whether a dotted name is a module of a library whose modules are not all documented, as torch's are."""
    return root(text) in LIBRARIES and root(text) != "torch" and text in sys.modules


def violations(tree: ast.Module) -> list[str]:
    """What a file outside of the room must not do."""
    own = own_names(tree)
    hidden = [pair for pair in imported(tree) if pair[0] not in PUBLIC_MODULES or private(pair[1])]
    found = [f"imports {module}.{name}" for module, name in hidden]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names if root(alias.name) in LIBRARIES}
            found += [f"imports {module}" for module in modules - PUBLIC_MODULES]
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if private(node.attr) and node.attr not in own | CONTRACT:
                found.append(f"touches {text}")
            if text == "transformers.__version__" or (is_module(text) and text not in PUBLIC_MODULES):
                found.append(f"reads {text}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            found += [f"asks for {name}"] if private(name) and name not in own | CONTRACT else []
        elif isinstance(node, ast.ClassDef):
            found += [f"replaces {name}" for name in class_names(node) if name in PRIVATE_OF_BASES]
    return found


def class_names(node: ast.ClassDef) -> set[str]:
    """Methods and attributes that a class body defines, and attributes that its methods set on themselves."""
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)}
    for child in ast.walk(node):
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            names |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
    return names


@pytest.mark.parametrize("path", files(inside=False), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_private_outside_of_the_room(path):
    assert violations(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from transformers.models.llama.modeling_llama import LlamaRMSNorm",
        "from transformers.core_model_loading import Chunk",
        "from torchao.prototype.quantization.int4 import Int4OpaqueTensor",
        "import accelerate.hooks",
        "def f(config): return config._attn_implementation",
        "def f(config): config._attn_implementation = 'sdpa'",
        "def f(config): return getattr(config, '_attn_implementation', None)",
        "def f(model):\n    model._weight_conversions = []\n    return model._weight_conversions",
        "import transformers\ntransformers.core_model_loading.Chunk",
        "class Model:\n    async def _init_weights(self, module): pass",
        "torch.ops.mkldnn._reorder_linear_weight(weight, 1)",
        "if transformers.__version__ > '5.20': pass",
        "class Model:\n    def _init_weights(self, module): pass",
        "class Model:\n    def f(self):\n        self._weight_conversions, self._keep_in_fp32_modules = None, None\n"
        "        self._keep_in_fp32_modules = []",
    ],
)
def test_the_checker_sees_violations(line):
    assert violations(ast.parse(line))


def test_the_room_imports_nothing_of_ours():
    for path in files(inside=True):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{path.name} imports from outside of hf/"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not [name for name in names if root(name) == "deepseek_vl_hf"], path.name


# Every part of a listed name.
LISTED = {part for touches in TOUCHES.values() for name in touches for part in name.split(".")} | CONTRACT_OF_ENGINES


@pytest.mark.parametrize("path", files(inside=True), ids=lambda path: path.name)
def test_every_touch_is_listed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = own_names(tree) - PRIVATE_OF_BASES
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and private(node.attr)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and private(node.name)}
    names |= {name for module, name in imported(tree) if module not in PUBLIC_MODULES}
    assert names - own - CONTRACT <= LISTED | SET_BY_LISTED, names - own - LISTED


# What a listed function of a library reads from models, and where a listed class keeps them.
SET_BY_LISTED = {"_weight_conversions", "_skip_keys_device_placement", "_model_manager"}


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, touches in TOUCHES.items() for name in touches], ids=lambda each: each
)
def test_is_still_there(file, name):
    if name in NOT_FROM and Version(NOT_FROM[name]) <= INSTALLED:
        pytest.skip(f"not touched from transformers {NOT_FROM[name]} on")
    if importlib.util.find_spec(root(name)) is None:
        pytest.skip(f"{root(name)} is not installed")
    resolve(name)
    assert (HF / f"{file}.py").is_file()


def resolve(name: str) -> object:
    """The object of a dotted name; raises AttributeError or ImportError that says what is gone."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            declared = isinstance(found, type) and part in inspect.get_annotations(found)
            found = found if declared else inspect.getattr_static(found, part, None) or getattr(found, part)
        return found
    raise ImportError(f"{name} is gone")


def test_a_name_that_is_gone_is_named():
    with pytest.raises(AttributeError, match="_no_such_name"):
        resolve("transformers.PreTrainedModel._no_such_name")
