"""Directories in and out, and what is said of those that are broken."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from prefjax.checks import InputError
from prefjax.policy import DecoderConfig, abstract, init, load_huggingface, read_config, save_huggingface
from prefjax.policy.config_json import config_from_huggingface, config_to_huggingface
from tests.policy.goldens import GOLDENS


@pytest.fixture
def copy(tmp_path):
    """A golden directory that a test may break."""

    def make(name="tied"):
        return shutil.copytree(GOLDENS / name, tmp_path / name)

    return make


def edit_config(directory, **changes):
    path = directory / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value != "absent"}))


def edit_weights(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


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
    for name in (
        "head_dim",
        "num_key_value_heads",
        "rope_theta",
        "rope_scaling",
        "architectures",
        "initializer_range",
    ):
        del fields[name]
    config = config_from_huggingface(
        {**fields, "head_dim": None, "eos_token_id": 2, "torch_dtype": "float16"}
    )
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 8, 10000.0)
    assert config.eos_token_ids == (2,)
    assert config.initializer_range == 0.02


@pytest.mark.parametrize("name", ["tied", "untied", "classifier"])
def test_config_comes_back_as_it_was(name):
    config = read_config(GOLDENS / name)
    assert config_from_huggingface(config_to_huggingface(config)) == config


@pytest.mark.parametrize(("labels", "scores"), [(None, 2), ({"0": "LABEL_0"}, 1)])
def test_labels_are_counted_as_transformers_counts_them(copy, labels, scores):
    directory = copy("classifier")
    edit_config(directory, id2label=labels or "absent")
    assert read_config(directory).num_scores == scores


def test_parameters_are_float32_under_the_names_of_the_file():
    _, params = load_huggingface(GOLDENS / "untied")
    assert params["model"]["layers"]["0"]["self_attn"]["q_proj"]["weight"].shape == (32, 32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_known_buffers_and_a_stored_tied_head_are_passed_over(copy):
    directory = copy()

    def change(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    edit_weights(directory, change)
    chex.assert_trees_all_equal(load_huggingface(directory)[1], load_huggingface(GOLDENS / "tied")[1])


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_a_language_model_becomes_a_reward_model(name):
    policy, params = load_huggingface(GOLDENS / name, num_scores=2)
    assert policy.config.num_scores == 2
    assert params["score"]["weight"].shape == (2, 32)
    assert not params["score"]["weight"].any()
    _, random = load_huggingface(GOLDENS / name, num_scores=2, score_key=jax.random.key(0))
    assert float(random["score"]["weight"].std()) == pytest.approx(0.3, rel=0.25)  # what config.json says
    del params["score"], random["score"]
    chex.assert_trees_all_equal(params, random)


def test_parameters_go_where_they_belong():
    _, shapes = abstract(read_config(GOLDENS / "tied"))
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    places = jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec("fsdp")), shapes)
    _, params = load_huggingface(GOLDENS / "tied", shardings=places)
    assert all(leaf.sharding.spec == PartitionSpec("fsdp") for leaf in jax.tree.leaves(params))
    _, params = load_huggingface(GOLDENS / "tied", shardings=NamedSharding(mesh, PartitionSpec()))
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(params))


# What is written


@pytest.mark.parametrize("name", ["tied", "untied", "classifier"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20000])
def test_there_and_back(tmp_path, name, max_shard_bytes):
    policy, params = load_huggingface(GOLDENS / name)
    save_huggingface(tmp_path / "a" / "b", policy, params, max_shard_bytes=max_shard_bytes)
    assert len(list((tmp_path / "a" / "b").glob("*.safetensors"))) == 1 or max_shard_bytes == 20000
    again, same = load_huggingface(tmp_path / "a" / "b")
    assert again == policy
    chex.assert_trees_all_equal(same, params)
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]  # nothing left beside it


def test_bfloat16_parameters_stay_bfloat16(tmp_path):
    policy, params = init(DecoderConfig(vocab_size=8, hidden_size=8, num_heads=2), jax.random.key(0))
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    save_huggingface(tmp_path / "half", policy, params)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    chex.assert_trees_all_equal(
        load_huggingface(tmp_path / "half")[1], jax.tree.map(lambda w: w.astype(jnp.float32), params)
    )


def test_saving_again_leaves_no_old_weights_and_no_others_files(tmp_path):
    policy, params = load_huggingface(GOLDENS / "untied")
    save_huggingface(tmp_path / "out", policy, params, max_shard_bytes=20000)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    twice = jax.tree.map(lambda w: 2 * w, params)
    save_huggingface(tmp_path / "out", policy, twice)
    chex.assert_trees_all_equal(load_huggingface(tmp_path / "out")[1], twice)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "notes.txt"}


def test_the_tokeniser_comes_along(tmp_path, copy):
    source = copy()
    (source / "tokenizer.json").write_text("{}")
    policy, params = load_huggingface(source)
    save_huggingface(tmp_path / "one", policy, params, source_dir=source)
    assert (tmp_path / "one" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "one" / "generation_config.json").read_text() == (
        source / "generation_config.json"
    ).read_text()

    class Tokenizer:
        def save_pretrained(self, directory):
            from pathlib import Path

            (Path(directory) / "tokenizer.json").write_text("[]")

    save_huggingface(tmp_path / "two", policy, params, tokenizer=Tokenizer())
    assert (tmp_path / "two" / "tokenizer.json").read_text() == "[]"


def test_a_save_that_fails_changes_nothing(tmp_path):
    policy, params = load_huggingface(GOLDENS / "tied")
    save_huggingface(tmp_path / "out", policy, params)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    class Broken:
        def save_pretrained(self, directory):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_huggingface(tmp_path / "out", policy, jax.tree.map(lambda w: 2 * w, params), tokenizer=Broken())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_parameters_of_another_policy_are_not_saved(tmp_path):
    policy, _ = load_huggingface(GOLDENS / "tied")
    _, other = load_huggingface(GOLDENS / "untied")
    with pytest.raises(InputError, match=r"lm_head\.weight: got \[128, 32\]; the policy's"):
        save_huggingface(tmp_path / "out", policy, other)
    assert not (tmp_path / "out").exists()


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MistralForCausalLM"]},
            "MistralForCausalLM; these are supported: LlamaForCausalLM, L",
        ),
        ({"architectures": "absent", "model_type": "gpt2"}, "none .model_type 'gpt2'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 'rope_scaling asks for rope_type "linear"'),
        ({"rope_parameters": {"rope_type": "llama3"}}, 'rope_parameters asks for rope_type "llama3"'),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"hidden_size": "absent"}, '"hidden_size" is missing'),
        ({"num_hidden_layers": "two"}, "\"num_hidden_layers\" is 'two'"),
        ({"vocab_size": True}, '"vocab_size" is True'),
        ({"initializer_range": -0.02}, '"initializer_range" is -0.02'),
        ({"num_key_value_heads": 3}, "num_heads is 4, num_kv_heads 3"),
    ],
)
def test_a_config_that_cannot_be_met(copy, changes, message):
    directory = copy()
    edit_config(directory, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_huggingface(directory)
    assert str(directory / "config.json") in str(error.value)


def test_no_config_and_no_json(tmp_path, copy):
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_huggingface(tmp_path)
    directory = copy()
    for text in ("{", "[]"):
        (directory / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"not JSON|a JSON list"):
            load_huggingface(directory)


def drop(tensors):
    del tensors["model.norm.weight"]


def add(tensors):
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)


def reshape(tensors):
    tensors["model.norm.weight"] = np.zeros(31, np.float32)


def quantise(tensors):
    tensors["model.norm.weight"] = np.zeros(32, np.int8)


def untie(tensors):
    tensors["lm_head.weight"] = np.zeros((128, 32), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r'no file has the tensor "model\.norm\.weight"; .*shape \[32\]'),
        (add, r'model\.safetensors: it has a tensor "model\.layers\.0\.self_attn\.q_proj\.bias"'),
        (
            reshape,
            r'model\.safetensors: tensor "model\.norm\.weight" has shape \[31\]; .* makes it \[32\]',
        ),
        (quantise, r'"model\.norm\.weight" is I8'),
        (untie, r'"lm_head\.weight" differs from "model\.embed_tokens\.weight"'),
    ],
)
def test_tensors_that_do_not_fit(copy, change, message):
    directory = copy()
    edit_weights(directory, change)
    with pytest.raises(InputError, match=message):
        load_huggingface(directory)


def test_files_that_are_missing_or_cut_off(copy):
    directory = copy()
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: not readable .*may be cut off"):
        load_huggingface(directory)
    path.unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor"):
        load_huggingface(directory)

    several = copy("untied")
    (several / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00003\.safetensors: no such file"):
        load_huggingface(several)
    for text in ("{", "{}", '{"weight_map": 3}'):
        (several / "model.safetensors.index.json").write_text(text)
        with pytest.raises(InputError, match="not an index"):
            load_huggingface(several)


def test_a_classifier_keeps_its_head():
    with pytest.raises(InputError, match="a classifier with 3 labels, loaded with num_scores=1"):
        load_huggingface(GOLDENS / "classifier", num_scores=1)
    with pytest.raises(InputError, match="loaded with num_scores=0"):
        load_huggingface(GOLDENS / "classifier", num_scores=0)
