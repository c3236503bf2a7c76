"""The defaults of each family are those of transformers' config class."""

import dataclasses

import pytest
import transformers

from engine_core.model.decoder.families import FAMILIES, MINIMAL_LLM

OF_TRANSFORMERS = [architecture for architecture in FAMILIES if architecture != MINIMAL_LLM]
NOT_FIELDS = {"partial_rotary_factor": 1.0}
"""Phi-3's class reads it from the other keys, with this default."""


@pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
def test_defaults_are_those_of_the_config_class(architecture):
    family = FAMILIES[architecture]
    config_class = transformers.AutoConfig.for_model(family.model_type).__class__
    of_class = NOT_FIELDS | {field.name: field.default for field in dataclasses.fields(config_class)}
    assert family.defaults == {name: of_class[name] for name in family.defaults}


@pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
def test_the_model_type_leads_transformers_to_the_architecture(architecture):
    config_class = transformers.AutoConfig.for_model(FAMILIES[architecture].model_type).__class__
    assert transformers.AutoModelForCausalLM._model_mapping[config_class].__name__ == architecture
