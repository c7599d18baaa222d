"""The package as a plugin of vLLM, which calls `register` in each of its processes, as pyproject.toml tells it to.

vLLM's Transformers backend runs a model's own code with the engine's layers in the places of attention, linear layers
and experts. Our models have the form that it expects, so there is no second implementation of any. What is added here:

* the architectures' names lead to that backend, with `--model-impl transformers` and without (`vllm_models`): of one of
  them transformers knows no class, of the others classes of its own;
* a look at the checkpoint before anything is loaded (`vllm_settings`, `vllm_checkpoints`);
* prompts become ids by our processor, which keeps typed text apart from control tokens (`vllm_renderer`), and pictures
  pixels: with 16 bits, too, and cut into tiles by the published rule (`vllm_models`).

Latent attention: a model that is made with an engine's attention gets `models/deepseek_moe/engine_attention.py`, whose
source is in the form by which the backend knows it. On a GPU vLLM then caches latents. On a CPU its kernel for that is
a slow reference without prefix caching, so there keys and values of all heads are cached. VLLM_MLA_DISABLE=0 asks for
the kernel all the same, VLLM_MLA_DISABLE=1 does without latents on a GPU. A thin model on top of vLLM's own DeepSeek-V2
layers would have been a second implementation, to be held equal to ours.

Written for vLLM 0.32, whose insides only `vllm_settings`, `vllm_models` and `vllm_renderer` know beside this module; of
0.33 only the names were compared.
"""

import logging
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from ..models.families import DEEPSEEK_VL2
from .vllm_checkpoints import IN_VLLM

OLDEST = (0, 32)
# The class that vLLM takes originals of DeepSeek-VL2 for.
ORIGINAL_VL2 = "DeepseekVLV2ForCausalLM"
_HERE = __package__
logger = logging.getLogger(__name__)


def register() -> None:
    """Makes vLLM serve the families' converted checkpoints; a second call changes nothing.

    In a vLLM that lacks what is needed nothing is raised, because vLLM would end, whatever model it was to serve.
    """
    try:
        _register()
    except (ImportError, AttributeError) as error:
        try:
            found = f"vLLM {version('vllm')}"
        except PackageNotFoundError:
            found = "no vLLM"
        logger.warning(
            f"Found {found}; deepseek_vl_hf knows 0.32 and 0.33, and DeepSeek-VL models will not work here ({error}). "
            "For them install vllm==0.32.*, or serve them with: deepseek-vl serve MODEL --engine transformers"
        )


def _register() -> None:
    import vllm  # noqa: PLC0415

    if Version(vllm.__version__).release < OLDEST:
        raise ImportError("it is older")  # its backend has other classes, which are imported with a model only
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP  # noqa: PLC0415
    from vllm.model_executor.models.registry import _TRANSFORMERS_BACKEND_MODELS  # noqa: PLC0415
    from vllm.renderers.registry import RENDERER_REGISTRY  # noqa: PLC0415
    from vllm.tokenizers.registry import TokenizerRegistry  # noqa: PLC0415
    from vllm.transformers_utils.model_arch_config_convertor import MODEL_ARCH_CONFIG_CONVERTORS  # noqa: PLC0415

    from .vllm_settings import MODE, FamilySettings, LatentArchitecture, OriginalSettings  # noqa: PLC0415

    # vLLM calls plugins in every process, and in one that makes several engines more than once.
    if MODE in RENDERER_REGISTRY.renderers:
        return
    for family in IN_VLLM:
        name = family.generation_model.__name__
        kind = "MultiModalMoE" if family is DEEPSEEK_VL2 else "MultiModal"
        place = f"{_HERE}.vllm_models:Transformers{kind}ForCausalLM"
        # By its place, because importing the module would set up a GPU too early.
        vllm.ModelRegistry.register_model(name, place)
        # Asked for --model-impl transformers, vLLM takes the names in this table as they are.
        _TRANSFORMERS_BACKEND_MODELS[name] = ("transformers", place.rpartition(":")[2])
        MODELS_CONFIG_MAP[name] = FamilySettings
    # Originals of DeepSeek-VL2 are vLLM's own; --model-impl transformers gets as far as the refusal.
    _TRANSFORMERS_BACKEND_MODELS[ORIGINAL_VL2] = ("transformers", ORIGINAL_VL2)
    MODELS_CONFIG_MAP[ORIGINAL_VL2] = OriginalSettings
    MODEL_ARCH_CONFIG_CONVERTORS[DEEPSEEK_VL2.config.model_type] = LatentArchitecture
    TokenizerRegistry.register(MODE, "vllm.tokenizers.hf", "CachedHfTokenizer")
    RENDERER_REGISTRY.register(MODE, f"{_HERE}.vllm_renderer", "FamilyRenderer")
