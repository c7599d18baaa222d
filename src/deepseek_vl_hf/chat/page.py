"""A web page to talk with a model: pictures, answers as they are made, several conversations side by side.

Needs Gradio, which the command `deepseek-vl demo` asks for. Conversations are kept on the server; of a visitor's page
only the question is read. Pictures are uploaded. (Without the page one can hand over an address in place of a file;
Gradio refuses private ones and the server's files, and fetches public ones into its folder of uploads.)
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..pictures.drawing import draw_boxes, draw_tiles, draw_view
from ..pictures.opening import open_image
from .figures import Figures
from .history import Turn
from .limits import MOST_CHARACTERS, Shares, check_message, uploads_of
from .page_errors import STOPPED_EARLY, TOO_MANY_QUESTIONS, of_broken, reason_of
from .page_facts import abilities_of, facts_of, figures_of, fill_of
from .session import Chat

# Conversations that are kept; each has a key/value cache. The one that was silent longest goes first.
MOST_CONVERSATIONS = 8
LARGEST_UPLOAD = "50mb"
# Questions of all visitors that wait; further ones are refused.
MOST_WAITING = 32
# What waits for its turn here comes one after the other.
ANSWERS = "answers"
# Uploads are looked through every hour, and go when they are a day old; seconds.
UPLOADS_ARE_KEPT = (3600, 86400)
# Fonts of the visitor's system: the usual themes have theirs fetched from elsewhere.
FONTS = ("system-ui", "sans-serif")
# On a phone the conversation leaves room for the question, and the buttons stand side by side.
CSS = """
#buttons button { min-width: 0; }
#buttons button:disabled { opacity: 0.4; }
#conversation .message img { max-height: 220px; width: auto; }
#conversation .bot > .message + .message em { font-size: 0.85em; font-style: normal; opacity: 0.7; }
@media (max-width: 640px) { #conversation { height: 42dvh !important; } #title h1 { font-size: 1.2rem; margin: 0; } }
"""

Messages = list[dict[str, Any]]


@dataclass
class Visit:
    """What a visitor has: a conversation, and how the page shows it. The page itself is not believed."""

    chat: Chat
    shown: Messages = field(default_factory=list)

    def take_back(self) -> Any:
        """The messages without the last question; an answer that is being given is only stopped."""
        if self.chat.busy:
            self.chat.stop()
            return gr.skip()
        if self.chat.undo() is not None:
            self.shown = without_last_turn(self.shown)
        return self.shown


class Visits:
    """One `Visit` for each visitor; all share the model.

    Args:
        make: makes a new conversation.
    """

    def __init__(self, make: Callable[[], Chat]) -> None:
        self._make = make
        self._visits: OrderedDict[str, Visit] = OrderedDict()

    def of(self, visitor: str) -> Visit:
        """The visitor's; the one that was silent longest goes when there are too many."""
        visit = self._visits.pop(visitor, None) or Visit(self._make())
        self._visits[visitor] = visit
        while len(self._visits) > MOST_CONVERSATIONS:
            self.end(next(iter(self._visits)))
        return visit

    def end(self, visitor: str) -> None:
        """Ends the visitor's conversation and frees its memory."""
        visit = self._visits.pop(visitor, None)
        if visit is not None:
            visit.chat.stop()

    def holds(self, visitor: str, visit: Visit) -> bool:
        """Whether this is still the visitor's conversation."""
        return self._visits.get(visitor) is visit

    def shown_to(self, visitor: str) -> Messages:
        """The visitor's messages; none where no conversation was begun."""
        visit = self._visits.get(visitor)
        return visit.shown if visit is not None else []

    def answer(self, visitor: str, message: dict[str, Any], uploads: Path) -> Iterator[Any]:
        """What the page shows while a visitor's question is answered, up to a new conversation; see `answer`."""
        visit = self.of(visitor)
        for state in answer(visit, message, uploads):
            if not self.holds(visitor, visit):
                yield self.nothing_to_answer(visitor)
                return
            yield state

    def nothing_to_answer(self, visitor: str) -> tuple[Any, ...]:
        """The page's state where a question went with its conversation."""
        return self.shown_to(visitor), gr.skip(), *nothing_yet()


class Handlers:
    """What the page calls; a visitor is known by the hash of the session.

    Args:
        make: makes a new conversation.
        uploads: the folder of uploaded files.
    """

    def __init__(self, make: Callable[[], Chat], uploads: Path) -> None:
        self._visits, self._shares, self._uploads = Visits(make), Shares(), uploads

    def admit(self, message: dict[str, Any], request: gr.Request) -> Any:
        """Called when a question comes, before it waits for its turn."""
        return gr.validate(self._shares.take(str(request.session_hash)), TOO_MANY_QUESTIONS)

    def ask(self, message: dict[str, Any] | None, request: gr.Request) -> Iterator[Any]:
        """Answers a question whose turn it is, unless it went with its conversation."""
        visitor = str(request.session_hash)
        try:
            if self._shares.begin(visitor):
                yield from self._visits.answer(visitor, message or {}, self._uploads)
            else:
                yield self._visits.nothing_to_answer(visitor)
        finally:
            self._shares.give_back(visitor)

    def stop(self, request: gr.Request) -> None:
        """Ends the answer that is being given."""
        self._visits.of(str(request.session_hash)).chat.stop()

    def stoppable(self, request: gr.Request) -> Any:
        """The button that stops works while a question of the visitor's is under way."""
        return gr.Button(interactive=self._shares.under_way(str(request.session_hash)))

    def take_back(self, request: gr.Request) -> Any:
        """See `Visit.take_back`."""
        return self._visits.of(str(request.session_hash)).take_back()

    def begin_anew(self, request: gr.Request) -> tuple[Messages, str, Any]:
        """Ends the conversation, and what waits with it."""
        self._shares.withdraw(str(request.session_hash))
        self._visits.end(str(request.session_hash))
        return [], *nothing_yet()

    def settle(self, request: gr.Request) -> tuple[Any, ...]:
        """Called once no answer of the visitor's is under way: its last pieces may have come after the click."""
        self._shares.settle(str(request.session_hash))
        shown = self._visits.shown_to(str(request.session_hash))
        return shown, *((gr.skip(), gr.skip()) if shown else nothing_yet())

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self._visits.end(str(request.session_hash))
        self._shares.forget(str(request.session_hash))


def build_page(make: Callable[[], Chat], title: str, examples: Sequence[dict[str, Any]] = ()) -> gr.Blocks:
    """The page; `launch` it.

    Args:
        make: makes a conversation of a model that is loaded already.
        title: what is shown above it.
        examples: questions to click, each with `text` and `files`.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=UPLOADS_ARE_KEPT) as page:
        gr.Markdown(f"# {title}\n{abilities_of(make())}", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3):
                messages = gr.Chatbot(label="Conversation", height=520, elem_id="conversation", buttons=["copy"])
                figures = gr.Markdown(elem_id="figures")
                question = question_field()
                with gr.Row(elem_id="buttons"):
                    stop = gr.Button("Stop", elem_id="stop", size="sm", min_width=60, interactive=False)
                    undo = gr.Button("Take back", elem_id="undo", size="sm", min_width=60)
                    new = gr.Button("New conversation", elem_id="new", size="sm", min_width=60)
                if examples:
                    gr.Examples([[example] for example in examples], question, label="Try one of these", api_name=False)
            with gr.Column(scale=1):
                seen = gr.Gallery(label="What the model saw and named", elem_id="seen", visible=False, columns=1)
                with gr.Accordion("Model", open=True):
                    gr.Markdown(facts_of(make()), elem_id="facts")
        call, whole = Handlers(make, Path(question.GRADIO_CACHE)), [messages, figures, seen]
        state = [messages, question, figures, seen]
        at_once: dict[str, Any] = {"queue": False, "api_name": False}
        question.submit(lambda: gr.Button(interactive=True), None, stop, **at_once)
        asked = question.submit(call.ask, question, state, api_name="ask", validator=call.admit, concurrency_id=ANSWERS)
        asked.then(call.stoppable, None, stop, **at_once)
        stop.click(call.stop, **at_once)
        clicks = [undo.click(call.take_back, None, messages, **at_once)]
        clicks += [event(call.begin_anew, None, whole, **at_once) for event in (new.click, messages.clear)]
        for clicked in clicks:
            clicked.then(call.settle, None, whole, api_name=False, show_progress="hidden", concurrency_id=ANSWERS)
        page.unload(call.leave)
    return page


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serves the page; one answer is made at a time.

    Args:
        page: what `build_page` gave.
        **options: further arguments of Gradio's `launch`, such as `server_port`.

    Returns:
        What Gradio's `launch` does.

    Raises:
        OSError: the port is taken.
    """
    page.queue(default_concurrency_limit=1, max_size=MOST_WAITING)
    return page.launch(
        share=False, theme=theme(), max_file_size=LARGEST_UPLOAD, css=CSS, footer_links=[], ssr_mode=False, **options
    )


def nothing_yet() -> tuple[str, Any]:
    """Figures, and what was seen, before the first answer."""
    return "", gr.Gallery(visible=False)


def question_field() -> gr.MultimodalTextbox:
    """Where a question is typed and pictures are uploaded."""
    return gr.MultimodalTextbox(
        file_types=["image"],
        file_count="multiple",
        placeholder="A question, and pictures",
        show_label=False,
        elem_id="question",
        max_plain_text_length=MOST_CHARACTERS,  # what is longer would become a file that is no picture
    )


def answer(visit: Visit, message: dict[str, Any], uploads: Path) -> Iterator[Any]:
    """Gives the page's state after each piece: messages, question, figures, what was seen.

    Where a picture cannot be read or was not uploaded, the message is too long or more than a visitor's share, or the
    model fails, that is shown and the question stays to be changed.

    Args:
        visit: the visitor's.
        message: `text` and `files`, as Gradio gives them.
        uploads: the folder of uploaded files; no other file is opened.
    """
    chat, text = visit.chat, message.get("text") or ""
    try:
        pictures = uploads_of(message.get("files") or (), uploads)
    except ValueError as error:
        # Without the files: Gradio would hand out what stands in the field.
        yield refused(visit, {"text": text, "files": []}, str(error))
        return
    try:
        check_message(text, pictures, [picture for turn in chat.turns for picture in turn.pictures])
    except ValueError as error:
        yield refused(visit, message, str(error))
        return
    if not text.strip() and not pictures:
        yield visit.shown, gr.skip(), gr.skip(), gr.skip()
        return
    asked = [*visit.shown, *({"role": "user", "content": {"path": str(picture)}} for picture in pictures)]
    asked += [{"role": "user", "content": plain(text)}] if text.strip() else []
    opened, broken = open_uploads(pictures)
    if broken:
        kept = {"text": text, "files": [str(picture) for picture in pictures if picture not in broken]}
        yield refused(visit, kept, of_broken(broken))
        return
    given = ""
    try:
        pieces = chat.stream(text, opened)
        yield asked, gr.MultimodalTextbox(value=None), "Reading ...", gr.skip()
        for piece in pieces:
            given += piece
            yield [*asked, {"role": "assistant", "content": plain(given)}], gr.skip(), "Answering ...", gr.skip()
    except Exception as error:  # of a library, a device, our own: the page stays, whatever it is
        yield refused(visit, message, reason_of(error))
        return
    if chat.figures is None:
        yield visit.shown, gr.MultimodalTextbox(value=message), STOPPED_EARLY, gr.skip()
        return
    visit.shown = [*asked, answered(given, chat.figures)]
    seen = what_was_seen(chat)
    yield visit.shown, gr.skip(), fill_of(chat.figures, chat.context), gr.Gallery(value=seen, visible=bool(seen))


def open_uploads(pictures: Sequence[Path]) -> tuple[list[Any], list[Path]]:
    """The pictures of a message, opened under Pillow's limit, and those that cannot be."""
    opened, broken = [], []
    for picture in pictures:
        try:
            opened.append(open_image(picture))
        except ValueError:
            broken.append(picture)
    return opened, broken


def refused(visit: Visit, message: dict[str, Any], reason: str) -> tuple[Any, ...]:
    """The page's state after an error: its conversation as before, the question where it was typed, and the reason."""
    said = f"**The question was not answered.** {plain(reason)}"
    return visit.shown, gr.MultimodalTextbox(value=message), said, gr.skip()


def answered(given: str, figures: Figures) -> dict[str, Any]:
    """An answer that came to its end, with its figures below, in Markdown because they are copied with it."""
    return {"role": "assistant", "content": [plain(given), f"*{figures_of(figures)}*"]}


def plain(text: str) -> str:
    """Text as Markdown shows it: what stands in angle brackets, as control tokens do, would be taken for HTML."""
    return text.replace("<", "&lt;")


def without_last_turn(shown: Messages) -> Messages:
    """The messages up to the last question."""
    kept = list(shown)
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    while kept and kept[-1]["role"] == "user":
        kept.pop()
    return kept


def what_was_seen(chat: Chat) -> list[tuple[Image.Image, str]]:
    """Places that the last answer names, and the tiles of the last question's pictures, of families that have them."""
    find = getattr(chat.processor, "post_process_grounding", None)
    if find is None or not chat.turns:
        return []
    last = chat.turns[-1]
    return [*_boxes(chat, find, last), *_tiles(chat, last)]


def _boxes(chat: Chat, find: Callable[..., Any], last: Turn) -> list[tuple[Image.Image, str]]:
    picture = next((turn.pictures[-1] for turn in reversed(chat.turns) if turn.pictures), None)
    if picture is None:
        return []
    (found,) = find(last.answer or "", [(picture.height, picture.width)])
    return [(draw_boxes(picture, found.labels, found.boxes), ", ".join(found.labels))] if found.boxes else []


def _tiles(chat: Chat, last: Turn) -> list[tuple[Image.Image, str]]:
    shown = []
    for picture in last.pictures:
        pixels = chat.processor.process_picture(picture, last.count, chat.tiling)
        columns, rows = pixels["tile_grids"][0].tolist()
        size = f"{picture.width} x {picture.height} pixels"
        whole, apart = pixels["pixel_values"], pixels.get("tile_pixel_values")
        if apart is None and len(whole) == 1:  # a mode of DeepSeek-OCR without tiles
            shown.append((draw_view(whole[0]), f"the whole of {size}"))
        else:
            label = f"the whole and {columns} x {rows} tiles of {size}"
            shown.append((draw_tiles(whole, (columns, rows), tile_pixel_values=apart), label))
    return shown


def theme() -> Any:
    """Gradio's default look with the visitor's own fonts."""
    return gr.themes.Default(font=FONTS, font_mono=("monospace",))
