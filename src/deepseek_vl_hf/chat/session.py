"""A conversation about pictures that computes nothing twice."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from ..checkpoints.layouts.files import base_folder, named_folder
from ..checkpoints.layouts.generation_file import read_generation_file
from ..checkpoints.layouts.small_files import open_processor
from ..cpu.dtypes import dtype_that_fits
from ..devices import check_device
from ..models.families import config_of
from ..models.generation import MultimodalGenerationMixin
from ..nano.folder import NANO
from ..pictures.opening import flatten_pictures, open_images
from ..quantization import int4_config
from .archive import Conversation, load_archive, save_archive
from .export import save_markdown
from .figures import Beginning, Figures
from .history import EncodedConversation, MessageTooLongError, Turn, fit, measure, too_long
from .memory import EncodedImage, Memory
from .naming import check_names
from .sampling import end_of, options_of
from .showing import html_of, summary_of
from .streaming import AnswerText, Generation

logger = logging.get_logger(__name__)

# Turns are left out to keep this share of the context free for an answer, at least.
LEAST_ROOM = 4
OF_ASKING = ("text", "images")  # the arguments of a question that are not `generate`'s

# Called with what is being done ("pictures", "prompt"), how much of it is done, and how much there is.
ChatProgress = Callable[[str, int, int], None]
STILL_ANSWERING = "The answer before is still being given. Read it to its end, or close its iterator, first."


def no_chat_progress(what: str, done: int, total: int) -> None:
    """Shows nothing."""


class Chat:
    """A conversation that keeps its key/value cache: a new turn reads its own tokens alone, a picture is encoded once.

    The tokens are always those of the chat template over the whole conversation. Where an answer's tokens, decoded and
    encoded again, are others than those that were generated, the cache is cut back to where they part.

    The context is finite. When a conversation outgrows it, its oldest turns are left out, and `figures.dropped_turns`
    and a warning say so; a single message that is too long is an error.

    DeepSeek-VL2 cuts pictures into tiles if there are at most two in a conversation. Here that is decided when a
    message arrives, for its own pictures; those of earlier messages stay as they were read.

    Args:
        model: one of the package's generation models.
        processor: its processor.
        system: system prompt; None for the chat template's own, "" for none.
        tiling: for DeepSeek-VL2: True, False or "auto" (the default), the rule above.
        progress: told of pictures that are encoded and of prompts that are read.
        **sampling: arguments of `generate` for all answers, in place of the original's (`SAMPLING`); those of one
            sequence without beams or assistants. A temperature above 0, `top_p` or `top_k` turns sampling on, whatever
            `generation_config.json` says; a temperature of 0 turns it off.

    Attributes:
        turns: the conversation.
        figures: of the last answer; None before it.

    Raises:
        TypeError: the model is not one of this package's.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        system: str | None = None,
        tiling: str | bool | None = None,
        progress: ChatProgress = no_chat_progress,
        **sampling: Any,
    ) -> None:
        if not isinstance(model, MultimodalGenerationMixin):
            raise TypeError(
                f"Found a {type(model).__name__}; expected a DeepSeek-VL model with its head, as "
                "AutoModelForImageTextToText gives it once deepseek_vl_hf is imported."
            )
        check_names(sampling, ("system", "tiling", "progress"))
        self.model, self.processor = model.eval(), processor
        self.system, self.tiling, self.progress = system, tiling, progress
        self.sampling = sampling
        self.turns: list[Turn] = []
        self.figures: Figures | None = None
        self._memory = Memory(model)
        self._stop = threading.Event()
        self._busy = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = NANO,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | None = None,
        int4: bool = False,
        **options: Any,
    ) -> "Chat":
        """Loads model and processor.

        Args:
            name_or_path: folder or Hub repository, in either layout, or of adapters; by default the model that comes
                with the package.
            dtype: of the weights; by default what the device computes fastest and what fits in memory, of 4-bit weights
                bfloat16.
            device: by default CUDA if there is one, else the CPU.
            int4: whether the language model gets 4-bit weights.
            **options: see the class.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: it is of another family, its generation_config.json is damaged, or there is no such device.
        """
        folder = named_folder(name_or_path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        check_device(device)
        base = base_folder(folder)
        config = config_of(base)
        read_generation_file(base)
        loading = {"quantization_config": int4_config(device=device)} if int4 else {}
        if dtype is None:
            quantized = int4 or hasattr(config, "quantization_config")  # most kinds want bfloat16 around them
            dtype = torch.bfloat16 if quantized else dtype_that_fits(base, device)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, device_map=device, **loading)
        return cls(model, open_processor(folder), **options)

    def ask(self, text: str | Sequence[str], images: Sequence[Any] = (), **sampling: Any) -> str:
        """The whole answer; arguments as for `stream`."""
        check_names(sampling, OF_ASKING)
        turn = self._turn(text, images)
        for _ in self._answer(turn, sampling):
            pass
        return turn.answer or ""

    def __call__(self, text: str | Sequence[str], images: Sequence[Any] = (), **sampling: Any) -> str:
        """The same as `ask`."""
        return self.ask(text, images, **sampling)

    def __repr__(self) -> str:
        return f"Chat({summary_of(self.model, self.turns)})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_of(summary_of(self.model, self.turns), self.turns)

    def stream(self, text: str | Sequence[str], images: Sequence[Any] = (), **sampling: Any) -> Iterator[str]:
        """Asks, and gives the answer piece by piece.

        Leaving the loop, `stop` from another thread, and Ctrl-C end the answer; what there is of it stays in the
        conversation. A question of whose answer there is nothing is taken back.

        Args:
            text: the question, after its pictures; or a list of texts, between which the pictures stand, one more
                than there are pictures. Control tokens in it stay text.
            images: paths, URLs, `data:` URIs, bytes, open files, Pillow images or arrays.
            **sampling: arguments of `generate` for this answer.

        Raises:
            RuntimeError: the answer before is still being given.
            TypeError, ValueError: a picture cannot be read, the message is longer than the model's context, texts and
                pictures differ in number, or there is no such argument.
        """
        check_names(sampling, OF_ASKING)
        return self._answer(self._turn(text, images), sampling)

    def stop(self) -> None:
        """Ends the answer that is being given, from another thread; whoever reads the answer gets to its end then."""
        self._stop.set()

    @property
    def busy(self) -> bool:
        """Whether an answer is being given."""
        return self._busy.locked()

    def undo(self) -> Turn | None:
        """Takes the last turn back and returns it; None if there is none.

        Raises:
            RuntimeError: an answer is being given.
        """
        self._check_idle()
        return self.turns.pop() if self.turns else None

    def new(self) -> None:
        """Begins a new conversation.

        Raises:
            RuntimeError: an answer is being given.
        """
        self._check_idle()
        self.turns = []
        self.figures = None
        self._memory.clear()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the conversation to a file, which is complete or absent.

        Args:
            path: a name that ends in `.zip` for a file that `load` reads, with the pictures as they are; in `.md` for
                one that people read, with the pictures in a folder beside it.
            overwrite: whether a `.zip` that is there is replaced.

        Returns:
            The file.

        Raises:
            FileExistsError, FileNotFoundError: something is there already, or there is no such folder.
            ValueError: the name ends in something else, or there is no turn yet.
        """
        path = Path(path).expanduser()
        if not self.turns:
            raise ValueError("There is nothing to save yet.")
        if path.suffix.lower() == ".md":
            return save_markdown(self.turns, path)
        if path.suffix.lower() != ".zip":
            raise ValueError(f"{path} ends in {path.suffix!r}; expected .zip, for chat.load, or .md, for people.")
        save_archive(path, self.model, Conversation(self.turns, self.system, self.tiling), overwrite)
        return path

    def load(self, path: str | Path) -> "Chat":
        """Goes on with a conversation that `save` wrote to a `.zip`, in place of this one.

        System prompt and tiling are those of the file; arguments of `generate` stay this chat's. Pictures and texts are
        read again when the next question is asked.

        Returns:
            This chat.

        Raises:
            FileNotFoundError: there is no such file.
            RuntimeError: an answer is being given.
            ValueError: the file is damaged, or of another model.
        """
        self._check_idle()
        found = load_archive(Path(path).expanduser(), self.model, self.processor)
        self.new()
        self.turns, self.system, self.tiling = found.turns, found.system, found.tiling
        return self

    @property
    def context(self) -> int:
        """The longest prompt with its answer that the model was trained for, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def _turn(self, text: str | Sequence[str], images: Sequence[Any]) -> Turn:
        images = flatten_pictures(images)
        texts = [*[""] * len(images), text] if isinstance(text, str) else list(text)
        if not all(isinstance(each, str) for each in texts):
            raise TypeError(f"Found {text!r} as text; expected a string, or a list of them.")
        if len(texts) != len(images) + 1:
            raise ValueError(f"Found {len(texts)} texts around {len(images)} pictures; expected {len(images) + 1}.")
        least = len(images) * self.model.config.fewest_image_tokens
        if least >= self.context:  # thousands of pictures would take long to open
            raise MessageTooLongError(too_long(f"at least {least} tokens for its {len(images)} pictures", self.context))
        return Turn(texts, open_images(images, transparency=self.processor.image_processor.transparency))

    def _check_idle(self) -> None:
        if self.busy:
            raise RuntimeError(STILL_ANSWERING)

    def _answer(self, turn: Turn, sampling: dict[str, Any]) -> Iterator[str]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(STILL_ANSWERING)
        try:
            # One for each answer: an earlier one must not be taken up again.
            self._stop = threading.Event()
            self.figures = None
            start = time.perf_counter()
            options = options_of(self.model, self.processor, self.sampling, sampling)
            measure(self.processor, self.turns, turn, self.tiling)
            turns = [*self.turns, turn]
            room = min(options["max_new_tokens"], self.context // LEAST_ROOM)
            ids, dropped = fit(self.processor, self.system, turns, self.context, room)
            for each in turns[dropped:]:  # not before it is known to fit; of earlier turns those that were loaded
                self._encode(each)
            if self._stop.is_set():
                return
            prompt = EncodedConversation(ids, [image for each in turns[dropped:] for image in each.images])
            if dropped:
                logger.warning(f"The conversation is full; its oldest turns ({dropped}) are left out from here on.")
            options["max_new_tokens"] = min(options["max_new_tokens"], self.context - len(prompt.ids))
            kept = self._memory.read(prompt.ids, prompt.images, self._reading)
            if not self._stop.is_set():
                yield from self._generate(turn, prompt, options, Beginning(start, kept, dropped))
        finally:
            self._busy.release()

    def _encode(self, turn: Turn) -> None:
        """Gives the pictures of a turn that are not encoded yet to the towers, one after the other."""
        for number, picture in list(enumerate(turn.pictures))[len(turn.images) :]:
            self.progress("pictures", number, len(turn.pictures))
            if self._stop.is_set():
                return
            pixels = self.processor.process_picture(picture, turn.count, self.tiling)
            with torch.no_grad():
                features = self.model.get_image_features(
                    **pixels.to(self.model.device, dtype=self.model.dtype), return_dict=True
                )
            turn.images.append(EncodedImage(features.pooler_output[0]))

    def _generate(
        self, turn: Turn, prompt: EncodedConversation, options: dict[str, Any], begun: Beginning
    ) -> Iterator[str]:
        """Generates, and keeps the turn with what was given of an answer, unless an error ended it."""
        generation = Generation(self.model, self._memory.cache, prompt.ids, options, self._stop)
        text, first, given = AnswerText(self.processor), 0.0, []
        try:
            with closing(iter(generation)) as tokens:
                for token in tokens:
                    first = first or time.perf_counter()
                    given.append(token)
                    piece = text.add(token)
                    if piece:
                        yield piece
        finally:
            self._memory.noted([*prompt.ids, *generation.new_ids], prompt.images)
            if given and generation.failure is None:
                turn.answer = text.whole
                self.turns = [*self.turns[begun.dropped :], turn]
                self.figures = Figures(
                    prompt_tokens=len(prompt.ids),
                    kept_tokens=begun.kept,
                    new_tokens=len(given),
                    seconds_to_first_token=first - begun.time,
                    seconds=time.perf_counter() - begun.time,
                    dropped_turns=begun.dropped,
                    ended=end_of(given, options, self.model),
                )

    def _reading(self, done: int, total: int) -> bool:
        self.progress("prompt", done, total)
        return not self._stop.is_set()
