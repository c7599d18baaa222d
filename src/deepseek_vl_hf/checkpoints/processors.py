"""Tokenizer and image processor of an original DeepSeek-VL checkpoint in transformers' form."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ..chat_templates import IMAGE_PLACEHOLDER
from .source import read_json


def load_original_tokenizer(folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of an original checkpoint, adding the BOS that the original's tokenizer class added.

    The stored `tokenizer.json` holds the byte-level BPE but no template for BOS, and the stored class name
    (`LlamaTokenizerFast`) would rebuild a SentencePiece-style splitter; so the pieces are put together here.

    Args:
        folder: the checkpoint.
        max_length: positions of the language model, where the files do not say.

    Raises:
        FileNotFoundError: no `tokenizer.json`.
        ValueError: BOS, EOS or the image token is not in the vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokenizer.json. Expected the folder of an original checkpoint.")
    config = read_json(folder, "tokenizer_config.json", required=False)
    special = {**read_json(folder, "special_tokens_map.json", required=False)}
    eos_token = _text(config.get("eos_token") or special.get("eos_token"))
    tokens = {
        "bos_token": _text(config.get("bos_token") or special.get("bos_token")),
        "eos_token": eos_token,
        "pad_token": _text(config.get("pad_token") or special.get("pad_token")) or eos_token,
        "image_token": read_json(folder, "processor_config.json", required=False).get("image_tag", IMAGE_PLACEHOLDER),
    }
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} cannot be read as a tokenizer ({error}). Download the file again.") from error
    if backend.token_to_id(tokens["image_token"]) is None:
        # The original's processor adds it to vocabularies that lack it.
        backend.add_special_tokens([AddedToken(tokens["image_token"], normalized=False)])
    for name, token in tokens.items():
        if token is None or backend.token_to_id(token) is None:
            raise ValueError(
                f"The {name} {token!r} is not in the vocabulary of {path}. Expected it in tokenizer_config.json or "
                "special_tokens_map.json and in tokenizer.json; download these files again."
            )
    if config.get("add_bos_token", True):
        _add_bos(backend, tokens["bos_token"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens["bos_token"],
        eos_token=tokens["eos_token"],
        pad_token=tokens["pad_token"],
        extra_special_tokens={"image_token": tokens["image_token"]},
        model_max_length=min(config.get("model_max_length", max_length), max_length),
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
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


def stored_image_settings(folder: Path, image_size: int, background_color: str) -> dict[str, Any]:
    """What preprocessor_config.json says of resizing, padding and rescaling.

    Its mean and standard deviation are not used: the original stores `do_normalize: false` because its towers
    normalise, with values that config.json names.

    Args:
        folder: the checkpoint.
        image_size: side of the pixels that the tower reads.
        background_color: name of the image processor's argument for the padding's colour.

    Raises:
        ValueError: processor and tower disagree on the image size.
    """
    stored = read_json(folder, "preprocessor_config.json")
    if stored.get("image_size", image_size) != image_size:
        raise ValueError(
            f"preprocessor_config.json has image_size {stored['image_size']}, but config.json's tower reads "
            f"{image_size} pixels. The files belong to different checkpoints; download them again."
        )
    names = {"min_size": "min_size", "rescale_factor": "rescale_factor", "background_color": background_color}
    return {argument: stored[key] for key, argument in names.items() if key in stored}
