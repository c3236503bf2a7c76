"""Which models are sentence encoders, and which of those are refused."""

import pytest

from engine_core.model.encoder.config import EncoderConfig
from ipc.errors import ConfigError
from tests.sentence_encoders import DISTILBERT_SIZES, SIZES

BERT = {**SIZES, "model_type": "bert", "type_vocab_size": 2, "hidden_act": "gelu", "architectures": ["BertModel"]}


def test_the_longest_text_follows_from_the_positions():
    roberta = EncoderConfig.try_from({**BERT, "model_type": "roberta", "architectures": None, "pad_token_id": 1})
    assert (EncoderConfig.try_from(BERT).max_model_len, roberta.max_model_len) == (66, 64)


def test_distilbert_names_its_sizes_otherwise():
    config = EncoderConfig.try_from({**DISTILBERT_SIZES, "model_type": "distilbert", "activation": "relu"})
    assert (config.hidden_size, config.num_token_types, config.hidden_act) == (48, 0, "relu")


@pytest.mark.parametrize("changes", [{"model_type": "llama"}, {"model_type": None}, {"is_decoder": True}])
def test_other_models_are_no_encoders(changes):
    assert EncoderConfig.try_from({**BERT, **changes}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "BertForSequenceClassification is not served"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "martian"}, "martian"),
        ({"num_attention_heads": 5}, "no multiple"),
        ({"hidden_size": "48"}, "hidden_size must be an integer"),
        ({"model_type": "roberta", "max_position_embeddings": 2, "pad_token_id": 1}, "leaves no position"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.try_from({**BERT, **changes})
