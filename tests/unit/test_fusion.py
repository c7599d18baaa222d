import pytest
import torch
from torch import nn

from deepseek_vl_hf.models.fusion import image_token_mask, insert_image_embeds, repeat_images_of_prompts


def test_places_are_found_by_id_and_by_embedding():
    embedding, ids = nn.Embedding(10, 4), torch.tensor([[1, 7, 7], [7, 2, 3]])
    by_id = image_token_mask(ids, embedding(ids), embedding, 7)
    assert by_id.tolist() == [[False, True, True], [True, False, False]]
    assert torch.equal(image_token_mask(None, embedding(ids), embedding, 7), by_id)


def test_embeddings_fill_the_places_in_order():
    text, images = torch.zeros(2, 3, 4), torch.arange(12.0).reshape(1, 3, 4)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    filled = insert_image_embeds(text, images, mask)
    assert torch.equal(filled[mask], images[0])
    assert filled[~mask].abs().max() == 0
    assert text.abs().max() == 0


@pytest.mark.parametrize(("places", "tokens"), [(2, 3), (4, 3), (0, 3)])
def test_counts_that_differ(places, tokens):
    mask = torch.arange(6).reshape(2, 3) < places
    with pytest.raises(ValueError, match=f"{places} image places, but the images give {tokens} tokens"):
        insert_image_embeds(torch.zeros(2, 3, 4), torch.zeros(1, tokens, 4), mask)


def test_images_of_a_prompt_are_repeated_as_a_group():
    images = torch.arange(4.0)[:, None, None].expand(4, 2, 5)
    repeated = repeat_images_of_prompts(images, [2, 0, 6], 2)
    assert repeated[:, 0, 0].tolist() == [0, 0, 1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("places", [[2, 3], [2, 2], [8, 2]])
def test_places_that_are_not_those_of_the_images(places):
    with pytest.raises(ValueError, match=r"image places, but there are 4 images of \[2, 2, 2, 2\] tokens"):
        repeat_images_of_prompts(torch.zeros(4, 2, 5), places, 2)
