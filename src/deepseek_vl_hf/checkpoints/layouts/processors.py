"""Tokenizer and image settings of an original DeepSeek-VL checkpoint in transformers' form."""

from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from ...conversation.chat_templates import DEEPSEEK_VL_TEMPLATE, IMAGE_PLACEHOLDER
from ...pictures.pixels import padding_color
from ...pictures.settings import check_image_settings
from ...pictures.sizes import num_grid_tokens
from .config_fields import check_values
from .files import IMAGES, PROCESSOR, FileFinder, optional_json, require
from .formats import JsonObject, PromptFormat
from .small_files import read_vocabulary

PROMPTS = PromptFormat(
    chat_template=DEEPSEEK_VL_TEMPLATE,
    image_token=IMAGE_PLACEHOLDER,
    image_token_key="image_tag",
    added_tokens={},
    default_vocabulary=32000,  # Llama's
    token_ids={
        102400: {"bos_token_id": 100000, "eos_token_id": 100001, "pad_token_id": 100001, "image_token_id": 100015},
    },
)


def load_original_tokenizer(
    find: FileFinder,
    config: dict[str, Any],
    max_length: int,
    prompts: PromptFormat,
    image_token: str,
    **overrides: Any,
) -> PreTrainedTokenizerFast:
    """The tokenizer of an original checkpoint, adding the BOS that the original's tokenizer class added.

    The stored `tokenizer.json` holds the byte-level BPE but no template for BOS, and the stored class name
    (`LlamaTokenizerFast`) would rebuild a SentencePiece-style splitter; so the pieces are put together here.

    Args:
        find: the checkpoint's files.
        config: tokenizer_config.json; empty if there is none.
        max_length: positions of the language model, where the files do not say.
        prompts: what the original's processor takes for granted.
        image_token: the token that stands for an image.
        **overrides: arguments of the tokenizer in place of the checkpoint's, such as `padding_side`.

    Raises:
        FileNotFoundError: no `tokenizer.json`.
        ValueError: BOS, EOS or the image token is not in the vocabulary, or texts are to end with EOS, which the
            original's prompts do not.
    """
    path = require(find, "tokenizer.json")
    check_values(config, {"add_eos_token": False}, "tokenizer_config.json")
    tokens = {**_special_tokens(config, find), "image_token": image_token}
    backend = read_vocabulary(path)
    _add_tokens(backend, config.get("added_tokens_decoder", {}))
    for token in (image_token, *prompts.added_tokens.values()):
        if backend.token_to_id(token) is None:  # the original's processor adds them as well
            backend.add_special_tokens([AddedToken(token, normalized=False)])
    for name, token in tokens.items():
        if token is None or backend.token_to_id(token) is None:
            raise ValueError(
                f"The {name} {token!r} is not in the vocabulary of {path}. Expected it in tokenizer_config.json or "
                "special_tokens_map.json and in tokenizer.json; download these files again."
            )
    if config.get("add_bos_token", True):
        _add_bos(backend, tokens["bos_token"])
    arguments = {
        "bos_token": tokens["bos_token"],
        "eos_token": tokens["eos_token"],
        "pad_token": tokens["pad_token"],
        "extra_special_tokens": {"image_token": tokens["image_token"], **prompts.added_tokens},
        "model_max_length": min(config.get("model_max_length") or max_length, max_length),
        "chat_template": prompts.chat_template,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**arguments, **overrides})


def special_token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids that a model's config names."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**ids, "image_token_id": tokenizer.convert_tokens_to_ids(tokenizer.image_token)}


def _special_tokens(config: dict[str, Any], find: FileFinder) -> dict[str, Any]:
    special = optional_json(find, "special_tokens_map.json")
    eos_token = _text(config.get("eos_token") or special.get("eos_token"))
    return {
        "bos_token": _text(config.get("bos_token") or special.get("bos_token")),
        "eos_token": eos_token,
        "pad_token": _text(config.get("pad_token") or special.get("pad_token")) or eos_token,
    }


def _add_tokens(backend: Tokenizer, stored: dict[str, Any]) -> None:
    """Adds the tokens that only tokenizer_config.json names, as fine-tunes leave them, at the ids it gives."""
    for token_id, fields in sorted(stored.items(), key=lambda item: int(item[0])):
        content = fields["content"]
        if backend.token_to_id(content) is None:
            options = {
                name: fields[name] for name in ("lstrip", "rstrip", "normalized", "single_word") if name in fields
            }
            backend.add_tokens([AddedToken(content, special=fields.get("special", False), **options)])
        if backend.token_to_id(content) != int(token_id):
            raise ValueError(
                f"tokenizer_config.json gives {content!r} the id {token_id}, but in tokenizer.json's vocabulary it "
                f"has {backend.token_to_id(content)}. The files belong to different checkpoints; download them again."
            )


def _add_bos(backend: Tokenizer, bos_token: Any) -> None:
    """Lets the tokenizer begin each text with BOS, unless its file already does."""
    bos_token_id = backend.token_to_id(bos_token)
    if backend.encode("a").ids[:1] == [bos_token_id]:
        return
    backend.post_processor = TemplateProcessing(
        single=[bos_token, "$A"], pair=[bos_token, "$A", bos_token, "$B:1"], special_tokens=[(bos_token, bos_token_id)]
    )


def _text(token: Any) -> str | None:
    """A token is stored as a string or as a dict with its content."""
    return token.get("content") if isinstance(token, dict) else token


def image_settings(stored: dict[str, Any], image_size: int, background_color: str) -> dict[str, Any]:
    """What preprocessor_config.json says of resizing, padding and rescaling.

    Its mean gives the padding's color where none is stored. It does not normalize: the original stores
    `do_normalize: false` because its towers do that, with values that config.json names.

    Args:
        stored: the file's content.
        image_size: side of the pixels that the tower reads.
        background_color: name of the image processor's argument for the padding's color.

    Raises:
        ValueError: processor and tower disagree on the image size, or a value is of another kind than its name needs.
    """
    check_values(stored, {"do_normalize": False}, IMAGES)
    if stored.get("image_size", image_size) != image_size:
        raise ValueError(
            f"preprocessor_config.json has image_size {stored['image_size']}, but config.json's tower reads "
            f"{image_size} pixels. The files belong to different checkpoints; download them again."
        )
    names = {"min_size": "min_size", "rescale_factor": "rescale_factor", "background_color": background_color}
    settings = {argument: stored[key] for key, argument in names.items() if key in stored}
    check_image_settings({**settings, "image_mean": stored.get("image_mean")}, IMAGES)
    if background_color not in settings and stored.get("image_mean") is not None:
        settings[background_color] = padding_color(stored["image_mean"])  # as the original derives it
    return settings


def image_section(images: Any, image_size: int, background_color: Any, mean: Any, std: Any) -> dict[str, Any]:
    """The original's preprocessor_config.json."""
    return {
        "background_color": list(background_color),
        "do_normalize": False,
        "image_mean": list(mean),
        "image_processor_type": "VLMImageProcessor",
        "image_size": image_size,
        "image_std": list(std),
        "min_size": images.min_size,
        "processor_class": "VLChatProcessor",
        "rescale_factor": images.rescale_factor,
    }


def processor_settings(stored: JsonObject, config: PreTrainedConfig) -> JsonObject:
    """The processor's arguments from processor_config.json.

    Raises:
        ValueError: another chat format or number of image tokens than the model's.
    """
    tokens = num_grid_tokens(config.vision_config.image_size, config.vision_config.patch_size)
    expected = {"sft_format": "deepseek", "num_image_tokens": tokens, "add_special_token": False}
    check_values(stored, expected, PROCESSOR)
    return {"num_image_tokens": tokens}


def processor_section(processor: ProcessorMixin) -> JsonObject:
    """The original's processor_config.json."""
    return {
        "add_special_token": False,
        "image_tag": processor.image_token,
        "num_image_tokens": processor.num_image_tokens,
        "processor_class": "VLChatProcessor",
        "sft_format": "deepseek",
    }
