"""What a bank adds to a memory's settings; those from before there was a choice stay as they were."""

from memlm.experiment.record import config_hash
from memlm.memory.product_key import ProductKeyConfig
from memlm.model.config import ModelConfig
from memlm.model.cost import cost

MEMORY = {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 12}


def model(**bank):
    memory = MEMORY | ({"bank": bank} if bank else {})
    return ModelConfig.model_validate(
        {"d_model": 32, "n_layers": 2, "memory": memory, "fusion": {"type": "weighted_sum"}}
    )


def test_a_bank_of_vectors_stands_in_no_settings():
    dumped = ProductKeyConfig.model_validate(MEMORY).model_dump(mode="json")
    assert list(dumped) == ["type", "n_keys", "n_heads", "top_k", "d_key", "d_value", "query_norm", "key_norm"]
    assert model(type="vectors").model_dump(mode="json") == model().model_dump(mode="json")
    assert config_hash(model().model_dump(mode="json")) == "50c3c730cd9bc2e5"


def test_a_bank_of_tokens_survives_its_dump():
    config = model(type="tokens", entry_length=7, encoder={"type": "gru"})
    bank = config.model_dump(mode="json")["memory"]["bank"]
    own = {"type": "tokens", "entry_length": 7, "encoder": {"type": "gru"}}
    assert bank == own | {"learned_share": 0.25, "database": None, "facts": False}
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_small_copy_has_the_same_bank():
    small = model(type="tokens", learned_share=0.001, encoder={"type": "gru"}).memory.shrunken().bank
    assert (small.entry_length, small.learned_share, small.encoder.type) == (5, 0.25, "gru")
    assert model(type="tokens", learned_share=0).memory.shrunken().bank.learned_share == 0


def test_the_cost_of_a_bank_of_tokens():
    vectors, tokens = (cost(model(type=name), 97, 16) for name in ("vectors", "tokens"))
    assert vectors.memory_parameters == 64 * 12
    assert tokens.memory_parameters == 16 * 12 + 32 * 12, "the learned quarter and the encoder's matrix"
    encoded = 64 * 2 * 32 * 12  # a sequence makes more reads than there are slots
    assert tokens.flops_per_token - vectors.flops_per_token == 2 * encoded / 16


def test_values_of_16_bits_stand_in_the_settings_and_the_default_does_not():
    narrow = model(type="vectors", dtype="bfloat16")
    assert narrow.model_dump(mode="json")["memory"]["bank"] == {"type": "vectors", "dtype": "bfloat16"}
    assert ModelConfig.model_validate(narrow.model_dump(mode="json", exclude_unset=True)) == narrow
    assert model(type="vectors", dtype="float32").model_dump(mode="json") == model().model_dump(mode="json")
    assert narrow.memory.shrunken().bank.dtype == "float32", "the preflight is about a model in float32"


def test_the_cost_of_values_of_16_bits():
    narrow, wide = (cost(model(type="vectors", dtype=dtype), 97, 16) for dtype in ("bfloat16", "float32"))
    read = 2 * 8 * 12  # layers x reads x width
    assert wide.bytes_per_token == 4 * wide.active_parameters
    assert narrow.bytes_per_token == wide.bytes_per_token - 2 * read
    assert narrow.parameters == wide.parameters and narrow.flops_per_token == wide.flops_per_token
