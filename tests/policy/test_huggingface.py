"""Directories in and out, and what is said of those that are broken."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from prefjax.checks import InputError
from prefjax.policy import (
    DecoderConfig,
    LoraConfig,
    abstract,
    load_huggingface,
    read_config,
    save_huggingface,
)
from prefjax.policy.huggingface_read import by_name
from prefjax.policy.tensor_files import StoredTensor, write_tensors
from tests.policy.goldens import FAMILIES, GOLDENS, LLAMAS, config_fields, stored_tensors


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


@pytest.mark.parametrize("name", [*LLAMAS, *FAMILIES])
def test_parameters_are_those_of_the_file_stacked_and_float32(name):
    _, params = load_huggingface(GOLDENS / name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    stored = stored_tensors(GOLDENS / name)
    named = by_name(params)
    assert named.keys() == stored.keys()
    for key, tensor in stored.items():
        np.testing.assert_array_equal(np.asarray(named[key]), tensor.astype(np.float32))
    blocks = params["model"]["layers"]["self_attn"]["q_proj"]["weight"]
    np.testing.assert_array_equal(blocks[1], named["model.layers.1.self_attn.q_proj.weight"])


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


@pytest.fixture
def readings(monkeypatch):
    """How many numbers each reading of a tensor fetched."""
    sizes = []
    plain = StoredTensor.read

    def read(self, index):
        part = plain(self, index)
        sizes.append(part.size)
        return part

    monkeypatch.setattr(StoredTensor, "read", read)
    return sizes


def test_parameters_go_where_they_belong_and_each_part_is_read_once(readings):
    directory = GOLDENS / "untied"
    _, plain = load_huggingface(directory)
    size = sum(leaf.size for leaf in jax.tree.leaves(plain))
    assert sum(readings) == size
    _, shapes = abstract(read_config(directory))
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def place(leaf):  # the widest axis, over four of eight devices: everything is held twice
        axis = int(np.argmax(leaf.shape))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    readings.clear()
    places = jax.tree.map(place, shapes)
    _, params = load_huggingface(directory, shardings=places)
    chex.assert_trees_all_equal(params, plain)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf.sharding, params), places)
    assert sum(readings) == size
    largest = params["model"]["layers"]["mlp"]["up_proj"]["weight"]
    assert max(readings) <= plain["model"]["embed_tokens"]["weight"].size // 4
    assert {shard.data.shape for shard in largest.addressable_shards} == {(2, 12, 32)}

    readings.clear()
    _, params = load_huggingface(directory, shardings=NamedSharding(mesh, PartitionSpec()))
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal(params, plain)
    assert sum(readings) == size


def test_blocks_may_be_split_over_devices(readings):
    """Pipeline-like: each device holds whole blocks."""
    _, plain = load_huggingface(GOLDENS / "gemma3")
    mesh = jax.make_mesh((4,), ("stage",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    _, shapes = abstract(read_config(GOLDENS / "gemma3"))
    places = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, PartitionSpec("stage") if "layers" in jax.tree_util.keystr(path) else PartitionSpec()
        ),
        shapes,
    )
    readings.clear()
    _, params = load_huggingface(GOLDENS / "gemma3", shardings=places)
    chex.assert_trees_all_equal(params, plain)
    assert sum(readings) == sum(leaf.size for leaf in jax.tree.leaves(plain))


def test_a_new_head_goes_where_it_belongs():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    _, shapes = abstract(read_config(GOLDENS / "tied", num_scores=2))
    places = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), shapes)
    places["score"]["weight"] = split
    key = jax.random.key(0)
    _, params = load_huggingface(GOLDENS / "tied", num_scores=2, score_key=key, shardings=places)
    assert params["score"]["weight"].sharding == split
    _, plain = load_huggingface(GOLDENS / "tied", num_scores=2, score_key=key)
    chex.assert_trees_all_equal(params, plain)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_frozen_parameters_may_be_bfloat16(name):
    _, params = load_huggingface(GOLDENS / name, param_dtype="bfloat16", num_scores=1)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    _, exact = load_huggingface(GOLDENS / name, num_scores=1)
    chex.assert_trees_all_equal(params, jax.tree.map(lambda w: w.astype(jnp.bfloat16), exact))
    with pytest.raises(InputError, match="param_dtype is 'int8'"):
        load_huggingface(GOLDENS / name, param_dtype="int8")


def test_weights_may_be_stored_in_any_float(copy):
    directory = copy()
    _, want = load_huggingface(directory)

    def change(tensors):
        for i, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].astype([np.float64, np.float32][i % 2])

    edit_weights(directory, change)
    chex.assert_trees_all_equal(load_huggingface(directory)[1], want)
    edit_weights(directory, lambda tensors: tensors.update({k: v.astype("f2") for k, v in tensors.items()}))
    half = jax.tree.map(lambda w: w.astype(jnp.float16).astype(jnp.float32), want)
    chex.assert_trees_all_equal(load_huggingface(directory)[1], half)


@pytest.mark.parametrize(
    "prefixes",
    [
        ("language_model.model.", "language_model.lm_head."),  # as published
        ("model.language_model.", "lm_head."),  # as transformers 4.52 and later save it
    ],
)
def test_the_decoder_of_a_gemma_3_with_pictures(copy, tmp_path, prefixes):
    directory = copy("gemma3")
    fields = config_fields(directory)
    text = {key: value for key, value in fields.items() if key != "architectures"}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    (directory / "config.json").write_text(json.dumps({**outer, "text_config": text}))

    def change(tensors):
        for name in list(tensors):
            tensors[prefixes[0] + name.removeprefix("model.")] = tensors.pop(name)
        embeddings = prefixes[0] + "embed_tokens.weight"
        tensors[prefixes[1] + "weight"] = tensors[embeddings].copy()
        tensors["vision_tower.vision_model.post_layernorm.weight"] = np.zeros(3, np.float32)
        tensors["multi_modal_projector.mm_input_projection_weight"] = np.zeros((3, 2), np.float32)

    edit_weights(directory, change)
    policy, params = load_huggingface(directory)
    plain, want = load_huggingface(GOLDENS / "gemma3")
    assert policy == plain
    chex.assert_trees_all_equal(params, want)
    save_huggingface(tmp_path / "text", policy, params)
    assert config_fields(tmp_path / "text")["architectures"] == ["Gemma3ForCausalLM"]
    assert stored_tensors(tmp_path / "text").keys() == stored_tensors(GOLDENS / "gemma3").keys()


# What is written


@pytest.mark.parametrize("name", [*LLAMAS, *FAMILIES])
def test_what_is_written_is_what_transformers_wrote(tmp_path, name):
    """Names, shapes and bits of its own files; config.json is compared in test_config_json."""
    policy, params = load_huggingface(GOLDENS / name)
    theirs = stored_tensors(GOLDENS / name)
    [dtype] = {str(tensor.dtype) for tensor in theirs.values()}
    save_huggingface(tmp_path / "out", policy, params, dtype=dtype)
    ours = stored_tensors(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[key], tensor)
    assert config_fields(tmp_path / "out")["dtype"] == config_fields(GOLDENS / name)["dtype"]


@pytest.mark.parametrize("name", ["tied", "untied", "classifier", *FAMILIES])
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
    policy, params = load_huggingface(GOLDENS / "tied")
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    save_huggingface(tmp_path / "half", policy, params)
    assert config_fields(tmp_path / "half")["dtype"] == "bfloat16"
    chex.assert_trees_all_equal(
        load_huggingface(tmp_path / "half")[1], jax.tree.map(lambda w: w.astype(jnp.float32), params)
    )


def test_float32_parameters_may_be_stored_in_bfloat16(tmp_path):
    policy, params = load_huggingface(GOLDENS / "tied")
    save_huggingface(tmp_path / "half", policy, params, dtype="bfloat16", max_shard_bytes=20000)
    index = json.loads((tmp_path / "half" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    sizes = [path.stat().st_size for path in (tmp_path / "half").glob("*.safetensors")]
    assert max(sizes) < 22000
    assert config_fields(tmp_path / "half")["dtype"] == "bfloat16"
    rounded = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params)
    chex.assert_trees_all_equal(load_huggingface(tmp_path / "half")[1], rounded)
    with pytest.raises(InputError, match="dtype is 'int8'"):
        save_huggingface(tmp_path / "out", policy, params, dtype="int8")


def test_tensors_of_several_dtypes_in_one_file(tmp_path):
    """Five numbers of two bytes come before none of four: each tensor begins at a multiple of its own."""
    tensors = {
        "a": np.arange(5, dtype=np.float16),
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "c": jnp.arange(3, dtype=jnp.bfloat16),
        "d": np.float64([1.5]),
        "e": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    read = load_file(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_split_parameters_are_written_whole(tmp_path):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    _, shapes = abstract(read_config(GOLDENS / "tied"))
    places = jax.tree.map(
        lambda leaf: NamedSharding(mesh, PartitionSpec(*[None] * (len(leaf.shape) - 1), "fsdp")), shapes
    )
    policy, params = load_huggingface(GOLDENS / "tied", shardings=places)
    save_huggingface(tmp_path / "out", policy, params)
    for key, tensor in stored_tensors(GOLDENS / "tied").items():
        np.testing.assert_array_equal(stored_tensors(tmp_path / "out")[key], tensor)


def test_adapters_are_not_lost_in_silence(tmp_path):
    policy, params = abstract(DecoderConfig(vocab_size=8, lora=LoraConfig(rank=2)))
    with pytest.raises(InputError, match="a policy with adapters"):
        save_huggingface(tmp_path / "out", policy, params)


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


def test_the_file_is_named(copy):
    directory = copy()
    edit_config(directory, quantization_config={"bits": 4})
    with pytest.raises(InputError, match="quantised") as error:
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


def drop_of_a_block(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def one_block_more(tensors):
    tensors["model.layers.2.input_layernorm.weight"] = np.zeros(32, np.float32)


def reshape_in_a_block(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((32, 48), np.float32)


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
        (drop_of_a_block, r'no file has the tensor "model\.layers\.1\.mlp\.up_proj\.weight"; .*\[48, 32\]'),
        (one_block_more, r'model\.safetensors: it has a tensor "model\.layers\.2\.input_layernorm\.weight"'),
        (reshape_in_a_block, r'"model\.layers\.1\.mlp\.up_proj\.weight" has shape \[32, 48\]; .*\[48, 32\]'),
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
