"""How answers are sampled: the original's settings, and which arguments are a conversation's own."""

# The original's, in its chat loop. What a checkpoint's generation_config.json says goes before them.
SAMPLING = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.1}
OF_SAMPLING_ALONE = ("temperature", "top_p")

# What a conversation settles itself, or what would leave its cache out of step with its tokens.
NOT_FOR_CONVERSATIONS = (
    *(
        "inputs",
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "cache",
        "past_key_values",
        "use_cache",
        "cache_implementation",
    ),
    *("streamer", "stopping_criteria", "return_dict_in_generate", "num_beams", "num_return_sequences"),
    *("assistant_model", "prompt_lookup_num_tokens", "generation_config"),
)
