"""From what people write to token ids: messages, chat templates, prompts, batches, the processor."""
