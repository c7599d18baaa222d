"""Times servers with the nano model and one picture in each request: requests per second, and time to the first token.

    python benchmarks/serving.py [--vllm PYTHON]

"loop" is `generate` in this process, one request after the other, for clients that wait their turn; the servers are
processes of their own, started by `deepseek-vl serve`. With --vllm, the Python of an environment that has vLLM and this
package, its server runs too. The engines are asked in turn. At the end 200 turns of a conversation are asked of each
server, and the growth of its memory is noted.
"""

import argparse
import base64
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from tqdm import tqdm
from transformers import TextIteratorStreamer

from deepseek_vl_hf import Chat
from environment import report

PICTURE = Path(__file__).parent.parent / "examples" / "pictures" / "shapes.png"
QUESTIONS = ("How many shapes are there?", "What color is the star?", "Describe the picture.", "Where is the star?")
CLIENTS = (1, 8, 32)
REQUESTS = {1: 12, 8: 24, 32: 64}
ROUNDS = 3
TURNS, WARM_TURNS = 200, 20
LONGEST = 32
LOOP = "generate in a loop"

# Asks a question, and gives the seconds to the first piece of the answer.
Ask = Callable[[str], float]


def messages(question: str) -> list[Any]:
    """A question about the picture, as OpenAI's clients send it."""
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ]


def asking_in_a_loop(chat: Chat) -> Ask:
    """The model in this process, which answers one question at a time."""
    turn = threading.Lock()

    def ask(question: str) -> float:
        start = time.perf_counter()
        with turn:
            inputs = chat.processor.apply_chat_template(
                messages(question), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            streamer = TextIteratorStreamer(chat.processor.tokenizer, skip_prompt=True)
            arguments = {**inputs, "streamer": streamer, "do_sample": False, "max_new_tokens": LONGEST}
            thread = threading.Thread(target=chat.model.generate, kwargs=arguments)
            thread.start()
            next(streamer)
            seconds = time.perf_counter() - start
            thread.join()
        return seconds

    return ask


def asking(client: openai.OpenAI) -> Ask:
    """A server."""

    def ask(question: str) -> float:
        start = time.perf_counter()
        seconds = None
        chunks = client.chat.completions.create(
            model="nano", messages=messages(question), max_tokens=LONGEST, temperature=0, stream=True
        )
        for chunk in chunks:
            if seconds is None and chunk.choices and chunk.choices[0].delta.content:
                seconds = time.perf_counter() - start
        assert seconds is not None, "an empty answer"
        return seconds

    return ask


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def server(python: str, engine: str, log: Path) -> Iterator[tuple[openai.OpenAI, int, float]]:
    """A client of a server, the server's process, and the seconds until it was there."""
    port = free_port()
    words = ["serve", "nano", "--engine", engine, "--port", str(port), "--dtype", "float32"]
    start = time.perf_counter()
    with log.open("w") as file:
        command = [python, "-m", "deepseek_vl_command", *words]
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(process, port, log)
        seconds = time.perf_counter() - start
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none"), process.pid, seconds
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Returns when a server answers; raises RuntimeError when its process ends before."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"The server ended: {log.read_text()[-2000:]}")


def own_bytes(pid: int) -> int:
    """Memory of a process and its children that is no page of a file."""
    total = 0
    for each in (pid, *children(pid)):
        status = Path(f"/proc/{each}/status").read_text()
        total += int(status.partition("RssAnon:")[2].split()[0]) * 1024
    return total


def children(pid: int) -> list[int]:
    """All processes that a process has started."""
    found = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in children(child))]


def load(ask: Ask, clients: int) -> dict[str, float]:
    """Requests per second and the median time to the first token, of so many clients at a time."""
    questions = [QUESTIONS[number % len(QUESTIONS)] for number in range(REQUESTS[clients])]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(ask, questions))
    return {
        "requests_per_second": len(questions) / (time.perf_counter() - start),
        "seconds_to_first_token": statistics.median(seconds),
    }


def growth(client: openai.OpenAI, pid: int) -> int:
    """Bytes by which a server grows from the 20th to the 200th turn; a conversation begins anew every ten turns."""
    turns: list[Any] = []
    for number in range(TURNS):
        if number % 10 == 0:
            turns = messages("How many shapes are there?")
        found = client.chat.completions.create(model="nano", messages=turns, max_tokens=8, temperature=0)
        turns = [*turns, {"role": "assistant", "content": found.choices[0].message.content or ""}]
        turns += [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
        if number == WARM_TURNS:
            before = own_bytes(pid)
    return own_bytes(pid) - before


def in_turn(engines: dict[str, Ask]) -> list[dict[str, Any]]:
    """Medians of a few rounds, in each of which all engines are asked."""
    rows = []
    for clients in tqdm(CLIENTS):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
        for ask in engines.values():
            load(ask, clients)
        for _ in range(ROUNDS):
            for name, ask in engines.items():
                found[name].append(load(ask, clients))
        for name, runs in found.items():
            figures = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
            rows.append({"clients": clients, "engine": name, **figures})
    return rows


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", metavar="PYTHON", help="Python of an environment with vLLM and this package")
    parser.add_argument("--logs", type=Path, default=Path(), help="folder for what the servers say (default: here)")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    chat = Chat.from_pretrained(dtype="float32")
    pythons = {"transformers": sys.executable} | ({"vllm": arguments.vllm} if arguments.vllm else {})
    engines, started, grown = {LOOP: asking_in_a_loop(chat)}, {}, {}
    with server(pythons["transformers"], "transformers", arguments.logs / "transformers.log") as first:
        clients = {"transformers": first}
        if "vllm" not in pythons:
            rows = in_turn({**engines, "transformers": asking(first[0])})
        else:
            with server(pythons["vllm"], "vllm", arguments.logs / "vllm.log") as second:
                clients["vllm"] = second
                rows = in_turn({**engines, **{name: asking(each[0]) for name, each in clients.items()}})
                grown["vllm"] = growth(*second[:2])
        grown["transformers"] = growth(*first[:2])
        started = {name: round(each[2], 1) for name, each in clients.items()}
    figures = {"rows": rows, "seconds_to_start": started, "bytes_grown_in_180_turns": grown}
    report("serving", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
