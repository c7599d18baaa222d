"""The prompts that DeepSeek-OCR's authors give, by name."""

PROMPTS = {
    "document": "<|grounding|>Convert the document to markdown.",
    "ocr": "<|grounding|>OCR this image.",
    "free": "Free OCR.",
    "figure": "Parse the figure.",
    "describe": "Describe this image in detail.",
    "locate": "Locate <|ref|>{}<|/ref|> in the image.",
}
LOCATE = "locate"


def prompt_of(task: str, text: str | None = None) -> str:
    """The prompt, as it stands after the picture.

    Args:
        task: a name of `PROMPTS`.
        text: what to look for with "locate".

    Raises:
        ValueError: there is no such name, "locate" without a text, or a text with another one.
    """
    if task not in PROMPTS:
        raise ValueError(f"The task is {task!r}; expected {', '.join(PROMPTS)}.")
    if task == LOCATE and not text:
        raise ValueError(f"{task} has no text to look for; pass one.")
    if task != LOCATE and text:
        raise ValueError(f"{task} takes no text; found {text!r}. Leave it out.")
    return PROMPTS[task].format(text)
