"""Times the turns of a conversation about one picture: Chat against the pipeline, which reads everything again.

    python benchmarks/chat.py

DeepSeek-VL-Hybrid at the published sizes with fewer layers of the language model and random weights. The pipeline is
transformers', with this package's model and processor; both give the same conversation its next first token, in turn.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import pipeline

from deepseek_vl_hf import Chat
from deepseek_vl_hf.chat.history import Turn
from environment import report
from port import OURS, implementations
from timing import medians

LAYERS = 6
REPEATS = 5
ANSWER_TOKENS = 24
PICTURE = Path(__file__).parent.parent / "examples" / "pictures" / "chart.png"
QUESTIONS = ("What does this chart show, and in which units?", "And which bar is the tallest one?", "Why is that so?")
GREEDY: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
CHAT, PIPELINE = "chat", "pipeline"


def own_bytes() -> int:
    """Memory of the process's own, without pages of mapped files."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


def cache_bytes(chat: Chat) -> int:
    """What keys and values take."""
    layers = chat._memory.cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def messages_of(turns: list[Turn], question: str) -> list[dict[str, Any]]:
    """The conversation with its next question, as the pipeline takes it."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        places = [{"type": "image", "image": picture} for picture in turn.pictures]
        messages += [
            {"role": "user", "content": [*places, {"type": "text", "text": turn.text}]},
            {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]},
        ]
    return [*messages, {"role": "user", "content": [{"type": "text", "text": question}]}]


def turn_row(number: int, chat: Chat, pipe: Any) -> dict[str, Any]:
    """Medians of the time to the first token of a turn after those before; then the turn is answered."""
    asked = iter(range(1000))

    def ask() -> None:
        # Another beginning each time: a question that was asked before would be in the cache.
        chat.ask(f"{next(asked)} {QUESTIONS[number]}", max_new_tokens=1)
        kept.append((chat.figures.kept_tokens, chat.figures.prompt_tokens) if chat.figures else (0, 0))
        chat.undo()

    def call() -> None:
        messages = messages_of(chat.turns, f"{next(asked)} {QUESTIONS[number]}")
        pipe(text=messages, max_new_tokens=1, return_full_text=False, **GREEDY)

    kept: list[tuple[int, int]] = []
    before, tokens = cache_bytes(chat), len(chat._memory)
    seconds = medians({CHAT: ask, PIPELINE: call}, REPEATS)
    own = own_bytes()
    chat.ask(QUESTIONS[number])
    return {
        "turn": number + 1,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio": round(seconds[CHAT] / seconds[PIPELINE], 4),
        "prompt_tokens": kept[-1][1],
        "kept_tokens": kept[-1][0],
        "cached_tokens_added": len(chat._memory) - tokens,
        "cache_bytes_per_token": cache_bytes(chat) // len(chat._memory),
        "cache_bytes_added": cache_bytes(chat) - before,
        "own_bytes_added": own_bytes() - own,
    }


def measure() -> dict[str, Any]:
    """All figures."""
    ours = implementations(LAYERS, torch.bfloat16)[OURS]
    ours.model.generation_config.eos_token_id = None  # random weights may end an answer early
    chat = Chat(ours.model, ours.processor, max_new_tokens=ANSWER_TOKENS, **GREEDY)
    pipe = pipeline("image-text-to-text", model=ours.model, processor=ours.processor)
    with Image.open(PICTURE) as picture:
        chat.ask(QUESTIONS[0], [picture.convert("RGB")])
    figures = chat.figures
    assert figures is not None
    rows = [turn_row(number, chat, pipe) for number in tqdm(range(1, len(QUESTIONS)))]
    first = {"prompt_tokens": figures.prompt_tokens, "seconds": round(figures.seconds_to_first_token, 4)}
    return {"language_layers": LAYERS, "first_turn": first, "turns": rows}


def main() -> None:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    figures = measure()
    report("chat", figures, stored=not arguments.no_result)


if __name__ == "__main__":
    main()
