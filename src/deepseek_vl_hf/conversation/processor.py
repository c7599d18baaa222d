"""What the families' processors do alike.

messages --normalize, mark typed text, chat template--> prompt
prompt   --expand image places, cut at control tokens, encode, pad--> input_ids [batch, sequence]
pictures --open, image processor--> pixel tensors
"""

from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from PIL import Image
from transformers import BatchFeature

from ..hf.processors import HfProcessor
from ..pictures.opening import open_images
from .batching import as_prompts, encode_batch, mark_typed_text, match_images
from .chat_templates import DEEPSEEK_VL_TEMPLATE, IMAGE_PLACEHOLDER
from .messages import Conversation, is_batch, normalize_conversations, with_images
from .prompts import control_tokens
from .template_reading import names_in_template, naming_the_line


def image_token_of(tokenizer: Any, default: str = IMAGE_PLACEHOLDER) -> str:
    """The token that stands for an image in a prompt: what the tokenizer says, else `default`.

    Raises:
        ValueError: the tokenizer does not have it, or gives two tokens one id.
    """
    image_token = getattr(tokenizer, "image_token", None) or default
    vocabulary = tokenizer.get_vocab()
    if len({*vocabulary.values()}) < len(vocabulary):
        (token_id, _), *_ = Counter(vocabulary.values()).most_common(1)
        tokens = ", ".join(repr(token) for token, number in vocabulary.items() if number == token_id)
        raise ValueError(
            f"The tokenizer gives the id {token_id} to {tokens}. tokenizer.json is damaged; download it again."
        )
    if image_token not in vocabulary:
        raise ValueError(
            f"The tokenizer has no token {image_token!r}, which stands for an image in a prompt. Load the tokenizer of "
            "a DeepSeek-VL checkpoint, or add the token to this one and to the model."
        )
    return image_token


# What transformers' apply_chat_template itself takes, in every admitted release.
_ARGUMENTS_OF_TEMPLATES = (
    "add_generation_prompt",
    "continue_final_message",
    "documents",
    "load_audio_from_video",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tools",
)
# Of the originals' processors.
_OF_ORIGINALS = {"apply_sft_format", "conversations", "force_batchify", "inference_mode", "prompt", "system_prompt"}
# What the families' own templates read beside the messages; of a message they read role and content alone.
_VARIABLES_OF_OUR_TEMPLATES = frozenset({"bos_token", "eos_token"})

# The mark of the conversation that is being tokenized. transformers' apply_chat_template calls the processor in between
# and, depending on its version, loses arguments that are not its own; a context variable is safe with threads as well.
_typed_text_mark: ContextVar[str | None] = ContextVar("typed_text_mark", default=None)


class ChatProcessor(HfProcessor):
    """Image processor, tokenizer and chat template in one; a family's processor says what an image becomes.

    Every route gives the ids of the original's processor: one BOS in front, an image as copies of the image token,
    padding on the left.

    Args:
        image_processor: the family's image processor.
        tokenizer: the byte-level BPE tokenizer.
        chat_template: Jinja text; by default the original's format.

    Raises:
        ValueError: the tokenizer lacks the image token, or gives two tokens one id.
    """

    default_chat_template = DEEPSEEK_VL_TEMPLATE
    default_image_token = IMAGE_PLACEHOLDER
    # Control tokens that stay control tokens where people type them.
    typed_controls: tuple[str, ...] = ()
    # What a model is best asked, where it was trained on few questions.
    suggested_prompts: tuple[str, ...] = ()
    # Texts that are encoded apart from what follows them.
    fixed_texts: tuple[str, ...] = ()

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token = image_token_of(tokenizer, self.default_image_token)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        template = chat_template or self.default_chat_template
        if isinstance(template, str):
            template = template.removeprefix("\ufeff")  # editors put it in front of a file; it is no part of the prompt
        super().__init__(image_processor, tokenizer, chat_template=template)

    def process_images(self, pictures: list[Image.Image], places: Sequence[int], **kwargs: Any) -> BatchFeature:
        """Pixel tensors of pictures; `places` says how many of them belong to each prompt."""
        return self.image_processor(pictures, **kwargs)

    def process_picture(self, picture: Image.Image, count: int, tiling: str | bool | None = None) -> BatchFeature:
        """Pixel tensors of one picture of a message, with which the conversation has `count` pictures.

        Raises:
            ValueError: `tiling` is given; pictures of this family are not cut into tiles.
        """
        if tiling is not None:
            raise ValueError(f"Found tiling={tiling!r}, which is for DeepSeek-VL2. Leave it out.")
        return self.process_images([picture], [1], return_tensors="pt")

    def if_too_long(self, image_lengths: Sequence[int]) -> str:
        """What to do about a prompt that is longer than the model was trained for, given the tokens of its images."""
        taken = f"The images take {list(image_lengths)} tokens. " if image_lengths else ""
        return f"{taken}Send fewer images or less text, or pass truncation=True."

    def num_tokens_of_images(self, images: dict[str, Any]) -> list[int]:
        """Places that each of the images takes, from the image processor's tensors."""
        raise NotImplementedError

    def first_images(self, images: dict[str, Any], count: int) -> dict[str, Any]:
        """The image processor's tensors of the first `count` images."""
        return {name: values[:count] for name, values in images.items()}

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Prepares finished prompts and their pictures.

        A prompt is taken at its word: each `<image_placeholder>` in it is an image place, and special tokens are
        special tokens. For text that people typed use `apply_chat_template`, which keeps the two apart.

        Args:
            images: one picture (Pillow image, array, tensor, path, URL, `data:` URI, bytes or open file), a list of
                pictures for all prompts together, or one list per prompt.
            text: one prompt or several.
            **kwargs: arguments of tokenizer and image processor, such as `padding=True`; `return_tensors` defaults to
                "pt".

        Returns:
            `input_ids` and `attention_mask` [batch, sequence], and the image processor's tensors, one row per image.

        Raises:
            ValueError: nothing was passed, images and image places differ in number, a picture cannot be read, or
                truncation would cut through an image.
            TypeError: an argument that nothing reads.
        """
        for modality in ("videos", "audio"):
            if kwargs.pop(modality, None) is not None:
                raise ValueError(f"Found {modality}; DeepSeek-VL reads text and images. Pass single frames as images.")
        self._refuse_unknown_arguments(kwargs)
        if images is None and text is None:
            raise ValueError("Found neither text nor images; pass a prompt, pictures, or both.")
        text_kwargs, images_kwargs = self.sorted_arguments(kwargs)
        return_tensors = text_kwargs.get("return_tensors", "pt")
        prompts = None if text is None else as_prompts(text)
        pictures = match_images(images, prompts, self.image_token)
        pixels: dict[str, Any] = {}
        if pictures:
            transparency = images_kwargs.get("transparency", self.image_processor.transparency)
            opened = open_images(pictures, images_kwargs.get("input_data_format"), transparency)
            places = [len(opened)] if prompts is None else [prompt.count(self.image_token) for prompt in prompts]
            pixels = self.process_images(opened, places, **{**images_kwargs, "return_tensors": return_tensors})
        data: dict[str, Any] = {}
        if prompts is not None:
            data.update(self._encode(prompts, self.num_tokens_of_images(pixels) if pixels else [], text_kwargs))
        data.update(pixels)
        skipped = list(self.skip_tensor_conversion)
        if text_kwargs.get("return_text_replacement_offsets"):
            # For the mask of the assistant's tokens, which reads offsets one by one: slow from a tensor.
            skipped.append("offset_mapping")
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=skipped)

    def _encode(
        self, prompts: list[str], image_lengths: list[int], text_kwargs: dict[str, Any], warn: bool = True
    ) -> dict[str, Any]:
        lengths = iter(image_lengths)
        by_prompt = [[next(lengths) for _ in range(prompt.count(self.image_token))] for prompt in prompts]
        expanded, replacements = self.get_text_with_replacements(
            prompts, [self.image_token * length for length in image_lengths]
        )
        data = encode_batch(
            self.tokenizer,
            expanded,
            text_kwargs,
            controls=control_tokens(self.tokenizer, self.image_token),
            fixed_texts=self.fixed_texts,
            image_token_id=self.image_token_id,
            mark=_typed_text_mark.get(),
            if_too_long=(lambda number: self.if_too_long(by_prompt[number])) if warn else None,
        )
        if text_kwargs.get("return_mm_token_type_ids"):
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        if text_kwargs.get("return_text_replacement_offsets"):
            data["text_replacement_offsets"] = replacements
        return data

    def encode_conversation(
        self,
        conversation: Any,
        image_lengths: Sequence[int] | None,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> list[int]:
        """Token ids of a conversation whose pictures were processed before, whatever its length.

        They are those of `apply_chat_template(..., tokenize=True)`, which processes the pictures each time.

        Args:
            conversation: see `apply_chat_template`; one.
            image_lengths: places that each picture takes, in the order of the pictures; None for one place each, which
                serving engines replace by as many as a picture needs.
            chat_template: another template than the processor's.
            add_generation_prompt: whether the head of an answer follows.
            **kwargs: see `apply_chat_template`; what is for the template.

        Raises:
            ValueError, TypeError: a message that is not understood, other numbers of pictures than of lengths, or an
                argument that the template does not read.
        """
        kwargs = self._sorted_template_arguments(
            chat_template, {**kwargs, "add_generation_prompt": add_generation_prompt}
        )
        (messages,) = normalize_conversations([conversation], self.image_token, self._keys_read_by(chat_template))
        kwargs = _with_open_answers(kwargs, [messages])
        marked, mark = self._mark([messages])
        with naming_the_line():
            prompt = super().apply_chat_template(marked[0], chat_template, **kwargs)
        places = prompt.count(self.image_token)
        lengths = [1] * places if image_lengths is None else list(image_lengths)
        if places != len(lengths):
            raise ValueError(f"The conversation has {places} pictures, but {len(lengths)} lengths were given.")
        token = _typed_text_mark.set(mark)
        try:
            encoded = self._encode([prompt], lengths, {"return_attention_mask": False}, warn=False)
        finally:
            _typed_text_mark.reset(token)
        return encoded["input_ids"][0]

    def _mark(self, conversations: list[Conversation]) -> tuple[list[Conversation], str]:
        """Breaks the control strings in what people typed; see `mark_typed_text`."""
        controls = control_tokens(self.tokenizer, self.image_token)
        return mark_typed_text(conversations, tuple(each for each in controls if each not in self.typed_controls))

    def apply_chat_template(
        self, conversation: Any, chat_template: str | None = None, *, tokenize: bool = False, **kwargs: Any
    ) -> Any:
        """Renders one conversation or a batch of them, and with `tokenize=True` prepares the model's inputs.

        Typed text stays text: an `<image_placeholder>`, a BOS or an EOS inside a message is encoded as the characters
        that it is. (With `tokenize=False` the result is a plain string, in which the difference is lost.)

        Args:
            conversation: messages in transformers' shape (`role`, `content` as string or parts), with OpenAI's
                `image_url` parts or Anthropic's `source`, or in the original's shape (`<image_placeholder>` in the
                content, `images` beside it); or a list of such conversations.
            chat_template: another template than the processor's.
            tokenize: whether to encode the prompt and load the pictures.
            **kwargs: as in transformers: `add_generation_prompt`, `continue_final_message`, `return_dict`,
                `return_tensors`, `return_assistant_tokens_mask`, `processor_kwargs`, and variables of the template.
                Arguments of the processor's call may stand here too, `images` among them: a list, of a batch one per
                conversation, with the pictures of the image parts that hold none.

        Returns:
            The prompt(s); with `tokenize=True` the ids, or with `return_dict=True` all model inputs.

        Raises:
            ValueError, TypeError: a message that is not understood, or an argument or a key of a message that neither
                the template nor the processor reads; the error names conversation and message. Or the template itself
                fails; the error names its line.
        """
        kwargs.pop("sanitize_control_tokens", None)  # newer transformers ask for this protection; here it is always on
        kwargs = self._sorted_template_arguments(chat_template, kwargs)
        batched = is_batch(conversation)
        conversations = normalize_conversations(
            conversation if batched else [conversation], self.image_token, self._keys_read_by(chat_template)
        )
        images = kwargs["processor_kwargs"].pop("images", None)
        if images is not None:
            conversations = _with_images_beside(conversations, images if batched else [images])
        kwargs = _with_open_answers(kwargs, conversations)
        mark = None
        if tokenize:
            conversations, mark = self._mark(conversations)
        token = _typed_text_mark.set(mark)
        try:
            with naming_the_line():
                return super().apply_chat_template(
                    conversations if batched else conversations[0], chat_template, tokenize=tokenize, **kwargs
                )
        finally:
            _typed_text_mark.reset(token)

    def _template(self, name: str | None) -> str:
        """The text of the template that `apply_chat_template` will take, given its argument."""
        stored = self.chat_template
        if isinstance(stored, dict):
            return str(stored.get(name or "default", name or ""))
        return str(name or stored)

    def _keys_read_by(self, chat_template: str | None) -> frozenset[str]:
        """Keys of a message, beside role and content, that a template may read."""
        template = self._template(chat_template)
        return frozenset() if template == self.default_chat_template else names_in_template(template)

    def _sorted_template_arguments(self, chat_template: str | None, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `apply_chat_template`, those for the processor's call in `processor_kwargs`.

        Raises:
            ValueError: one that the template does not read.
            TypeError: one that nothing reads.
        """
        variables = self._keys_read_by(chat_template) or _VARIABLES_OF_OUR_TEMPLATES
        for name in ("tools", "documents"):
            if arguments.get(name) and name not in variables:
                raise ValueError(
                    f"Found {name}, which the chat template does not write into the prompt: the model was not trained "
                    "for it. Leave it out, write what the model is to read into a message, or pass a chat_template "
                    f"that reads {name}."
                )
        if arguments.get("load_audio_from_video"):
            raise ValueError("Found load_audio_from_video; DeepSeek-VL reads text and images. Leave it out.")
        known = {*_ARGUMENTS_OF_TEMPLATES, *variables}
        of_call = {name: value for name, value in arguments.items() if name not in known}
        of_call = {**(arguments.get("processor_kwargs") or {}), **of_call}
        self._refuse_unknown_arguments({name: value for name, value in of_call.items() if name != "images"})
        return {**{name: value for name, value in arguments.items() if name in known}, "processor_kwargs": of_call}

    def _refuse_unknown_arguments(self, arguments: dict[str, Any]) -> None:
        unknown = self.unknown_arguments(arguments)
        of_original = [name for name in unknown if name in _OF_ORIGINALS]
        if of_original:
            raise TypeError(
                f"Found {', '.join(f'{name}=...' for name in of_original)}, which the original's processors take. Pass "
                "messages to apply_chat_template(..., add_generation_prompt=True, tokenize=True, return_dict=True) and "
                "finished prompts as text; or load the processor with VLChatProcessor.from_pretrained (DeepSeek-VL2: "
                "DeepseekVLV2Processor) of deepseek_vl_hf.original."
            )
        if unknown:
            raise TypeError(
                f"Found {', '.join(f'{name}=...' for name in unknown)}, which neither the tokenizer nor the image "
                "processor reads. Leave it out, or look for a spelling mistake."
            )


def _with_open_answers(arguments: dict[str, Any], conversations: list[Conversation]) -> dict[str, Any]:
    """The template's arguments; an empty answer at the end, as the original writes it, has nothing to continue."""
    if arguments.get("continue_final_message") and all(turns[-1]["content"] == "" for turns in conversations):
        return {**arguments, "continue_final_message": False, "add_generation_prompt": True}
    return arguments


def _with_images_beside(conversations: list[Conversation], images: Any) -> list[Conversation]:
    """The conversations of a batch with the images that came as one list for each of them."""
    lists = [given if isinstance(given, (list, tuple)) else [given] for given in images]
    if len(lists) != len(conversations):
        raise ValueError(
            f"images holds {len(lists)} lists, but there are {len(conversations)} conversations. Pass one for each."
        )
    return [
        with_images(conversation, given, f"Conversation {number}")
        for number, (conversation, given) in enumerate(zip(conversations, lists, strict=True), 1)
    ]
