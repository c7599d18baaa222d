"""Makes the models of this package, whatever their family, known to ms-swift 4 as `deepseek_vl_hf`.

    swift sft --custom_register_path examples/ms_swift/register.py --model_type deepseek_vl_hf --model path/to/model ...

ms-swift reads rows and runs the loop; prompts, labels and pixels are this package's own:

row of ms-swift
  --system prompt in front, a picture in the place of each <image>-->
messages with image parts
  --training: `ConversationCollator`; answering: the processor's chat template-->
input_ids, labels [sequence], pixel tensors
  --ms-swift pads ids and labels; the pixel tensors of all rows come one after the other-->
batch

docs/training.md has the commands and says what does not work.
"""

from collections.abc import Iterator
from sys import maxsize
from typing import Any

import torch
from swift.model import ModelLoader, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.template import Template, TemplateMeta, load_file, register_template
from transformers import AutoModelForImageTextToText

from deepseek_vl_hf import ConversationCollator
from deepseek_vl_hf.conversation.messages import image_parts
from deepseek_vl_hf.models.steps import IGNORED
from deepseek_vl_hf.pictures.opening import open_image
from deepseek_vl_hf.training.boxes import read_objects, write_objects

NAME = "deepseek_vl_hf"
IMAGE_TAG = "<image>"
# Whatever else ms-swift offers here would have to change the prompt or its labels, and they are not ms-swift's.
SETTINGS = {
    "use_chat_template": (True,),
    "loss_scale": ("default", "last_round"),
    "response_prefix": (None, ""),
    "max_pixels": (None,),
    "norm_bbox": (None,),
    "sequence_parallel_size": (1,),
}
# Of a row; neither the collator nor the processors read them.
UNREAD = ("videos", "audios", "tools")
# Of a row's objects; ms-swift adds the sizes of pictures.
OBJECTS = ("ref", "bbox", "bbox_type", "image_id")
# What --freeze_llm, --freeze_aligner and --freeze_vit freeze, in all families. Whatever is no module but a parameter
# stands with the aligner, because ms-swift expects modules elsewhere.
PARTS = {
    "language_model": ["model.language_model", "lm_head"],
    "aligner": [
        "model.aligner",
        "model.high_res_vision_alpha",
        "model.projector",
        "model.image_newline",
        "model.view_separator",
    ],
    "vision_tower": [
        "model.vision_model",
        "model.high_res_vision_model",
        "model.high_res_vision_neck",
        "model.high_res_vision_proj",
    ],
}
Conversation = list[dict[str, Any]]


class Loader(ModelLoader):
    """Loads with this package's classes, which need no code from the checkpoint's folder."""

    default_trust_remote_code = False

    def get_model(self, *args: Any, **kwargs: Any) -> Any:
        """The model; the processor comes from `AutoProcessor` anyway."""
        self.auto_model_cls = AutoModelForImageTextToText
        return super().get_model(*args, **kwargs)


class ConversationTemplate(Template):
    """Rows of ms-swift as this package encodes them.

    Raises:
        ValueError: a setting that would change prompts or labels, or another engine than transformers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, expected in SETTINGS.items():
            if kwargs.get(name, expected[0]) not in expected:
                choice = " or ".join(map(repr, expected))
                raise ValueError(f"Found {name}={kwargs[name]!r}; expected {choice} for the model type {NAME}.")
        super().__init__(*args, **kwargs)

    def set_mode(self, mode: str) -> None:
        """Called by each engine and trainer."""
        if mode in ("vllm", "sglang", "lmdeploy"):
            raise ValueError(
                f"Found the engine {mode}, to which ms-swift hands prompts of its own. Use `--infer_backend "
                "transformers`; for vLLM merge the adapters and run `deepseek-vl serve --engine vllm`."
            )
        super().set_mode(mode)

    def _preprocess_inputs(self, inputs: Any) -> None:
        unread = [name for name in UNREAD if getattr(inputs, name)]
        if unread:
            raise ValueError(f"Found {', '.join(unread)} in a row; {NAME} reads messages, images and objects.")
        super()._preprocess_inputs(inputs)

    def _load_image(self, image: Any, load_images: bool) -> Any:
        """A picture. ms-swift says where it lies; orientation and transparency are this package's."""
        if isinstance(image, dict):
            image = image.get("bytes") or image["path"]
        return open_image(load_file(image))

    def _encode(self, inputs: Any) -> dict[str, Any]:
        conversation = self._conversation(inputs)
        objects = {key: inputs.objects[key] for key in OBJECTS if inputs.objects.get(key)}
        answers = [message["content"] for message in conversation if message["role"] == "assistant"]
        if not (self.is_training and answers):  # GRPO's log asks for questions while it trains
            encoded = self._encode_question(conversation, objects)
        elif isinstance(answers[-1], list):
            encoded = self._encode_generated(conversation, objects)
        else:
            encoded = self._encode_answers(conversation, objects, self._learned_answers(inputs.messages))
        pixels = {name: encoded[name] for name in self._pixel_names if name in encoded}
        return {name: encoded[name][0].tolist() for name in ("input_ids", "labels") if name in encoded} | pixels

    @property
    def _pixel_names(self) -> list[str]:
        return list(self.processor.image_processor.model_input_names)

    def _conversation(self, inputs: Any) -> Conversation:
        """The messages of a row, its pictures in the places of the tags.

        Tags in front of the first question are ms-swift's work, where a row has more pictures than tags.
        """
        pictures = iter(inputs.images)
        messages = [{key: value for key, value in message.items() if key != "loss"} for message in inputs.messages]
        for message in messages:
            if message["role"] == "user":
                message["content"] = _parts(message["content"], pictures)
        left = len(list(pictures))
        if left:
            raise ValueError(f"Found {left} of {len(inputs.images)} pictures without an {IMAGE_TAG} in what users say.")
        system = self.template_meta.default_system if inputs.system is None else inputs.system
        return messages if system is None else [{"role": "system", "content": system}, *messages]

    def _encode_answers(self, conversation: Conversation, objects: dict[str, Any], learned: list[bool]) -> Any:
        collator = ConversationCollator(self.processor, max_length=maxsize)  # ms-swift itself looks at the length
        encoded = collator([{"messages": conversation, "objects": objects}])
        labels = encoded["labels"][0]
        labels[0] = IGNORED  # nothing predicts the first token, and ms-swift counts on it
        if not all(learned):
            self._ignore_answers(labels, learned)
        return encoded

    def _learned_answers(self, messages: Conversation) -> list[bool]:
        """For each answer whether it is learned: as its message says, else as `--loss_scale` does."""
        questions = [number for number, message in enumerate(messages) if message["role"] == "user"]
        ignored_to = questions[-1] if questions and self._loss_scale == "last_round" else -1
        return [
            number > ignored_to if message.get("loss") is None else bool(message["loss"])
            for number, message in enumerate(messages)
            if message["role"] == "assistant"
        ]

    def _ignore_answers(self, labels: torch.Tensor, learned: list[bool]) -> None:
        """Takes the labels from answers. Each ends with the only end-of-sentence token in it."""
        ends = ((labels == self.processor.tokenizer.eos_token_id).nonzero().flatten() + 1).tolist()
        if len(ends) != len(learned):
            raise ValueError(
                f"Found {len(learned)} answers, of which {len(learned) - len(ends)} are empty; expected text in each, "
                "because not all answers are trained on. Fill them in, or leave these turns out."
            )
        for is_learned, start, end in zip(learned, [0, *ends], ends, strict=False):
            if not is_learned:
                labels[start:end] = IGNORED

    def _encode_question(self, conversation: Conversation, objects: dict[str, Any]) -> Any:
        if objects:
            conversation = _with_objects(conversation, objects)
        begun = conversation[-1]["role"] == "assistant"
        return self.processor.apply_chat_template(
            conversation,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _encode_generated(self, conversation: Conversation, objects: dict[str, Any]) -> dict[str, Any]:
        """A question with the ids that the model answered, as GRPO learns from them."""
        *asked, answer = conversation
        encoded = self._encode_question(asked, objects)
        prompt, ids = encoded["input_ids"], torch.tensor([answer["content"]])
        labels = torch.cat([torch.full_like(prompt, IGNORED), ids], dim=1)
        return {**encoded, "input_ids": torch.cat([prompt, ids], dim=1), "labels": labels}

    def _data_collator(self, batch: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        if self.is_training and any(row.get("labels") is None for row in batch):
            raise ValueError("Found a row without an answer of the assistant; expected one in each row to learn from.")
        return dict(super()._data_collator(batch, **kwargs))

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        # Streamed rows have None for what other rows have.
        found = {name: [row[name] for row in batch if row.get(name) is not None] for name in self._pixel_names}
        return {name: torch.cat(tensors) for name, tensors in found.items() if tensors}

    def decode_generate_ids(self, generate_ids: list[int], **kwargs: Any) -> Any:
        """The text of an answer, without the blank between `Assistant:` and its first word."""
        text = super().decode_generate_ids(generate_ids, **kwargs)
        return text.lstrip(" ") if kwargs.get("first_token", True) else text


def _parts(text: str, pictures: Iterator[Any]) -> list[dict[str, Any]]:
    """What a user says as parts. Tags beyond the pictures are text, as elsewhere in ms-swift."""
    first, *others = text.split(IMAGE_TAG)
    parts = [{"type": "text", "text": first}]
    for other in others:
        picture = next(pictures, None)
        parts.append({"type": "text", "text": IMAGE_TAG} if picture is None else {"type": "image", "image": picture})
        parts.append({"type": "text", "text": other})
    return parts


def _with_objects(conversation: Conversation, objects: dict[str, Any]) -> Conversation:
    """A question with names and boxes in their places; those of its answer, which come after, are left over."""
    pictures = [part["image"] for part in image_parts(conversation)]
    found = read_objects(objects, len(pictures))
    try:
        return write_objects(conversation, found, [picture.size for picture in pictures])
    except StopIteration:
        raise ValueError(
            f"Found {len(found.names)} names and {len(found.boxes)} boxes in `objects`; expected as many as there are "
            "<ref-object> and <bbox> in the question."
        ) from None


# Prefix and prompt are there for ms-swift's checks; `_encode` does not read them.
register_template(
    TemplateMeta(
        NAME,
        prefix=[],
        system_prefix=["{{SYSTEM}}"],
        prompt=["{{QUERY}}"],
        chat_sep=[],
        template_cls=ConversationTemplate,
    )
)
register_model_arch(MultiModelKeys(NAME, **PARTS))
register_model(
    ModelMeta(
        NAME,
        [],
        Loader,
        template=NAME,
        model_arch=NAME,
        architectures=[
            "DeepseekVLForConditionalGeneration",
            "DeepseekVLHybridForConditionalGeneration",
            "DeepseekVL2ForConditionalGeneration",
        ],
        is_multimodal=True,
    )
)
