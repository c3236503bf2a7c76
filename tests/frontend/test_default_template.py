"""Chats with a model whose tokenizer brings no template."""

from frontend.default_template import DEFAULT_TEMPLATE, NO_ENDS, AnswerEnds


def test_answers_end_at_the_tokens_of_the_tags_that_are_tokens_and_at_the_texts_of_the_others():
    ends = AnswerEnds.of_template(DEFAULT_TEMPLATE, {"<|user|>": 7, "<|system|>": 0}.get)
    assert ends == AnswerEnds(strings=("<|assistant|>",), token_ids=(7, 0))


def test_a_template_of_the_models_own_has_no_such_ends():
    assert AnswerEnds.of_template("{{ messages }}", {"<|user|>": 7}.get) == NO_ENDS
