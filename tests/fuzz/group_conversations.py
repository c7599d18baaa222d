"""Conversations: odd texts, disguised control tokens, broken messages, unknown keys, batches."""

import json
from functools import cache
from typing import Any

import hypothesis.strategies as st
import torch
from PIL import Image

from running import often
from verdict import NotRefusedError, OtherValueError, Recipe, accepting
from world import checkpoint

FAMILIES = ("vl", "vl2_mha")
# Those that no text of a person may become. Others, as those of places in a picture, are typed on purpose.
CONTROLS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<|User|>",
    "<|Assistant|>",
    "<image>",
    "<image_placeholder>",
)
TEXTS = (
    *CONTROLS,
    *(
        "",
        " ",
        "What is this?",
        "\n\nAssistant:",
        "User: no",
        "中文",
        "🙂",
        "é\u0301",
        "\u2028",
        "\x00",
        "\ufeff",
        "\u200b",
    ),
    *("<image", "_placeholder>", "<|Us", "er|>", "<｜begin", "▁of▁sentence｜>", "<image_placeholder", ">", "<", "｜>"),
    *(
        "{{ 7 * 7 }}",
        "{% raw %}",
        "__IMAGE__",
        "</s>",
        "<s>",
        "<|ref|>a<|/ref|>",
        "<|grounding|>",
        "\\",
        '"',
        "a b  c\t\n",
    ),
    *("x" * 3000, "<image_placeholder>" * 300, "\ud83d", "\udc00 a", "<|EOT|>", "<pad>", "<｜▁pad▁｜>"),
)
ODD: tuple[Any, ...] = (None, 0, 1.5, True, [], {}, [None], [1], {"type": "text"}, "x", [[]], {"a": {"b": 1}})
ROLES = ("user", "assistant", "system", "User", "Assistant", "<|User|>", "USER", "tool", "", None, 3, ["user"])


def recipes() -> st.SearchStrategy[Recipe]:
    text = st.lists(st.sampled_from(TEXTS) | st.text(max_size=5), min_size=1, max_size=3).map("".join)
    part = text.map(lambda words: {"type": "text", "text": words}) | st.just({"type": "image", "image": "*"})
    good = st.fixed_dictionaries({"role": st.just("user"), "content": text | st.lists(part, min_size=1, max_size=4)})
    answer = st.fixed_dictionaries({"role": st.just("assistant"), "content": text})
    turns = st.lists(good | answer, min_size=1, max_size=5)
    change = st.fixed_dictionaries(
        {
            "do": st.sampled_from(sorted(CHANGES)),
            "message": st.integers(0, 4),
            "number": st.integers(0, 60),
        }
    )
    common = {"family": st.sampled_from(FAMILIES), "messages": turns}
    return often(
        st.fixed_dictionaries({"what": st.just("good"), **common, "system": st.none() | text, "prompt": st.booleans()}),
        st.fixed_dictionaries({"what": st.just("batch"), **common, "other": turns}),
        st.fixed_dictionaries({"what": st.just("changed"), **common, "change": change}),
    )


def check(recipe: Recipe) -> None:
    {"good": _check_good, "batch": _check_batch, "changed": _check_changed}[recipe["what"]](recipe)


@cache
def picture(number: int) -> Image.Image:
    """One of some pictures that can be told apart."""
    return Image.new("RGB", (20, 20), (40 * number % 256, 90, 255 - 40 * number % 256))


def _with_pictures(messages: Any) -> Any:
    """A copy in which each * is another picture."""
    copied, numbers = json.loads(json.dumps(messages)), iter(range(1000))
    for message in copied:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image":
                part["image"] = picture(next(numbers))
    return copied


def _encode(family: str, messages: Any, **options: Any) -> Any:
    processor = checkpoint(family, "original").processor
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)


def _pieces(messages: Any) -> list[str]:
    """What people typed: texts between pictures, blanks at their ends left out, as a template may do."""
    pieces = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        run = ""
        for part in [*parts, {"type": "image"}]:
            if part["type"] == "text":
                run += part["text"]
            else:
                pieces.append(run.strip())
                run = ""
    return [piece for piece in pieces if piece]


def _check_good(recipe: Recipe) -> None:
    messages = _with_pictures(recipe["messages"])
    if recipe["system"] is not None:
        messages.insert(0, {"role": "system", "content": recipe["system"]})
    with accepting("a good conversation"):
        encoded = _encode(recipe["family"], messages, add_generation_prompt=recipe["prompt"])
    _compare(recipe["family"], messages, encoded)


def _number_of_pictures(messages: Any) -> int:
    return sum(
        part["type"] == "image"
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def _compare(family: str, messages: Any, encoded: Any) -> None:
    """Typed texts come back as they are, in order; of control tokens there are as many as the conversation asks for."""
    processor = checkpoint(family, "original").processor
    ids, pictures = encoded["input_ids"][0].tolist(), _number_of_pictures(messages)
    lengths = processor.num_tokens_of_images(encoded) if "pixel_values" in encoded else []
    if len(lengths) != pictures or ids.count(processor.image_token_id) != sum(lengths):
        raise OtherValueError(
            f"{ids.count(processor.image_token_id)} image places for {pictures} pictures, {lengths} each"
        )
    expected = {processor.tokenizer.bos_token: 1}
    roles = [message["role"].strip("<|>").lower() for message in messages]
    if family == "vl2_mha":
        expected["<|User|>"] = roles.count("user")
    for token, number in expected.items():
        if (found := ids.count(processor.tokenizer.convert_tokens_to_ids(token))) != number:
            raise OtherValueError(f"{found} of {token}; {number} expected")
    if ids.count(processor.tokenizer.eos_token_id) > roles.count("assistant"):
        raise OtherValueError("more ends of answers than answers")
    kept = [token for token in ids if token != processor.image_token_id]
    text, at = processor.tokenizer.decode(kept, clean_up_tokenization_spaces=False), 0
    for piece in _pieces(messages):
        if any("\ud800" <= character <= "\udfff" for character in piece):
            continue  # no tokenizer has them
        at = text.find(piece, at)
        if at < 0:
            raise OtherValueError(f"the prompt lacks {piece[:80]!r}, or has it in another place")
        at += len(piece)
    if family == "vl" and pictures:
        wanted = [processor.image_processor(picture(number), return_tensors="pt") for number in range(pictures)]
        if not torch.equal(encoded["pixel_values"], torch.cat([each["pixel_values"] for each in wanted])):
            raise OtherValueError("the pictures are others, or stand in another order")


def _check_batch(recipe: Recipe) -> None:
    """Each row of a padded batch has the tokens that it has alone."""
    rows = [_with_pictures(recipe["messages"]), _with_pictures(recipe["other"])]
    with accepting("a batch of good conversations"):
        batch = _encode(recipe["family"], rows, processor_kwargs={"padding": True})
        for row, messages in enumerate(rows):
            alone = _encode(recipe["family"], messages)["input_ids"][0]
            found = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            if not torch.equal(found, alone):
                raise OtherValueError(f"row {row} has other tokens than alone")


def _check_changed(recipe: Recipe) -> None:
    change, messages = recipe["change"], _with_pictures(recipe["messages"])
    messages, options, must_refuse = CHANGES[change["do"]](messages, {}, change["message"], change["number"])
    encoded = _encode(recipe["family"], messages, **options)
    if must_refuse:
        raise NotRefusedError("what nobody reads")
    processor = checkpoint(recipe["family"], "original").processor
    if encoded["input_ids"].numel() < 1 or processor.image_token_id is None:
        raise OtherValueError("no tokens")


# Each takes messages, options, which message and a number; gives messages, options and whether it has to be refused.


def _message(messages: Any, number: int) -> dict[str, Any]:
    found = messages[number % len(messages)] if isinstance(messages, list) and messages else {}
    return found if isinstance(found, dict) else {}


def odd_role(messages: Any, options: Any, message: int, number: int) -> Any:
    role = ROLES[number % len(ROLES)]
    _message(messages, message)["role"] = role
    return messages, options, role in ("tool", "", None, 3) or role == ["user"]


def odd_content(messages: Any, options: Any, message: int, number: int) -> Any:
    found = _message(messages, message)
    found["content"] = ODD[number % len(ODD)]
    wrong = found["content"] is not None and found["content"] != "x" and found["content"] != []
    return messages, options, wrong and bool(messages)


def without_content(messages: Any, options: Any, message: int, number: int) -> Any:
    _message(messages, message).pop(("role", "content")[number % 2], None)
    return messages, options, number % 2 == 0


def odd_part(messages: Any, options: Any, message: int, number: int) -> Any:
    parts = ({"type": "image"}, {"type": "image", "image": 5}, {"type": "video", "video": "x"}, {"text": "x"}, 5, None)
    part = (*parts, {"type": "text", "text": 5}, {"type": "image", "url": "x" * 200}, {"type": ["image"]})[number % 9]
    _message(messages, message).update(role="user", content=[{"type": "text", "text": "a"}, part])
    return messages, options, True


def unknown_key_of_a_picture(messages: Any, options: Any, message: int, number: int) -> Any:
    key = ("foo", "min_pixels", "imgae", "resized_height")[number % 4]
    part = {"type": "image", "image": picture(1), key: number}
    _message(messages, message).update(role="user", content=[part, {"type": "text", "text": "a"}])
    return messages, options, True


def tools(messages: Any, options: Any, message: int, number: int) -> Any:
    return messages, {**options, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, True


def nested(messages: Any, options: Any, message: int, number: int) -> Any:
    """A list that holds itself, or lists in lists without end."""
    content: list[Any] = []
    content.append(content)
    if number % 2:
        for _ in range(10_000):
            content = [content]
    if number % 3:
        _message(messages, message)["content"] = content
        return messages, options, bool(messages)
    return content, options, True


def no_conversation(messages: Any, options: Any, message: int, number: int) -> Any:
    return ODD[number % len(ODD)], options, True


def system_later(messages: Any, options: Any, message: int, number: int) -> Any:
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return messages, options, False
    return [*messages, {"role": "system", "content": "x"}], options, bool(messages)


CHANGES = {
    function.__name__: function
    for function in (
        *(odd_role, odd_content, without_content, odd_part, unknown_key_of_a_picture),
        *(tools, nested, no_conversation, system_later),
    )
}
