"""config.json: what it says in each family and in two versions, what it may leave out, what is refused."""

import json
import shutil
from dataclasses import replace

import pytest

from prefjax.checks import InputError
from prefjax.policy import DecoderConfig, LoraConfig, RopeScaling, read_config
from prefjax.policy.config_json import config_from_huggingface
from prefjax.policy.config_json_write import config_to_huggingface
from tests.policy.goldens import FAMILIES, GOLDENS, config_fields

SIZES = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def read(model_type, **fields):
    return config_from_huggingface({**SIZES, "model_type": model_type, **fields})


# What is read


def test_config_as_transformers_5_writes_it():
    config = read_config(GOLDENS / "tied", dtype="bfloat16")
    assert config == DecoderConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rope_theta=50000.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_ids=(2, 3),
        pad_token_id=0,
        dtype="bfloat16",
    )


def test_config_as_transformers_4_writes_it():
    config = config_from_huggingface(json.loads((GOLDENS / "config_transformers4.json").read_text()))
    assert (config.rope_theta, config.head_dim, config.eos_token_ids) == (50000.0, 8, (2, 3))
    assert not config.tie_word_embeddings
    assert config.initializer_range == 0.3


def test_config_with_what_older_files_leave_out():
    fields = json.loads((GOLDENS / "config_transformers4.json").read_text())
    left_out = ("num_key_value_heads", "rope_theta", "rope_scaling", "architectures", "initializer_range")
    for name in left_out:
        del fields[name]
    config = config_from_huggingface(
        {**fields, "head_dim": None, "eos_token_id": 2, "torch_dtype": "float16"}
    )
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 8, 10000.0)
    assert config.eos_token_ids == (2,)
    assert config.initializer_range == 0.02


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        (
            "llama3",
            {
                "attention_bias": True,
                "attention_output_bias": True,
                "mlp_bias": True,
                "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32),
                "rope_theta": 100.0,
            },
        ),
        (
            "mistral",
            {
                "family": "mistral",
                "windows": (5, 5, 5),
                "rms_norm_eps": 1e-5,
                "rope_scaling": RopeScaling("linear", 3.0),
                "rope_theta": 100.0,
            },
        ),
        (
            "qwen2",
            {
                "family": "qwen2",
                "windows": (0, 6, 6),
                "head_dim": 8,
                "attention_bias": True,
                "tie_word_embeddings": True,
            },
        ),
        (
            "qwen3",
            {
                "family": "qwen3",
                "qk_norm": True,
                "attention_bias": True,
                "attention_output_bias": True,
            },
        ),
    ],
)
def test_each_family_says_what_it_is(name, differences):
    common = DecoderConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=40,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=12,
        rope_theta=300.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_ids=(2, 3),
        pad_token_id=0,
    )
    assert read_config(GOLDENS / name) == replace(common, **differences)


def test_gemma_says_what_it_is():
    two, three = read_config(GOLDENS / "gemma2"), read_config(GOLDENS / "gemma3")
    for config in (two, three):
        assert config.norm_offset
        assert config.post_norms
        assert config.scale_embeddings
        assert config.tie_word_embeddings
        assert config.activation == "gelu_tanh"
        assert config.score_scale == pytest.approx(20**-0.5, rel=1e-12)
    assert (two.windows, two.qk_norm, two.local_rope_theta) == ((5, 0, 5, 0), False, None)
    assert (two.attention_softcap, two.logit_softcap) == (1.5, 0.5)
    assert (three.windows, three.qk_norm, three.local_rope_theta) == ((5, 5, 0, 5), True, 20.0)
    assert (three.attention_softcap, three.logit_softcap) == (None, None)
    assert (three.rope_theta, three.rope_scaling) == (500.0, RopeScaling("linear", 4.0))


def test_a_published_gemma_3_with_pictures_that_leaves_out_nearly_everything():
    config = config_from_huggingface(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "eos_token_id": [1, 106],
            "initializer_range": 0.02,
            "vision_config": {"hidden_size": 1152},
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        }
    )
    assert (config.vocab_size, config.num_heads, config.num_kv_heads, config.head_dim) == (262208, 8, 4, 256)
    assert config.windows == tuple(0 if i in (5, 11, 17, 23, 29) else 1024 for i in range(34))
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (2, (1, 106), 0)
    assert config.tie_word_embeddings
    assert config.attention_scale is None  # 1 / √256, as wide as a head


def test_gemma_2_caps_unless_it_says_null():
    config = read("gemma2", head_dim=4)
    assert (config.attention_softcap, config.logit_softcap, config.rms_norm_eps) == (50.0, 30.0, 1e-6)
    assert config.windows == (4096, 0, 4096, 0)
    config = read("gemma2", head_dim=4, attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


def test_gemma_3_in_both_spellings():
    old = read(
        "gemma3_text",
        rope_theta=500,
        rope_local_base_freq=20,
        rope_scaling={"factor": 4.0, "rope_type": "linear"},
        sliding_window=3,
        sliding_window_pattern=2,
    )
    new = read(
        "gemma3_text",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    assert old == new
    assert new.windows == (3, 0, 3, 0)
    assert (read("gemma3_text").rope_theta, read("gemma3_text").local_rope_theta) == (1e6, 1e4)


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({}, ()),
        ({"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 3}, (0, 0, 0, 3)),
        ({"use_sliding_window": True, "sliding_window": 3}, ()),  # from block 28 on
        ({"use_sliding_window": False, "sliding_window": 3, "max_window_layers": 0}, ()),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, ()),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 2,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
            (0, 2, 0, 2),
        ),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_windows_of_qwen(family, fields, windows):
    assert read(family, **fields).windows == windows


def test_the_windows_of_mistral():
    assert read("mistral").windows == (4096,) * 4
    assert read("mistral", sliding_window=3).windows == (3,) * 4
    assert read("mistral", sliding_window=None).windows == ()
    assert read("llama", sliding_window=3).windows == ()  # which transformers does not read either


def test_rotary_positions_in_both_spellings():
    bend = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = read(
        "llama",
        rope_theta=5e5,
        rope_scaling={**bend, "type": "llama3", "original_max_position_embeddings": 8192},
    )
    new = read(
        "llama",
        rope_parameters={
            **bend,
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "original_max_position_embeddings": 8192,
        },
    )
    assert old == new
    assert new.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    silent = read("llama", rope_scaling={**bend, "rope_type": "llama3"}, max_position_embeddings=64)
    assert silent.rope_scaling.original_max_position_embeddings == 64
    assert read("qwen2", rope_scaling={"type": "linear", "factor": 2}).rope_scaling == RopeScaling(
        "linear", 2.0
    )
    assert read("qwen2").rope_theta == 10000.0


@pytest.mark.parametrize(("labels", "scores"), [(None, 2), ({"0": "LABEL_0"}, 1)])
def test_labels_are_counted_as_transformers_counts_them(tmp_path, labels, scores):
    fields = config_fields(GOLDENS / "classifier")
    fields.pop("id2label")
    (tmp_path / "config.json").write_text(json.dumps({**fields, **({"id2label": labels} if labels else {})}))
    assert read_config(tmp_path).num_scores == scores


# What is written


@pytest.mark.parametrize("name", ["tied", "untied", *FAMILIES])
def test_config_comes_back_as_it_was(name):
    config = read_config(GOLDENS / name)
    assert config_from_huggingface(config_to_huggingface(config)) == config
    theirs, ours = config_fields(GOLDENS / name), config_to_huggingface(config)
    # Marks of who wrote it; what nothing reads; what follows from another field.
    for key in ("transformers_version", "dtype", "pretraining_tp", "max_window_layers"):
        theirs.pop(key, None)
    for key in ("_sliding_window_pattern", "sliding_window_pattern"):
        theirs.pop(key, None)
    theirs = {k: False if v is None and k == "use_bidirectional_attention" else v for k, v in theirs.items()}
    assert {key: ours.get(key) for key in theirs} == theirs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_comes_back_as_it_was(tmp_path, name):
    shutil.copyfile(GOLDENS / name / "classifier.json", tmp_path / "config.json")
    config = read_config(tmp_path)
    fields = config_to_huggingface(config)
    assert config_from_huggingface(fields) == config
    theirs = config_fields(tmp_path)
    for key in ("architectures", "model_type", "id2label", "label2id"):
        assert fields[key] == theirs[key]


def test_how_a_decoder_is_run_is_not_of_the_file():
    config = DecoderConfig(vocab_size=8, lora=LoraConfig(rank=2), dtype="bfloat16", remat="block")
    plain = DecoderConfig(vocab_size=8)
    assert config_to_huggingface(config) == config_to_huggingface(plain)
    assert config_from_huggingface(config_to_huggingface(config)) == plain


def test_two_ways_to_say_the_same_are_both_written():
    base = read_config(GOLDENS / "gemma2")
    for same in (
        replace(base, attention_scale=None),
        replace(base, attention_scale=base.width**-0.5),
        replace(base, windows=()),
        replace(base, windows=(0,) * 4),
    ):
        again = config_from_huggingface(config_to_huggingface(same))
        assert again.score_scale == same.score_scale
        assert any(again.windows) == any(same.windows)
    plain = replace(read_config(GOLDENS / "gemma3"), rope_scaling=None, local_rope_theta=None)
    assert config_from_huggingface(config_to_huggingface(plain)).local_rope_theta == plain.rope_theta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": (3, 0)}, r"windows is \(3, 0\); in a config.json of family 'llama' it is \(\)"),
        ({"family": "mistral", "windows": (3, 0)}, r"windows is \(3, 0\); .*'mistral' it is \(3, 3\)"),
        ({"qk_norm": True}, "qk_norm is True; in a config.json of family 'llama' it is False"),
        ({"attention_bias": True}, "attention_output_bias is False; .* it is True"),
        ({"family": "mistral", "attention_bias": True}, "attention_bias is True"),
        ({"family": "qwen2"}, "attention_bias is False; in a config.json of family 'qwen2' it is True"),
        ({"logit_softcap": 3.0}, "logit_softcap is 3.0"),
        ({"attention_scale": 3.0}, "attention_scale is 3.0"),
        ({"local_rope_theta": 3.0}, "local_rope_theta is 3.0"),
        ({"family": "gemma2"}, "norm_offset is False"),
    ],
)
def test_what_a_family_cannot_say(changes, message):
    with pytest.raises(InputError, match=message):
        config_to_huggingface(DecoderConfig(vocab_size=8, **changes))


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MixtralForCausalLM"]},
            "MixtralForCausalLM.*; these are supported: LlamaForCausal",
        ),
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM.*, model_type 'llama'; .* 'mistral'"),
        ({"architectures": None, "model_type": "gpt2"}, "none .model_type 'gpt2'"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "text_config is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, r"quantised \(quantization_config is {'bits': 4}\)"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, 'rope_scaling asks for rope_type "yarn"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, 'rope_scaling asks for rope_type "dynamic"'),
        ({"rope_parameters": {"rope_type": "longrope"}}, 'rope_parameters asks for rope_type "longrope"'),
        ({"rope_parameters": {"rope_type": "llama3"}}, '"low_freq_factor of rope_parameters" is None'),
        ({"rope_scaling": {"type": "linear"}}, '"factor of rope_scaling" is None'),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters is {'full_attention': {}}; the para"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": -1}, '"rope_theta" is -1'),
        ({"hidden_size": None}, '"hidden_size" is missing'),
        ({"num_hidden_layers": "two"}, "\"num_hidden_layers\" is 'two'"),
        ({"vocab_size": True}, '"vocab_size" is True'),
        ({"initializer_range": -0.02}, '"initializer_range" is -0.02'),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_heads is 4, num_kv_heads 3"),
    ],
)
def test_a_llama_that_cannot_be_met(changes, message):
    fields = {**SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama", **changes}
    with pytest.raises(InputError, match=message) as error:
        config_from_huggingface(fields, where="some/config.json")
    assert str(error.value).startswith("some/config.json: ")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"layer_types": ["full_attention"] * 4}, "sliding_window is 4096, layer_types"),
        ("mistral", {"sliding_window": "far"}, "sliding_window is 'far'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "use_sliding_window None, layer_types"),
        ("qwen3", {"layer_types": ["full_attention"] * 3}, "for each of the 4 blocks"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 4}, "layer_types is .'chunked_attention'"),
        ("qwen3", {"max_window_layers": "all"}, "max_window_layers is 'all'"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None, layer_types"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "one entry for each kind of block"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            'rope_parameters of sliding_attention have rope_type "linear"',
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "proportional"}}},
            'rope_parameters of full_attention asks for rope_type "proportional"',
        ),
    ],
)
def test_others_that_cannot_be_met(family, changes, message):
    with pytest.raises(InputError, match=message):
        read(family, **changes)
