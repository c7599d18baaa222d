"""Pipelines with what people pass to them, for every family."""

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers import TextStreamer, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

NEWEST = Version(transformers.__version__).release >= (5, 23)


@pytest.fixture(scope="module")
def pipe(family):
    return pipeline("image-text-to-text", model=str(family.converted), dtype=torch.float32)


@pytest.fixture(scope="module")
def chats(images):
    return [
        [
            {
                "role": "user",
                "content": [{"type": "image", "path": str(images / name)}, {"type": "text", "text": "What?"}],
            }
        ]
        for name in ("tall.png", "wide.png", "square.png")
    ]


def answers(results):
    return [result[0]["generated_text"] for result in results]


def test_batches_equal_single_chats(pipe, chats):
    options = {"max_new_tokens": 5, "return_full_text": False}
    alone = answers(pipe(text=chats, **options))
    assert answers(pipe(text=chats, batch_size=3, **options)) == alone
    assert len(set(alone)) == 3


@pytest.fixture
def any_to_any(hybrid, monkeypatch):
    """The pipeline that asks for torchvision, which pictures do not need."""
    monkeypatch.setattr("transformers.pipelines.any_to_any.requires_backends", lambda *args: None)
    return pipeline("any-to-any", model=hybrid.model, processor=hybrid.processor)


def with_pictures(images, counts):
    """Chats with so many pictures each, hardly two of them with the same."""
    paths = [str(images / name) for name in ("tall.png", "wide.png", "square.png")] * 2
    pictures = [[{"type": "image", "path": path} for path in paths[i : i + count]] for i, count in enumerate(counts)]
    return [[{"role": "user", "content": [*each, {"type": "text", "text": "What?"}]}] for each in pictures]


@pytest.mark.parametrize("counts", [(2, 2), (1, 2), (0, 3, 1)], ids=str)
def test_batches_with_any_number_of_pictures(pipe, images, counts):
    """Each chat's pictures are its own: the answers are those of the chats alone."""
    chats, options = with_pictures(images, counts), {"max_new_tokens": 3, "return_full_text": False}
    alone = answers(pipe(text=chats, **options))
    assert answers(pipe(text=chats, batch_size=len(chats), **options)) == alone


def test_batches_of_the_other_pipeline_that_reads_pictures(any_to_any, images):
    chats, options = with_pictures(images, (2, 0, 1)), {"max_new_tokens": 3, "return_full_text": False}
    alone = answers(any_to_any(text=chats, **options))
    assert answers(any_to_any(text=chats, batch_size=3, **options)) == alone


def test_pipelines_are_transformers_own_without_this_package(unregistered):
    impl = PIPELINE_REGISTRY.supported_tasks["image-text-to-text"]["impl"]
    assert getattr(impl, "__module__", impl).startswith("transformers.pipelines.image_text_to_text")


def test_full_and_new_text(pipe, chats):
    new = pipe(text=chats[0], max_new_tokens=5, return_full_text=False)[0]["generated_text"]
    full = pipe(text=chats[0], max_new_tokens=5, return_full_text=True)[0]["generated_text"]
    assert full == [*chats[0], {"role": "assistant", "content": new}]


def test_generation_arguments(pipe, chats):
    options = {"max_new_tokens": 5, "return_full_text": False}
    greedy = pipe(text=chats[0], **options)
    same = pipe(text=chats[0], **options, generate_kwargs={"do_sample": True, "top_k": 1, "temperature": 0.7})
    assert same == greedy
    several = pipe(text=chats[0], **options, generate_kwargs={"num_beams": 2, "num_return_sequences": 2})
    assert len(several) == (2 if NEWEST else 1)  # docs/limits.md


def test_token_ids(pipe, chats):
    ids = pipe(text=chats[0], max_new_tokens=5, return_tensors=True)[0]["generated_token_ids"]
    picture = chats[0][0]["content"][0]["path"]
    (tokens,) = pipe.processor.num_tokens_of_images(pipe.processor(images=[Image.open(picture)]))
    assert (torch.as_tensor(ids) == pipe.processor.image_token_id).sum() == tokens


def test_streamer(pipe, chats, capsys):
    answer = pipe(text=chats[0], max_new_tokens=5, return_full_text=False)[0]["generated_text"]
    streamer = TextStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    pipe(text=chats[0], max_new_tokens=5, generate_kwargs={"streamer": streamer})
    assert capsys.readouterr().out.rstrip("\n") == answer.rstrip("\n")


def test_prompts_with_images(pipe, images):
    pictures = [Image.open(images / "tall.png"), Image.open(images / "wide.png")]
    prompt = f"{pipe.processor.image_token} and {pipe.processor.image_token}"
    result = pipe(images=pictures, text=prompt, max_new_tokens=3)
    assert result[0]["generated_text"].startswith(prompt)


def test_features(family):
    features = pipeline("feature-extraction", model=str(family.converted), dtype=torch.float32)
    found = torch.tensor(features("Hello"))
    inputs = family.processor.tokenizer("Hello", return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(found, family.model.model(**inputs).last_hidden_state, atol=1e-5)
