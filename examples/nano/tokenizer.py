"""The nano model's tokenizer: byte-level BPE as in the published checkpoints, with the same special tokens."""

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deepseek_vl_hf.conversation.chat_templates import DEEPSEEK_VL_SYSTEM_PROMPT, IMAGE_PLACEHOLDER

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
VOCABULARY = 768
MODEL_MAX_LENGTH = 2048
# How often a piece has to occur before it becomes a token: strings to read stay single characters.
MIN_FREQUENCY = 20
SYSTEM_PROMPT_WEIGHT = 500


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Learns the merges from `texts` and adds the special tokens after them.

    Args:
        texts: what the model will be asked and will answer.
    """
    # The system prompt stands in front of every conversation, so its words are to be single tokens.
    frequent = [DEEPSEEK_VL_SYSTEM_PROMPT] * SYSTEM_PROMPT_WEIGHT
    return learn_merges([*texts, *frequent], VOCABULARY, EOS, [IMAGE_PLACEHOLDER])


def learn_merges(texts: Iterable[str], vocabulary: int, pad: str, controls: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose merges come from `texts`.

    Args:
        texts: what is to be few tokens.
        vocabulary: number of tokens, special ones included.
        pad: the token for padding.
        controls: special tokens beside BOS, EOS and that one.
    """
    tokenizer = Tokenizer(models.BPE())
    # The published tokenizers cut at line breaks, words, punctuation, runs of Chinese characters, and single digits.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{Latin}+"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
            pre_tokenizers.Split(Regex("[一-龥]+"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [*dict.fromkeys((BOS, EOS, pad, *controls))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(special),
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=pad,
        extra_special_tokens=controls,
        model_max_length=MODEL_MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
