"""The chat templates, as Jinja text in pieces.

A template is written next to the weights as `chat_template.jinja`, so it also runs where this package does not (plain
transformers, vLLM). It therefore says itself what it refuses.
"""

IMAGE_PLACEHOLDER = "<image_placeholder>"
VL2_IMAGE_TOKEN = "<image>"

# The original's default for both sizes of DeepSeek-VL.
DEEPSEEK_VL_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)

# Text of one message: a string stands for itself; of a list, texts and image places are joined as they stand.
_RENDER_CONTENT = """
{%- macro render(role, content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is not sequence or content is mapping -%}
{{ raise_exception("Content of the role '" + role + "' is neither a string nor a list of parts.") }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'text' -%}{{ part.text }}
{%- elif part.type == 'image' and role == 'user' -%}__IMAGE__
{%- elif part.type == 'image' -%}
{{ raise_exception("An image stands in a message of the role '" + role + "'; images belong in user messages.") }}
{%- else -%}
{{ raise_exception("Content of type '" + part.type + "' is not supported; expected 'text' or 'image'.") }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

_REFUSE_NO_MESSAGES = """
{%- if not messages -%}{{ raise_exception('The conversation is empty; expected at least one message.') }}{%- endif -%}
"""

# The default system prompt steps aside for a system message; an empty one leaves the system prompt out.
_CHOOSE_SYSTEM_PROMPT = """
{%- if messages[0].role | default('') | lower == 'system' -%}
{%- set system = render('system', messages[0].content) | trim -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '__SYSTEM__' -%}
{%- set turns = messages -%}
{%- endif -%}
"""

# `gap` is what separates a turn from the next one. Writing it in front of the next turn rather than after its own
# leaves the whole prompt stripped, as the original's is. A turn without text is a bare `Role:` with nothing after it.
_WRITE_TURNS = """
{{- bos_token -}}
{{- system -}}
{%- set state = namespace(gap='\\n\\n' if system else '', open=false) -%}
{%- for message in turns -%}
{%- set role = message.role | default('') | lower -%}
{%- set text = render(role, message.content) | trim -%}
{{- state.gap -}}
{%- if role == 'user' -%}
{{- 'User: ' + text if text else 'User:' -}}
{%- set state.gap = '\\n\\n' if text else '' -%}
{%- set state.open = false -%}
{%- elif role == 'assistant' -%}
{{- 'Assistant:' -}}
{%- if text -%}{% generation %}{{ ' ' + text + eos_token }}{% endgeneration %}{%- endif -%}
{%- set state.gap = '' -%}
{%- set state.open = not text -%}
{%- else -%}
{{ raise_exception("Unknown role '" + role + "'; expected 'user' or 'assistant', or 'system' first.") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not state.open -%}{{- state.gap + 'Assistant:' -}}{%- endif -%}
"""


# DeepSeek-VL2: control tokens for the roles, nothing in front of an answer, no default system prompt, and nothing
# between a system message and the first turn. A user's turn ends with the head of an answer, whoever speaks next; it is
# written in front of the next turn, so that a conversation may end with the question. An empty answer at the end is
# open.
_WRITE_VL2_TURNS = """
{{- bos_token -}}
{%- set state = namespace(gap='') -%}
{%- for message in messages -%}
{%- set role = message.role | default('') | lower -%}
{%- set text = render(role, message.content) | trim -%}
{{- state.gap -}}
{%- set state.gap = '' -%}
{%- if role == 'system' and loop.first -%}
{{- text -}}
{%- elif role == 'user' -%}
{{- '<|User|>: ' + text if text else '<|User|>:' -}}
{%- set state.gap = ('\\n\\n' if text else '') + '<|Assistant|>:' -%}
{%- elif role == 'assistant' -%}
{%- if text or not loop.last -%}{% generation %}{{ text + eos_token }}{% endgeneration %}{%- endif -%}
{%- else -%}
{{ raise_exception("Unknown role '" + role + "'; expected 'user' or 'assistant', or 'system' first.") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- state.gap -}}{%- endif -%}
"""

# DeepSeek-OCR: the text alone, without names of roles and without anything between turns. Its prompts have a line break
# after the picture, which is written where a text begins without one.
_BREAK_AFTER_IMAGES = """
{%- if loop.nextitem is defined and loop.nextitem.type == 'text' and not loop.nextitem.text.startswith('\\n') -%}
{{- '\\n' -}}
{%- endif -%}
"""
_WRITE_OCR_TURNS = """
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = message.role | default('') | lower -%}
{%- set text = render(role, message.content) | trim -%}
{%- if role == 'user' -%}
{{- text -}}
{%- elif role == 'assistant' -%}
{%- if text or not loop.last -%}{% generation %}{{ text + eos_token }}{% endgeneration %}{%- endif -%}
{%- else -%}
{{ raise_exception("Unknown role '" + role + "'; expected 'user' or 'assistant'. DeepSeek-OCR has no system prompt.") }}
{%- endif -%}
{%- endfor -%}
"""


def _one_line(template: str) -> str:
    """Drops the line breaks between tags, so that no white space of this file can reach a prompt."""
    return "".join(line.strip("\n") for line in template.splitlines())


DEEPSEEK_VL_TEMPLATE = (
    _one_line(_RENDER_CONTENT + _REFUSE_NO_MESSAGES + _CHOOSE_SYSTEM_PROMPT + _WRITE_TURNS)
    .replace("__IMAGE__", IMAGE_PLACEHOLDER)
    .replace("__SYSTEM__", DEEPSEEK_VL_SYSTEM_PROMPT)
)

DEEPSEEK_VL2_TEMPLATE = _one_line(_RENDER_CONTENT + _REFUSE_NO_MESSAGES + _WRITE_VL2_TURNS).replace(
    "__IMAGE__", VL2_IMAGE_TOKEN
)

DEEPSEEK_OCR_TEMPLATE = _one_line(
    _RENDER_CONTENT.replace("__IMAGE__", "__IMAGE__" + _BREAK_AFTER_IMAGES) + _REFUSE_NO_MESSAGES + _WRITE_OCR_TURNS
).replace("__IMAGE__", VL2_IMAGE_TOKEN)
