"""Conversations through the tokeniser's template: where completions start, what is refused, what is said."""

import pytest

from prefjax.checks import InputError
from prefjax.data.chat import end_of_turn, render, require_template
from prefjax.data.records import LANGUAGE_MODELING, PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY, RANKED
from prefjax.data.tokenisers import tokenizer_fingerprint
from prefjax.data.tokenising import tokenise
from tests.data.chats import (
    CALL,
    CHATML,
    HEADERS,
    TEMPLATES,
    TOOLS,
    TURNS,
    assistant,
    chat_tokenizer,
    chats,
    user,
)
from tests.data.small import records


@pytest.fixture(scope="module")
def chatml():
    return chat_tokenizer(CHATML)


def read(tokenizer, sequences, index=0):
    """A row as text: its prompt, and its completion."""
    row, start = sequences.row(index), sequences.prompt_lengths[index]
    return tokenizer.decode(row[:start]), tokenizer.decode(row[start:])


def test_a_prompt_ends_with_the_header_of_the_answer_and_no_eos_is_added(chatml):
    row = {"prompt": [user("cat?")], "completion": [assistant("yes")]}
    rows = tokenise(chats(PROMPT_COMPLETION, row), chatml)
    prompt, completion = read(chatml, rows.fields["completion"])
    assert prompt == "<|im_start|>user\ncat?<|im_end|>\n<|im_start|>assistant\n"
    assert completion == "<think>\n\n</think>\n\nyes<|im_end|>\n"
    alone = tokenise(chats(PROMPT_ONLY, row), chatml).fields["prompt"]
    assert read(chatml, alone) == (prompt, "")


def test_bos_comes_from_the_template_and_only_once():
    for template in (HEADERS, TURNS):
        tokenizer = chat_tokenizer(template)
        rows = tokenise(chats(PROMPT_ONLY, {"prompt": [user("cat?")]}), tokenizer)
        assert rows.fields["prompt"].row(0).tolist().count(tokenizer.bos_token_id) == 1


def test_a_turn_that_the_prompt_has_begun_is_gone_on_with(chatml):
    rows = tokenise(chats(PROMPT_ONLY, {"prompt": [user("cat?"), assistant("yes, the")]}), chatml)
    text = chatml.decode(rows.fields["prompt"].row(0))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nyes, the")


def test_texts_and_conversations_in_one_source(chatml):
    talk = {"prompt": [user("cat?")], "completion": [assistant("no")]}
    rows = tokenise(
        chats(PROMPT_COMPLETION, talk, {"prompt": "the cat", "completion": " yes"}, talk), chatml
    ).fields["completion"]
    assert rows.row(0).tolist() == rows.row(2).tolist()
    assert read(chatml, rows, 1) == ("<s>the cat", " yes</s>")


def test_thinking_of_earlier_turns_goes_and_of_the_last_stays(chatml):
    earlier, last = assistant("no", reasoning_content="he"), assistant("yes", reasoning_content="the cat")
    row = {"prompt": [user("the"), earlier, user("cat?")], "completion": [last]}
    prompt, completion = read(chatml, tokenise(chats(PROMPT_COMPLETION, row), chatml).fields["completion"])
    assert "<think>" not in prompt
    assert "no<|im_end|>" in prompt
    assert completion == "<think>\nthe cat\n</think>\n\nyes<|im_end|>\n"


def test_tools_and_settings_of_a_row_reach_the_template(chatml):
    prompt = [user("look"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "a cat"}]
    row = {
        "prompt": prompt,
        "tools": TOOLS,
        "chat_template_kwargs": {"enable_thinking": False, "opening": None},
    }
    text = chatml.decode(tokenise(chats(PROMPT_ONLY, row), chatml).fields["prompt"].row(0))
    assert text.startswith('<|im_start|>system\n{"name": "look"}\n<|im_end|>')
    assert '\ncall {"name": "look", "at": "cat"}<|im_end|>\n<|im_start|>tool\na cat<|im_end|>\n' in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    # No tools are none, whatever a table has for that.
    bare = {tools: render(chatml, prompt, {"extras": {"tools": tools}}, "row") for tools in (None, "[]")}
    assert bare[None] == bare["[]"] == render(chatml, prompt, {}, "row")


def test_a_prompt_that_renders_otherwise_before_a_completion_shows_both_windows(chatml):
    row = {
        "prompt": [user("cat?")],
        "chosen": [assistant("yes")],
        "rejected": [assistant("no")],
        "chat_template_kwargs": {"opening": "he"},
    }
    rows = chats(PREFERENCE, row)
    with pytest.raises(InputError) as error:
        tokenise(rows, chatml)
    said = str(error.value)
    assert said.startswith(
        "chats.jsonl, line 1: the chat template renders the prompt otherwise when a completion"
    )
    assert "'<think>', 'Ċ', 'he'], prompt + chosen reads [" in said
    joined = read(chatml, tokenise(rows, chatml, boundary="joined").fields["rejected"])
    separate = read(chatml, tokenise(rows, chatml, boundary="separate").fields["rejected"])
    assert joined == separate
    assert joined[0].endswith("<|im_start|>assistant\n<think>\n")
    assert joined[1] == "\n</think>\n\nno<|im_end|>\n"


def test_ranked_conversations(chatml):
    row = {"prompt": [user("cat?")], "completions": [[assistant(word)] for word in ("yes", "no", "the")]}
    rows = tokenise(chats(RANKED, row), chatml)
    assert [read(chatml, rows.fields["completions"], i)[1].split()[-1] for i in range(3)] == [
        "yes<|im_end|>", "no<|im_end|>", "the<|im_end|>"
    ]  # fmt: skip


def test_what_the_assistant_says_is_learned_and_nothing_else(chatml):
    talk = [user("the"), assistant("no"), user("cat?"), assistant("yes")]
    records_ = chats(LANGUAGE_MODELING, {"messages": talk}, {"messages": talk[:2]})
    rows = tokenise(records_, chatml, assistant_only=True).fields["completion"]
    assert (
        chatml.decode(rows.row(0)[rows.learned_in(0)]) == "no<|im_end|><think>\n\n</think>\n\nyes<|im_end|>"
    )
    assert rows.learned_in(0).argmax() == rows.prompt_lengths[0]
    whole = tokenise(records_, chatml).fields["completion"]
    assert whole.row(0).tolist() == rows.row(0).tolist()
    assert whole.learned_in(0).tolist() == [False] + [True] * (len(whole.row(0)) - 1)
    # Cut before the first answer, there is nothing left to learn.
    cut = tokenise(records_, chatml, assistant_only=True, max_length=int(rows.prompt_lengths[0]) + 1)
    assert cut.counts["kept"] == 2
    with pytest.raises(InputError, match="skipped: prompt fills max_length 2"):
        tokenise(records_, chatml, assistant_only=True, max_length=int(rows.prompt_lengths[0]))


def test_assistant_only_needs_a_template_that_marks_and_an_assistant(chatml):
    with pytest.raises(InputError, match=r"its chat template has no {% generation %}"):
        tokenise(
            chats(LANGUAGE_MODELING, {"messages": [user("a"), assistant("b")]}),
            chat_tokenizer(HEADERS),
            assistant_only=True,
        )
    with pytest.raises(
        InputError, match=r"chats.jsonl, line 2: no token of the conversation is an assistant's"
    ):
        tokenise(
            chats(LANGUAGE_MODELING, {"messages": [user("a"), assistant("b")]}, {"messages": [user("a")]}),
            chatml,
            assistant_only=True,
        )
    with pytest.raises(
        InputError, match=r"rows.jsonl, line 1: the row is text; assistant_only needs messages"
    ):
        tokenise(records(LANGUAGE_MODELING, ("the cat",)), chatml, assistant_only=True)


def test_no_template_is_one_clear_error():
    rows = chats(PROMPT_ONLY, {"prompt": [user("cat?")]})
    with pytest.raises(InputError, match=r"it has no chat template; rows of messages need one\. Take the"):
        tokenise(rows, chat_tokenizer(None))
    with pytest.raises(InputError):
        require_template(object())


def test_a_conversation_that_the_template_refuses_has_its_line_and_the_templates_words():
    tokenizer = chat_tokenizer(TURNS)
    fine = {"prompt": [user("cat?")]}
    for prompt, said in (
        ([{"role": "system", "content": "x"}, user("a")], "There is no system role"),
        ([user("a"), user("b")], "Roles must alternate"),
    ):
        with pytest.raises(InputError, match=rf"chats.jsonl, line 2: the chat template cannot .*{said}"):
            tokenise(chats(PROMPT_ONLY, fine, {"prompt": prompt}), tokenizer)


def test_extras_that_cannot_be_meant(chatml):
    for extras, said in (
        ({"tools": "{"}, '"tools" is text that is not JSON'),
        ({"chat_template_kwargs": "enable_thinking"}, "\"chat_template_kwargs\" is 'enable_thinking'"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "without add_generation_prompt"),
    ):
        with pytest.raises(InputError, match=f"chats.jsonl, line 1: .*{said}"):
            tokenise(chats(PROMPT_ONLY, {"prompt": [user("a")], **extras}), chatml)


def test_the_token_that_ends_a_turn():
    ends = {family: end_of_turn(chat_tokenizer(template)) for family, template in TEMPLATES.items()}
    named = {family: chat_tokenizer(None).convert_ids_to_tokens(end) for family, end in ends.items()}
    assert named == {"chatml": "<|im_end|>", "headers": "<|eot_id|>", "turns": "<end_of_turn>"}
    assert end_of_turn(chat_tokenizer(None)) is None


def test_templates_count_in_a_fingerprint_when_asked(chatml):
    other = chat_tokenizer(HEADERS)
    assert tokenizer_fingerprint(chatml) == tokenizer_fingerprint(other)
    assert tokenizer_fingerprint(chatml, template=True) != tokenizer_fingerprint(other, template=True)
