"""The page of `deepseek-vl demo` in a real browser, and what it refuses to fetch."""

import http.server
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio", reason="Gradio is not installed (pip install -e '.[demo]')")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import gradio_client

from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat.page import Visits, build_page, launch
from deepseek_vl_hf.chat.page_examples import examples_for
from family import IMAGES

SHAPES, WORDS = Path("examples/pictures/shapes.png").resolve(), Path("examples/pictures/words.png").resolve()
FIRST = min(IMAGES.iterdir())
OCR_PAGE = Path("tests/fixtures/deepseek_ocr/images/page.png").resolve()
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "build/screenshots"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Gradio's own, about pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


@contextmanager
def launched(chat, title, examples=()):
    """Address of a server with the page for a chat's model."""

    def make():
        return Chat(chat.model, chat.processor, **chat.sampling)

    page = build_page(make, title, examples)
    _, address, _ = launch(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield address
    page.close()


@pytest.fixture(scope="module")
def nano_address():
    with launched(Chat.from_pretrained(do_sample=False), "DeepSeek-VL: nano", examples_for("nano")) as address:
        yield address


@pytest.fixture(scope="module")
def nano_vl2_address():
    chat = Chat.from_pretrained("nano-vl2", do_sample=False)
    with launched(chat, "DeepSeek-VL2: nano-vl2", examples_for("nano-vl2")) as address:
        yield address


@pytest.fixture(scope="module")
def endless_address(vl2):
    """A model of random weights, whose answers are as long as they may be."""
    chat = Chat(vl2.model, vl2.processor, do_sample=False, min_new_tokens=2000, max_new_tokens=2000)
    with launched(chat, "DeepSeek-VL2") as address:
        yield address


@pytest.fixture(scope="module")
def ocr_address(ocr):
    chat = Chat(ocr.model, ocr.processor, do_sample=False, max_new_tokens=6)
    with launched(chat, "DeepSeek-OCR", examples_for("a model", ocr.processor.suggested_prompts)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    page.close()


def ask(page, text, *files):
    for file in files:
        page.locator("#question input[type=file]").set_input_files(str(file))
        api.expect(page.locator("#question .thumbnail-item, #question img").first).to_be_visible()
    page.locator("#question textarea").fill(text)
    page.locator("#question textarea").press("Enter")


def begin(page, address):
    """A question whose answer is under way."""
    page.goto(address)
    ask(page, "one")
    api.expect(answers(page)).to_have_count(1, timeout=30000)


def expect_stopped(page):
    api.expect(figures(page).last).to_contain_text("stopped", timeout=20000)


def answers(page):
    return page.locator("#conversation .bot > .message:first-child [data-testid=bot]")


def figures(page):
    """Below the answers that have ended."""
    return page.locator("#conversation .bot > .message + .message [data-testid=bot]")


def expect_answer(page, number, text):
    api.expect(answers(page)).to_have_count(number, timeout=20000)
    api.expect(answers(page).nth(number - 1)).to_have_text(re.compile(rf"^\s*{re.escape(text)}\s*$"), timeout=20000)


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


class TestInABrowser:
    pytestmark = needs_browser

    def test_two_turns_about_a_picture(self, page, nano_address):
        page.goto(nano_address)
        ask(page, "How many shapes are there?", SHAPES)
        expect_answer(page, 1, "4")
        ask(page, "What color is the star?")
        expect_answer(page, 2, "green")
        api.expect(page.locator("#figures")).to_contain_text("prompt tokens were known")
        api.expect(page.locator("#figures")).to_contain_text("The context is 6% full")
        api.expect(figures(page)).to_have_count(2)
        first, second = (line.strip() for line in figures(page).all_inner_texts())
        assert re.fullmatch(r"3 tokens, the first after \d+\.\d\d s, then \d+\.\d per second", first)
        assert re.fullmatch(r"2 tokens, the first after \d+\.\d\d s", second)
        api.expect(page.locator("#title")).to_contain_text("bar charts")
        kept, whole = map(int, re.search(r"(\d+) of (\d+)", page.locator("#figures").inner_text()).groups())
        assert kept > 0.8 * whole
        api.expect(page.locator("#stop")).to_be_disabled()
        api.expect(page.locator("#facts")).to_contain_text("DeepseekVLHybridForConditionalGeneration")
        screenshot(page, "two-turns")
        foreign = [url for url in page.requested if url.startswith("http") and not url.startswith(nano_address)]
        assert not foreign, foreign

    def test_taking_back_and_beginning_anew(self, page, nano_address):
        page.goto(nano_address)
        ask(page, "How many shapes are there?", SHAPES)
        expect_answer(page, 1, "4")
        ask(page, "What color is the star?")
        expect_answer(page, 2, "green")
        page.locator("#undo").click()
        api.expect(answers(page)).to_have_count(1)
        page.locator("#new").click()
        api.expect(answers(page)).to_have_count(0)
        ask(page, "What does the red text say?", WORDS)
        expect_answer(page, 1, "OPEN")

    def test_a_broken_file(self, page, nano_address, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"not a picture")
        page.goto(nano_address)
        page.locator("#question input[type=file]").set_input_files(str(tmp_path / "broken.png"))
        page.wait_for_timeout(500)
        page.locator("#question textarea").fill("What is this?")
        page.locator("#question textarea").press("Enter")
        api.expect(page.locator("#figures")).to_contain_text("broken.png could not be read", timeout=20000)
        assert "/" not in page.locator("#figures").inner_text()
        api.expect(page.locator("#question textarea")).to_have_value("What is this?")
        screenshot(page, "broken-file")
        ask(page, "How many shapes are there?", SHAPES)  # the broken file left the field
        expect_answer(page, 1, "4")

    def test_examples_on_a_phone(self, page, nano_address):
        """Each is answered right; the question's field is within reach without scrolling."""
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(nano_address)
        page.get_by_text("What color is the star?").first.click()
        api.expect(page.locator("#question textarea")).to_have_value("What color is the star?")
        page.locator("#question textarea").press("Enter")
        expect_answer(page, 1, "green")
        box = page.locator("#question").bounding_box()
        assert box["y"] + box["height"] <= 844
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        screenshot(page, "phone")

    def test_nano_vl2_shows_what_it_found(self, page, nano_vl2_address):
        """A click brings the picture and the question; the boxes of the answer are drawn into the picture."""
        page.goto(nano_vl2_address)
        page.get_by_text("<|ref|>the green star<|/ref|>").first.click()
        api.expect(page.locator("#question .thumbnail-item, #question img").first).to_be_visible()
        page.locator("#question textarea").press("Enter")
        api.expect(figures(page)).to_have_count(1, timeout=30000)
        api.expect(page.locator("#seen")).to_contain_text("the green star", timeout=20000)
        ask(page, "<|ref|>all circles<|/ref|>")
        api.expect(figures(page)).to_have_count(2, timeout=30000)
        api.expect(page.locator("#seen")).to_contain_text("all circles", timeout=20000)
        page.locator("#seen img").first.scroll_into_view_if_needed()
        screenshot(page, "boxes")

    def test_deepseek_ocr_reads_a_page(self, page, ocr_address, ocr):
        """What its authors ask is there to click; the answer, of random weights, is the one that `Chat` gives."""
        page.goto(ocr_address)
        api.expect(page.get_by_text("Reads pages.").first).to_be_visible()
        page.get_by_role("button", name="Free OCR.").first.click()
        api.expect(page.locator("#question textarea")).to_have_value("Free OCR.")
        ask(page, "Free OCR.", OCR_PAGE)
        api.expect(answers(page)).to_have_count(1, timeout=30000)
        api.expect(figures(page).last).to_contain_text("6 tokens", timeout=30000)
        screenshot(page, "deepseek-ocr")

    def test_an_answer_streams_and_stops(self, page, endless_address):
        page.goto(endless_address)
        ask(page, "What is this?", FIRST)
        api.expect(answers(page)).to_have_count(1, timeout=30000)
        lengths = []
        for _ in range(2):
            lengths.append(len(answers(page).first.inner_text()))
            page.wait_for_timeout(1000)
        assert lengths[1] > lengths[0]
        api.expect(page.locator("#stop")).to_be_enabled()
        page.locator("#stop").click()
        expect_stopped(page)
        length = len(answers(page).first.inner_text())
        page.wait_for_timeout(1000)
        assert len(answers(page).first.inner_text()) == length
        # DeepSeek-VL2: the tiles of the picture are shown.
        api.expect(page.locator("#seen")).to_contain_text("tiles of", timeout=20000)
        screenshot(page, "tiles")

    def test_buttons_while_an_answer_streams(self, page, endless_address):
        """A new conversation stays empty, though the old answer was under way; "Take back" stops first."""
        begin(page, endless_address)
        page.locator("#new").click()
        api.expect(answers(page)).to_have_count(0)
        page.wait_for_timeout(2000)
        api.expect(answers(page)).to_have_count(0)
        ask(page, "two")
        api.expect(answers(page)).to_have_count(1, timeout=30000)
        page.locator("#undo").click()
        expect_stopped(page)
        page.locator("#undo").click()
        api.expect(answers(page)).to_have_count(0)
        ask(page, "<b>three</b>")
        api.expect(page.locator("#conversation [data-testid=user]")).to_have_text(re.compile("<b>three</b>"))
        page.locator("#stop").click()

    def test_a_new_conversation_as_an_answer_ends(self, page, endless_address, monkeypatch):
        """The answer's last word reaches the browser after the empty page, and does not stay there."""
        original, ended = Visits.answer, threading.Event()

        def slow_to_end(*args):
            yield from original(*args)
            ended.wait(20)

        monkeypatch.setattr(Visits, "answer", slow_to_end)
        begin(page, endless_address)
        page.locator("#stop").click()
        expect_stopped(page)
        page.locator("#new").click()
        api.expect(answers(page)).to_have_count(0)
        ended.set()
        page.wait_for_timeout(1000)
        api.expect(answers(page)).to_have_count(0)
        api.expect(page.locator("#figures")).to_be_empty()

    def test_a_question_that_waits_goes_with_its_conversation(self, page, endless_address):
        other = gradio_client.Client(endless_address, verbose=False).submit(
            {"text": "one", "files": []}, api_name="/ask"
        )
        while not other.outputs():
            time.sleep(0.05)
        page.goto(endless_address)
        ask(page, "This waits for its turn.")
        page.wait_for_timeout(500)
        page.locator("#new").click()
        page.wait_for_timeout(500)
        other.cancel()
        ask(page, "two")
        api.expect(answers(page)).to_have_count(1, timeout=30000)
        api.expect(page.locator("#conversation [data-testid=user]")).to_have_text(re.compile("two"))
        page.locator("#stop").click()


@pytest.fixture
def local_server():
    """A server on this machine that counts what is asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SHAPES.read_bytes())

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.fixture
def client(nano_address):
    return gradio_client.Client(nano_address, verbose=False)


@pytest.mark.parametrize("source", ["file:///etc/hostname", "/etc/hostname", "{server}/picture.png"])
def test_nothing_nearby_is_fetched_for_a_visitor(client, local_server, source):
    """Whoever speaks to the server without the page cannot make it read its own files or its neighbors' pages."""
    server, asked = local_server
    file = {"path": source.format(server=server), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r".") as error:
        client.predict({"text": "What is this?", "files": [file]}, api_name="/ask")
    assert asked == []
    assert not isinstance(error.value, AssertionError)


def test_an_upload_is_answered(client):
    """The same call that is refused above, with a file that is handed over: it is the file that is refused."""
    messages, *_ = client.predict(
        {"text": "How many shapes are there?", "files": [gradio_client.handle_file(SHAPES)]}, api_name="/ask"
    )
    assert messages[-1]["role"] == "assistant"
    answer, below = (part["text"] for part in messages[-1]["content"])
    assert answer == "4"
    assert "tokens, the first after" in below


def test_a_visitor_waits_with_one_question_at_most(endless_address):
    """Further ones are refused at once; another visitor's wait, and are answered."""
    client = gradio_client.Client(endless_address, verbose=False)
    question = {"text": "one", "files": []}
    first = client.submit(question, api_name="/ask")
    while not first.outputs():
        time.sleep(0.05)
    later = [client.submit(question, api_name="/ask") for _ in range(2)]
    while not any(job.done() for job in later):  # which of the two arrives last is left to the network
        time.sleep(0.05)
    later.sort(key=lambda job: job.done())
    second, refused = later
    assert not second.done()
    with pytest.raises(Exception, match="At most 2 questions at a time"):
        refused.result(timeout=20)
    other = gradio_client.Client(endless_address, verbose=False).submit(question, api_name="/ask")
    time.sleep(0.2)
    assert not other.outputs()
    for job in (first, second):
        job.cancel()
    while not other.outputs():
        time.sleep(0.05)
    other.cancel()


def test_more_pictures_than_a_message_may_have(client):
    """Thousands of one upload blocked the page for minutes."""
    files = [gradio_client.handle_file(SHAPES)] * 9
    messages, _, figures, _ = client.predict({"text": "What is this?", "files": files}, api_name="/ask")
    assert messages == []
    assert "The message has 9 pictures; at most 8 fit in a message here." in figures


def test_what_the_page_says_of_the_conversation_is_not_read(client):
    """A page that has been tampered with could name files of the server in it."""
    (endpoint,) = client.view_api(return_format="dict")["named_endpoints"].values()
    assert [parameter["component"].lower() for parameter in endpoint["parameters"]] == ["multimodaltextbox"]
