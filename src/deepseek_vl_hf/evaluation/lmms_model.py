"""The families' models as a model of lmms-eval: questions in batches, answered by `generate`.

requests --batches_of--> numbers of questions that are asked alike
  messages of a question --conversation_of--> the processor's shape
  | processor.apply_chat_template      [batch, sequence], padded on the left
  | generate                           [batch, sequence + new]
  | answer_texts, cut                  texts, with the tokens that name places, up to what ends them
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm.auto import tqdm

from ..chat import Chat
from ..models.deepseek_vl2.tiling import ENLARGED_RESOLUTIONS
from ..models.families import DEEPSEEK_VL2
from ..serving.stops import cut
from ..training.evaluation import answer_texts
from .lmms_plugin import NAME
from .questions import Settings, batches_of, conversation_of, settings_of
from .scores import metrics_of, scored_elsewhere

CANDIDATES = {"infovqa": ENLARGED_RESOLUTIONS}
NOT_HERE = "lmms-eval asks for {}, which {} does not do. Choose a task of the type generate_until."


class DeepseekVL(lmms):
    """A model of the package, loaded as `Chat.from_pretrained` loads it; the arguments are lmms-eval's `--model_args`.

    Args:
        pretrained: folder or Hub repository in either layout, of adapters, or "nano".
        batch_size: questions that are answered together.
        device: by default CUDA if there is one, else the CPU. Processes that share the work take a GPU each.
        dtype: of the weights; by default what the device computes fastest and what fits in memory.
        int4: whether the language model gets 4-bit weights.
        tiling: for DeepSeek-VL2: True, False, or "auto", the published rule.
        image_newline: whether a line break stands after each picture, as in the examples of DeepSeek-VL2's authors.
        system_prompt: in place of the task's own and of the chat template's; "" for none.
        candidate_resolutions: for DeepSeek-VL2: "infovqa", the enlarged ones of the paper's InfoVQA.
        **others: there are none.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: an argument that does not exist, is missing, or means nothing for this model.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        int4: bool = False,
        tiling: bool | str | None = None,
        image_newline: bool = False,
        system_prompt: str | None = None,
        candidate_resolutions: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if others or pretrained is None:
            found = f"model arguments that do not exist: {', '.join(others)}" if others else "no model"
            raise ValueError(
                f"Found {found}; expected --model_args pretrained=path/to/model, and besides dtype, int4, tiling, "
                "image_newline, system_prompt or candidate_resolutions."
            )
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"Found --batch_size {batch_size}; expected a whole number from 1.")
        if dtype not in (None, "auto") and not isinstance(getattr(torch, str(dtype), None), torch.dtype):
            raise ValueError(f"Found dtype={dtype}; expected float32, bfloat16, float16 or auto, or none.")
        self.batch_size = int(batch_size)
        chat = Chat.from_pretrained(str(pretrained), dtype=dtype, device=device or _device_of_process(), int4=int4)
        self.model, self.processor = chat.model, chat.processor
        self.device = self.model.device
        self._picture_settings = _picture_settings(self.model, tiling, candidate_resolutions)
        self._system_prompt = None if system_prompt is None else str(system_prompt)
        self._image_newline = bool(image_newline)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to requests of lmms-eval, in their order.

        Raises:
            ValueError: a question holds a video or sound.
        """
        asked = [request.args[2] for request in requests]
        _say_beforehand(requests)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="answers", disable=self.rank != 0) as bar:
            for numbers in batches_of(asked, [len(str(request.args[0])) for request in requests], self.batch_size):
                conversations = [self._conversation(requests[number].args) for number in numbers]
                texts = self._answer(conversations, settings_of(asked[numbers[0]]))
                for number, text in zip(numbers, texts, strict=True):
                    answers[number] = text
                bar.update(len(numbers))
        return answers

    def _conversation(self, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        _, doc_to_messages, _, number, task, split = arguments
        try:
            return conversation_of(
                doc_to_messages(self.task_dict[task][split][number]),
                system_prompt=self._system_prompt,
                image_newline=self._image_newline,
            )
        except ValueError as error:
            raise ValueError(f"{task}, question {number}: {error}") from error

    def _answer(self, conversations: list[list[dict[str, Any]]], settings: Settings) -> list[str]:
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left", **self._picture_settings},
        ).to(self.model.device)
        # Ends a row early; what has to be cut off is cut off below.
        stopping = {"stop_strings": list(settings.stops), "tokenizer": self.processor} if settings.stops else {}
        generated = self.model.generate(**inputs, **settings.generate, **stopping)
        texts = answer_texts(self.processor, generated[:, inputs["input_ids"].shape[1] :])
        return [cut(text, settings.stops)[0].rstrip() for text in texts]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: chat models are asked for answers."""
        raise NotImplementedError(NOT_HERE.format("likelihoods of given answers", NAME))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused."""
        raise NotImplementedError(NOT_HERE.format("conversations of several rounds", NAME))


def _device_of_process() -> str | None:
    """A GPU for each process that a launcher started; None where there is one process, or no GPU."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several and torch.cuda.is_available() else None


def _picture_settings(model: Any, tiling: Any, candidates: Any) -> dict[str, Any]:
    """Arguments of the processor's call."""
    given = {"tiling": tiling, "candidate_resolutions": candidates}
    given = {name: value for name, value in given.items() if value is not None}
    if given and model.config.model_type != DEEPSEEK_VL2.config.model_type:
        raise ValueError(
            f"Found {', '.join(given)} for a {model.config.model_type}; it is for DeepSeek-VL2. Leave it out."
        )
    if candidates is not None and candidates not in CANDIDATES:
        raise ValueError(f"Found candidate_resolutions={candidates}; expected {' or '.join(CANDIDATES)}, or none.")
    return {**given, "candidate_resolutions": CANDIDATES[candidates]} if candidates else given


def _say_beforehand(requests: Sequence[Any]) -> None:
    """Warns, once for each task, of scores that do not come from here and of settings that nothing reads."""
    firsts = {request.args[4]: request.args for request in reversed(requests)}
    for task, (_, doc_to_messages, asked, *_) in firsts.items():
        if note := scored_elsewhere(task, metrics_of(doc_to_messages)):
            logger.warning(note)
        if ignored := settings_of(asked).ignored:
            logger.warning(f"{task} asks for {', '.join(ignored)}, which {NAME} does not know and leaves aside.")
