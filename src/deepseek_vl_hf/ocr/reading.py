"""Pages to answers to results: what the model is asked, and what becomes of what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat import Chat
from ..chat.batch import BatchAnswer, ask_each
from ..checkpoints.layouts.files import base_folder
from ..models.deepseek_ocr.configuration_deepseek_ocr import DeepseekOCRConfig
from ..models.families import config_of
from .layout import Layout, read_layout
from .pages import Document, Page
from .repetition import Repetition

ENDED = "eos"  # an answer that came to its end


@dataclass(frozen=True)
class Reader:
    """How pages are read.

    Args:
        chat: of a DeepSeek-OCR model.
        prompt: what stands after each picture.
        mode: one of `views.MODES`; it is set on the chat's image processor.
        max_new_tokens: of each answer.
        ngram: see `Repetition`; None for the authors' value for documents of a kind.
        window: likewise.

    Raises:
        ValueError: there is no such mode.
    """

    chat: Chat
    prompt: str
    mode: str
    max_new_tokens: int
    ngram: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        self.chat.processor.image_processor.mode = self.mode

    @property
    def transparency(self) -> str:
        """How pictures are to be opened."""
        return str(self.chat.processor.image_processor.transparency)

    def options(self, document: Document) -> dict[str, Any]:
        """Arguments of `generate`: the likeliest token each time, without what the authors keep from coming again."""
        rule = document.repetition
        ngram = rule.ngram if self.ngram is None else self.ngram
        window = rule.window if self.window is None else self.window
        return {
            "do_sample": False,
            "repetition_penalty": 1.0,
            "max_new_tokens": self.max_new_tokens,
            "no_repeat_ngram_size": 0,  # the model's default, in the place of which the windowed rule stands
            "logits_processor": Repetition(ngram, window).processors(self.chat.processor.tokenizer),
        }

    def stream(self, page: Page) -> Iterator[str]:
        """A page's answer piece by piece, with its marks; `chat.figures.ended` says then how it ended.

        Raises:
            OSError, ValueError: see `Chat.stream`.
        """
        self.chat.new()
        yield from self.chat.stream(self.prompt, [page.picture], **self.options(page.document))

    def read(self, pages: Sequence[Page]) -> list["PageResult"]:
        """Reads pages of one kind at once; memory grows with their number.

        Args:
            pages: a batch, as `batches` gives them; those that could not be opened keep their failure.
        """
        opened = [page for page in pages if page.picture is not None]
        options = self.options(pages[0].document)
        answers = iter(ask_each(self.chat, self.prompt, [page.picture for page in opened], **options))
        return [self._result(page, next(answers)) if page.picture is not None else PageResult(page) for page in pages]

    def _result(self, page: Page, answer: BatchAnswer) -> "PageResult":
        if answer.failure is not None or page.picture is None:
            return PageResult(Page(page.document, page.number, failure=answer.failure))
        prefix = f"{page.number}_" if page.document.count > 1 else ""
        layout = read_layout(answer.text, page.picture.size, lambda number: f"images/{prefix}{number}.jpg")
        return PageResult(page, answer, layout)


@dataclass(frozen=True)
class PageResult:
    """What became of a page.

    Attributes:
        page: its picture, or why there is no result.
        answer: the model's, with its marks.
        layout: the same in parts.
    """

    page: Page
    answer: BatchAnswer | None = None
    layout: Layout | None = None

    def record(self) -> dict[str, Any]:
        """For machines, as JSON: what the page says, and where.

        Raises:
            ValueError: the page has no result.
        """
        if self.answer is None or self.layout is None or self.page.picture is None:
            raise ValueError(f"{self.page.document.source}: no result.")
        width, height = self.page.picture.size
        return {
            "source": self.page.document.source.encode("utf-8", "backslashreplace").decode(),
            "page": self.page.number,
            "width": width,
            "height": height,
            "blocks": [
                {
                    "label": block.label,
                    "text": block.text,
                    "boxes": [list(box) for box in block.boxes],
                    "figures": list(block.figures),
                }
                for block in self.layout.blocks
            ],
            "markdown": self.layout.markdown,
            "answer": self.answer.text,
            "new_tokens": self.answer.new_tokens,
            "ended": self.answer.ended,
            "notes": list(self.layout.notes),
        }


def check_reads_documents(name: str, folder: Path) -> None:
    """Looks at a checkpoint's config, before its weights are loaded.

    Args:
        name: as the checkpoint was named.
        folder: where it is.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is not a DeepSeek-OCR model.
    """
    found, expected = config_of(base_folder(folder)).model_type, DeepseekOCRConfig.model_type
    if found != expected:
        raise ValueError(
            f"{name} is a {found} model; expected {expected}. Name a DeepSeek-OCR checkpoint with --model, or ask this "
            "model with deepseek-vl describe."
        )
