"""Chat templates of three families' kinds, written for these tests, a tokeniser that has them, and conversations."""

import json
from typing import Any

from transformers import PreTrainedTokenizerFast

from prefjax.data.records import Identity, Kind, Records
from tests.data.small import bpe_tokenizer

MARKS = [
    "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip

# ChatML, as Qwen 3 has it: thinking stays only in turns after the last question; tools; an answer is marked.
CHATML = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- set asked = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {%- set thought = message.reasoning_content or '' %}
        {%- set said = message.content or '' %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > asked.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- said }}
        {%- for call in message.tool_calls or [] %}{{- '\\ncall ' + (call | tojson) }}{% endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
    {%- if opening %}{{ '<think>\\n' + opening }}{% endif %}
{%- endif %}"""

# Headers, as Llama 3 has them; BOS comes from the template.
HEADERS = """{{ bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

# Turns, as Gemma has them: no system, and user and model have to take turns.
TURNS = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ raise_exception('There is no system role') }}{% endif %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "turns": TURNS}


def chat_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = bpe_tokenizer()
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def chats(kind: Kind, *rows: dict[str, Any]) -> Records:
    """Records of these columns; those that are not the kind's are its extras."""
    own = {*kind.columns, "messages"}
    made = [
        {name: row[name] for name in row if name in own}
        | {"extras": {name: row[name] for name in row if name not in own}, "line": line}
        for line, row in enumerate(rows, 1)
    ]
    return Records(kind, "chats.jsonl", made, {}, Identity("0" * 64, len(made), kind.name))


TOOLS = json.dumps([{"name": "look"}])
CALL = {"name": "look", "at": "cat"}

# Pairs that every template renders; then pairs of thinking, tools and systems, for ChatML alone.
PLAIN = [
    {"prompt": [user("Is it the cat?")], "chosen": [assistant("yes")], "rejected": [assistant(" no ")]},
    {
        "prompt": [user("the cat"), assistant("no cat"), user("é?")],
        "chosen": [assistant("fé中")],
        "rejected": [assistant("yes"), user("the"), assistant("no")],
    },
    {"prompt": [user("the")], "chosen": [assistant("a long answer " * 7)], "rejected": [assistant("no")]},
    {"prompt": [user("a long question " * 6)], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
]
THINKING = [
    {
        "prompt": [user("the"), assistant("<think>\nhe\n</think>\n\nno"), user("cat?")],
        "chosen": [assistant("yes", reasoning_content="the cat")],
        "rejected": [assistant("<think>\nno\n</think>\n\nno")],
    },
    {"prompt": [user("cat?")], "chosen": [assistant("yes")], "rejected": [assistant("no")],
     "chat_template_kwargs": {"enable_thinking": False}},
    {"prompt": [user("cat?")], "chosen": [assistant("yes")], "rejected": [assistant("no")],
     "chat_template_kwargs": {"opening": "he"}},  # a prompt that no whole conversation begins with
    {
        "prompt": [{"role": "system", "content": "yes"}, user("look"), assistant("", tool_calls=[CALL]),
                   {"role": "tool", "content": "a cat"}],
        "chosen": [assistant("the cat")],
        "rejected": [assistant("no cat")],
        "tools": TOOLS,
    },
]  # fmt: skip
MAX_LENGTH = 100


def pairs_of(family: str) -> list[dict[str, Any]]:
    return PLAIN + THINKING if family == "chatml" else PLAIN


def completions_of(family: str) -> list[dict[str, Any]]:
    """Both answers of each pair, with the label of an unpaired row."""
    return [
        {**{name: row[name] for name in row if name not in ("chosen", "rejected")},
         "completion": row[side], "label": side == "chosen"}
        for row in pairs_of(family)
        for side in ("chosen", "rejected")
    ]  # fmt: skip


def conversations_of(family: str) -> list[dict[str, Any]]:
    return [
        {**{name: row[name] for name in row if name not in ("prompt", "chosen", "rejected")},
         "messages": row["prompt"] + row["chosen"]}
        for row in pairs_of(family)
    ]  # fmt: skip
