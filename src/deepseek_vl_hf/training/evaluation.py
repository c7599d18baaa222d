"""Answers to held-out conversations: the last turn of each is asked and compared with what is written there."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..conversation.messages import Conversation

Encode = Callable[[Sequence[Conversation]], Any]


@dataclass(frozen=True)
class Answer:
    """A conversation's last turn.

    Attributes:
        place: where the conversation stands.
        expected: what is written there.
        answer: what the model says.
    """

    place: str
    expected: str
    answer: str

    @property
    def is_exact(self) -> bool:
        """Whether both are the same, apart from space around them."""
        return self.answer.strip() == self.expected.strip()


def text_of(message: dict[str, Any]) -> str:
    """What a message says."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def asked(conversation: Conversation) -> tuple[Conversation, str]:
    """What stands before the last answer, and that answer."""
    last = max(number for number, message in enumerate(conversation) if message["role"] == "assistant")
    return conversation[:last], text_of(conversation[last])


@torch.no_grad()
def answers_of(
    model: Any, processor: Any, conversations: Sequence[tuple[str, Conversation]], batch_size: int
) -> list[Answer]:
    """Asks for the last answer of each conversation, greedily; as many tokens as the longest expected one, and a half.

    Args:
        model: a generation model, with or without adapters.
        processor: its processor.
        conversations: where each stands, and its messages with their pictures.
        batch_size: conversations that are asked together.
    """
    was_training = model.training
    model.eval()
    found: list[Answer] = []
    try:
        for start in range(0, len(conversations), batch_size):
            part = conversations[start : start + batch_size]
            questions = [asked(conversation) for _, conversation in part]
            texts = _generate(model, processor, questions)
            found += [
                Answer(place, expected, text)
                for (place, _), (_, expected), text in zip(part, questions, texts, strict=True)
            ]
    finally:
        model.train(was_training)
    return found


def _generate(model: Any, processor: Any, questions: Sequence[tuple[Conversation, str]]) -> list[str]:
    longest = max(len(processor.tokenizer.encode(expected)) for _, expected in questions)
    inputs = processor.apply_chat_template(
        [prompt for prompt, _ in questions],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    ).to(model.device)
    generated = model.generate(**inputs, max_new_tokens=longest + longest // 2 + 8, do_sample=False)
    return answer_texts(processor, generated[:, inputs["input_ids"].shape[1] :])


def answer_texts(processor: Any, generated: torch.Tensor) -> list[str]:
    """Answers as text, without what ends them, but with the tokens that name places.

    Args:
        processor: of the model that gave them.
        generated: [batch, new tokens], without the prompts.
    """
    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return [tokenizer.decode([token for token in row if token not in ends]).strip() for row in generated.tolist()]


def write_answers(answers: Sequence[Answer], path: Path) -> None:
    """Writes answers as JSON lines."""
    lines = [json.dumps({**asdict(answer), "exact": answer.is_exact}, ensure_ascii=False) for answer in answers]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
