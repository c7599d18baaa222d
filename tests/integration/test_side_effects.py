"""What importing the package must not change: each program gives the same with and without the import."""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

import deepseek_vl_hf
from family import FIXTURES
from forked import python

# DeepSeek-OCR-2 and others have DeepSeek-VL2's model type, and come with code of their own, as here.
CODE = """
from transformers import PreTrainedConfig, PreTrainedModel
import torch

class ReaderConfig(PreTrainedConfig):
    model_type = "deepseek_vl_v2"

class Reader(PreTrainedModel):
    config_class = ReaderConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
"""
OTHERS_PROGRAM = """
import json, sys
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer
IMPORT
found = {}

def note(name, function):
    try:
        found[name] = function()
    except Exception as error:
        found[name] = [type(error).__name__, "trust_remote_code" in str(error)]

for number, folder in enumerate(sys.argv[1:]):
    for trust in (True, False):
        options, name = {"trust_remote_code": trust}, f"{number} {trust}"
        note(f"config {name}", lambda: type(AutoConfig.from_pretrained(folder, **options)).__name__)
        note(f"model {name}", lambda: type(AutoModel.from_pretrained(folder, **options)).__name__)
        note(f"tokenizer {name}", lambda: type(AutoTokenizer.from_pretrained(folder, **options)).__name__)
        note(f"ids {name}", lambda: AutoTokenizer.from_pretrained(folder, **options)("a <image> b")["input_ids"])
        note(f"processor {name}", lambda: type(AutoProcessor.from_pretrained(folder, **options)).__name__)
print(json.dumps(found))
"""
PORT_PROGRAM = """
import hashlib, json, pathlib, sys, torch
from transformers import AutoConfig
from transformers.models.deepseek_vl import DeepseekVLConfig, DeepseekVLForConditionalGeneration
from transformers.models.deepseek_vl_hybrid import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration
IMPORT
folder, found = pathlib.Path(sys.argv[1]), {}

def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

for name, config_class, model_class in (
    ("vl", DeepseekVLConfig, DeepseekVLForConditionalGeneration),
    ("vl_hybrid", DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration),
):
    torch.manual_seed(0)
    model = model_class(config_class.from_pretrained(sys.argv[2 if name == "vl" else 3]))
    model.save_pretrained(folder / name)
    found[name] = {path.name: digest(path) for path in sorted((folder / name).glob("*.safetensors"))}
    found[name]["ignored"] = sorted(model._keys_to_ignore_on_load_unexpected)
    loaded, report = model_class.from_pretrained(folder / name, output_loading_info=True)
    found[name]["report"] = {key: sorted(map(str, value)) for key, value in report.items()}
    loaded.save_pretrained(folder / (name + "_again"))
    found[name]["again"] = [digest(path) for path in sorted((folder / (name + "_again")).glob("*.safetensors"))]
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    ids = torch.full((1, 6), 5)
    losses = []
    for _ in range(2):
        loss = loaded(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found[name]["losses"] = losses
    found[name]["attention"] = loaded.config.text_config._attn_implementation
print(json.dumps(found))
"""


def run(program: str, *arguments: object, imported: bool) -> dict:
    """What a program prints, with or without the package."""
    text = program.replace("IMPORT", "import deepseek_vl_hf" if imported else "")
    result = python("-c", text, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def reader(folder, *, architecture: str, code: bool):
    """A checkpoint that has DeepSeek-VL2's model type and is of another model."""
    shutil.copytree(FIXTURES / "vl2_mha" / "checkpoint", folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = {
        "model_type": "deepseek_vl_v2",
        "architectures": [architecture],
        "vision_config": {"model_name": "deeplip_b_l", "model_type": "vision"},
        **({"auto_map": {"AutoConfig": "reading.ReaderConfig", "AutoModel": "reading.Reader"}} if code else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    if code:
        (folder / "reading.py").write_text(CODE)
        weights = {"layer.weight": torch.zeros(2, 2), "layer.bias": torch.zeros(2)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_other_models_of_our_model_type(tmp_path):
    """With code of their own, and without."""
    folders = [
        reader(tmp_path / "other", architecture="ReaderForCausalLM", code=True),
        reader(tmp_path / "ocr2", architecture="DeepseekOCR2ForCausalLM", code=True),
        reader(tmp_path / "bare", architecture="DeepseekOCR2ForCausalLM", code=False),
    ]
    plain = run(OTHERS_PROGRAM, *folders, imported=False)
    assert run(OTHERS_PROGRAM, *folders, imported=True) == plain
    assert [plain[f"config {number} True"] for number in range(3)] == [*["ReaderConfig"] * 2, ["ValueError", False]]
    assert plain["model 0 True"] == "Reader"
    assert plain["config 0 False"] == ["ValueError", True]
    assert len(plain["ids 2 True"]) > 1


def test_what_is_ours_is_so_whether_code_is_trusted_or_not(families):
    for trust in (True, False):
        for name, expected in (
            ("vl2_mha", deepseek_vl_hf.DeepseekVL2Config),
            ("deepseek_ocr", deepseek_vl_hf.DeepseekOCRConfig),
        ):
            config = AutoConfig.from_pretrained(families[name].original, trust_remote_code=trust)
            assert type(config) is expected


def test_transformers_own_classes(families, tmp_path):
    configs = [families[name].converted for name in ("vl", "vl_hybrid")]
    plain = run(PORT_PROGRAM, tmp_path / "plain", *configs, imported=False)
    assert run(PORT_PROGRAM, tmp_path / "imported", *configs, imported=True) == plain
    assert plain["vl"]["losses"][1] < plain["vl"]["losses"][0]
