"""Short words for the conversations that tests hold."""


def text(value):
    """A piece of text in a message."""
    return {"type": "text", "text": value}


def ask(*content):
    """A conversation of one question, made of pieces."""
    return [{"role": "user", "content": list(content)}]


def chat(processor, conversation, **kwargs):
    """A conversation's model inputs."""
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, **kwargs
    )
