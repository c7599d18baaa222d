"""Putting this package's classes in force in transformers, and taking them back."""

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

from .checkpoints.layouts.formats import OriginalFormat
from .checkpoints.layouts.original import FORMATS
from .checkpoints.loading.direct import NAMED_IN_FILES, MultiModalityConfig, OriginalTokenizer, VLMImageProcessor
from .checkpoints.loading.own_classes import explain_own_class, open_with_own_class
from .checkpoints.loading.weight_files import check_files, check_folder
from .checkpoints.loading.weight_mapping import ignored_on_load, weight_mapping
from .hf import register as tables
from .hf.attention import SDPA_BY_DEVICE, sdpa_by_device
from .hf.loading import LoadingTable
from .hf.originals import add_opener
from .hf.peft import adapt_by_default
from .hf.register import Registrations
from .hf.serving import register_for_serving
from .models.deepseek_moe.experts import BY_DEVICE, experts_by_device
from .models.families import FAMILIES, Family
from .models.original_calls import CAUSAL_MODELS
from .quantization import QUANT_METHOD, Int4Config, Int4Quantizer
from .training.lora import DEFAULT_LAYERS

_registrations = Registrations()
# Files hold the model with its head; loading the model alone leaves the head aside on purpose.
HEAD = r"^lm_head\."


def register() -> None:
    """Makes transformers' Auto classes and pipelines use this package's classes; a second call does nothing.

    Original checkpoints then load directly as well.
    """
    if _registrations.undo:
        return
    try:
        # Models are made with these names, so they come first.
        tables.register_attention(SDPA_BY_DEVICE, sdpa_by_device, _registrations)
        tables.register_experts(BY_DEVICE, experts_by_device, _registrations)
        tables.register_quantization(QUANT_METHOD, Int4Config, Int4Quantizer, _registrations)
        for family in FAMILIES:
            _register_family(family)
        _register_names_in_original_files()
        _registrations.undo.append(add_opener(open_with_own_class, explain_own_class))
        tables.register_pipelines(_registrations)
        model_types = [family.config.model_type for family in FAMILIES]
        _registrations.undo.append(adapt_by_default(dict.fromkeys(model_types, DEFAULT_LAYERS)))
        for layout in FORMATS:
            _register_weights(layout)
    except Exception:
        unregister()  # all or nothing: half a registration would mix both packages' classes
        raise


def unregister() -> None:
    """Restores all that `register()` changed in transformers.

    Models of this package that exist by then keep the names of attention and experts that transformers no longer knows.
    To go on with one, call `set_attn_implementation("sdpa")` on it, and for DeepSeek-VL2
    `set_experts_implementation("grouped_mm")` as well; or make it anew.
    """
    _registrations.take_back()


def _register_family(family: Family) -> None:
    tables.register_config(family.config, _registrations)
    auto_models = {
        AutoModel: family.model,
        AutoModelForImageTextToText: family.generation_model,
        AutoModelForMultimodalLM: family.generation_model,
        AutoModelForCausalLM: CAUSAL_MODELS[family.config],
    }
    tables.register_models(family.config, auto_models, _registrations)
    register_for_serving(family.config.model_type, family.generation_model, _registrations)
    tables.register_processor(family.config, family.processor, _registrations)
    tables.register_image_processor(family.config, family.image_processor, _registrations)
    # Originals are opened as the family's, and the tokenizer class that their files name is wrong.
    tables.register_tokenizer(family.config, OriginalTokenizer, _registrations)


def _register_names_in_original_files() -> None:
    for config, processor in NAMED_IN_FILES:
        tables.register_config(config, _registrations)
        tables.register_processor(config, processor, _registrations)
        # AutoTokenizer goes by the original model type where AutoConfig failed; then the tokenizer tells why.
        tables.register_tokenizer(config, OriginalTokenizer, _registrations)
    tables.register_image_processor(MultiModalityConfig, VLMImageProcessor, _registrations)


def _register_weights(layout: OriginalFormat) -> None:
    """Lets a family's classes read originals; names of the transformers layout are not touched by the rules."""
    family, dropped = layout.family, ignored_on_load(layout.rules)
    stored = family.generation_model.stored_conversions()
    conversions = [*weight_mapping(layout.rules), *stored]
    loading = {
        family.model: LoadingTable(conversions, frozenset({HEAD, *dropped}), check_folder, check_files),
        family.generation_model: LoadingTable(conversions, frozenset(dropped), check_folder, check_files),
    }
    tables.register_loading(family.config.model_type, loading, stored, _registrations)
