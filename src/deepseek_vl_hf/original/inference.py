"""What the originals' scripts import beside models and processors: pictures, checkpoints, answers as they come."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, TextIteratorStreamer

from ..cpu.dtypes import fast_dtype
from ..models.grounding import find_boxes
from ..pictures.colors import to_rgb
from ..pictures.drawing import draw_boxes
from .conversations import Conversation
from .processor import AS_IN_THE_ORIGINAL
from .vl2_processor import DeepseekVLV2Processor
from .vl_processor import VLChatProcessor


def load_pil_images(conversations: list[dict[str, Any]]) -> list[Image.Image]:
    """Opens the pictures of messages, in order, as they are stored: transparency is dropped, EXIF is not read.

    Args:
        conversations: messages, some with `images`: paths or `data:image` URIs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what cannot be decoded.
    """
    sources = [source for message in conversations for source in message.get("images", [])]
    return [to_rgb(_opened(str(source)), **AS_IN_THE_ORIGINAL) for source in sources]


def _opened(source: str) -> Image.Image:
    if source.startswith("data:image"):
        return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return Image.open(source)


def load_json(filepath: str | Path) -> Any:
    """The content of a JSON file in UTF-8."""
    return json.loads(Path(filepath).read_text(encoding="utf-8"))


def load_pretrained_model(model_path: str) -> tuple[Any, Any, Any]:
    """Tokenizer, processor and model of a checkpoint of DeepSeek-VL, the model on the GPU if there is one."""
    return _loaded(model_path, VLChatProcessor, None)


def load_vl2_pretrained_model(model_path: str) -> tuple[Any, Any, Any]:
    """Tokenizer, processor and model of a checkpoint of DeepSeek-VL2; see `load_pretrained_model`."""
    return _loaded(model_path, DeepseekVLV2Processor, None)


def load_model(model_path: str) -> tuple[Any, Any, Any]:
    """Tokenizer, model and processor of a checkpoint of DeepSeek-VL; see `load_pretrained_model`."""
    tokenizer, processor, model = _loaded(model_path, VLChatProcessor, None)
    return tokenizer, model, processor


def load_vl2_model(model_path: str, dtype: torch.dtype | None = None) -> tuple[Any, Any, Any]:
    """Tokenizer, model and processor of a checkpoint of DeepSeek-VL2; see `load_pretrained_model`."""
    tokenizer, processor, model = _loaded(model_path, DeepseekVLV2Processor, dtype)
    return tokenizer, model, processor


def _loaded(model_path: str, processor_class: Any, dtype: torch.dtype | None) -> tuple[Any, Any, Any]:
    processor = processor_class.from_pretrained(model_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The original's bfloat16 is computed slowly by many CPUs.
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype or fast_dtype(device))
    return processor.tokenizer, processor, model.to(device).eval()


def convert_conversation_to_prompts(conversation: Conversation) -> list[dict[str, Any]]:
    """A page's turns as messages, a question with a picture being (text, picture)."""
    return [_message(role, content) for role, content in conversation.messages]


def convert_vl2_conversation_to_prompts(conversation: Conversation) -> tuple[list[dict[str, Any]], Any]:
    """A page's turns as messages, a question with pictures being (text, pictures); and the last picture."""
    messages = [_message(role, content) for role, content in conversation.messages]
    pictures = [picture for message in messages for picture in message.get("images", [])]
    return messages, pictures[-1] if pictures else None


def _message(role: Any, content: Any) -> dict[str, Any]:
    text, images = content if isinstance(content, tuple) else (content, [])
    return {"role": role, "content": text or "", "images": images if isinstance(images, list) else [images]}


def deepseek_generate(
    prompts: list[dict[str, Any]],
    vl_gpt: Any,
    vl_chat_processor: Any,
    tokenizer: Any,
    stop_words: Any,
    max_length: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.1,
    chunk_size: int = -1,
) -> Iterator[str]:
    """Answers messages whose `images` are Pillow pictures, with `max_length` new tokens at most; see `generate`."""
    pictures = [picture for message in prompts for picture in message.get("images", [])]
    inputs = vl_chat_processor(conversations=prompts, images=pictures).to(vl_gpt.device)
    return generate(
        vl_gpt, tokenizer, inputs, max_length, temperature, repetition_penalty, top_p, stop_words, chunk_size
    )


def vl2_deepseek_generate(conversations: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Iterator[str]:
    """See `deepseek_generate`; DeepSeek-VL2 calls the messages otherwise."""
    return deepseek_generate(conversations, *args, **kwargs)


@torch.inference_mode()
def generate(
    vl_gpt: Any,
    tokenizer: Any,
    prepare_inputs: Any,
    max_gen_len: int = 256,
    temperature: float = 0,
    repetition_penalty: float = 1.1,
    top_p: float = 0.95,
    stop_words: Any = (),
    chunk_size: int = -1,
) -> Iterator[str]:
    """Yields an answer's text as it comes.

    Args:
        vl_gpt: what `AutoModelForCausalLM` gives.
        tokenizer: the processor's.
        prepare_inputs: a processor's batch of one.
        max_gen_len: most tokens.
        temperature: of sampling; 0 takes the most likely tokens, without the penalty.
        repetition_penalty: on tokens of the answer.
        top_p: of sampling.
        stop_words: a text or several, after which the answer ends; None for none.
        chunk_size: how many tokens of the prompt DeepSeek-VL2 reads at once; -1 for all.

    Raises:
        Exception: whatever the model's `generate` raises.
    """
    arguments: dict[str, Any] = {"inputs_embeds": vl_gpt.prepare_inputs_embeds(**prepare_inputs)}
    if chunk_size != -1:
        mask = prepare_inputs.attention_mask
        embeds, cache = vl_gpt.incremental_prefilling(attention_mask=mask, chunk_size=chunk_size, **arguments)
        arguments = {"inputs_embeds": embeds, "input_ids": prepare_inputs.input_ids, "past_key_values": cache}
    if temperature > 0:
        arguments |= {"temperature": temperature, "top_p": top_p, "repetition_penalty": repetition_penalty}
    stops = [stop_words] if isinstance(stop_words, str) else list(stop_words or ())
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    answer = partial(
        vl_gpt.generate,
        attention_mask=prepare_inputs.attention_mask,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=max_gen_len,
        do_sample=temperature > 0,
        streamer=streamer,
        stop_strings=[stop for stop in stops if stop] or None,
        tokenizer=tokenizer,
        **arguments,
    )
    yield from _streamed(streamer, answer)


def _streamed(streamer: TextIteratorStreamer, answer: Callable[[], Any]) -> Iterator[str]:
    """What a call puts into a streamer, while it runs in a thread; raises what the call raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            answer()
        except BaseException as error:
            failures.append(error)
            streamer.end()  # else whoever reads would wait forever

    thread = Thread(target=run)
    thread.start()
    yield from streamer
    thread.join()
    if failures:
        raise failures[0]


def parse_ref_bbox(response: str, image: Image.Image) -> Image.Image | None:
    """The picture with the boxes that an answer of DeepSeek-VL2 names, or None if it names none."""
    found = find_boxes(response, image)
    return draw_boxes(image, found.labels, found.boxes) if found.boxes else None
