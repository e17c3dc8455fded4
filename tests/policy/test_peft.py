"""Adapters in PEFT's files: what PEFT saved is read, and (oracle) what we save PEFT reads, to the same numbers."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefjax.checks import InputError
from prefjax.policy import (
    LORA_TARGETS,
    LoraConfig,
    load_huggingface,
    load_peft,
    merge_adapters,
    save_huggingface,
    save_peft,
    scores,
    split_adapters,
    with_adapters,
)
from tests.policy.goldens import GOLDENS, all_logits, expected, tiny

PEFT = Path(__file__).parents[1] / "goldens" / "peft"
BASES = {"all_linear": "tied", "layers": "gemma3", "classifier": "classifier"}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def loaded(name):
    return load_peft(PEFT / name, *load_huggingface(GOLDENS / BASES[name]))


def computed(policy, params, tokens, lengths):
    function = jax.jit(scores) if policy.config.num_scores else all_logits
    return np.asarray(function(policy, params, jnp.asarray(tokens), jnp.asarray(lengths)))


def assert_same_outputs(got, want, lengths):
    if got.ndim == 3:  # logits; those of padding mean nothing
        real = np.arange(got.shape[1])[None, :] < np.asarray(lengths)[:, None]
        got, want = got[real], want[real]
    np.testing.assert_allclose(got, want, atol=1e-5 * max(1.0, float(np.abs(want).max())), rtol=0)


@pytest.mark.parametrize("name", BASES)
def test_what_peft_saved_computes_what_it_computed_there(name):
    stored = np.load(PEFT / name / "expected.npz")
    policy, params = loaded(name)
    got = computed(policy, params, stored["tokens"], stored["lengths"])
    assert_same_outputs(got, stored["logits"], stored["lengths"])
    # Far from what the base says.
    _, _, without = expected(BASES[name])
    assert np.abs(without - stored["logits"]).max() > 0.1
    merged = merge_adapters(policy, params)
    assert_same_outputs(computed(*merged, stored["tokens"], stored["lengths"]), got, stored["lengths"])


def test_which_layers_is_read_off_the_tensors():
    assert loaded("all_linear")[0].config.lora == LoraConfig(3, 5.0, LORA_TARGETS)
    assert loaded("layers")[0].config.lora == LoraConfig(2, 8.0, ("q_proj", "o_proj", "down_proj"), (1,))
    policy, params = loaded("classifier")
    assert policy.config.lora == LoraConfig(2, 4.0, ("v_proj",))
    head = load_file(PEFT / "classifier" / WEIGHTS)["base_model.model.score.weight"]
    np.testing.assert_array_equal(params["score"]["weight"], head)


@pytest.mark.parametrize("name", BASES)
def test_written_again_it_has_the_same_names_and_numbers(tmp_path, name):
    save_peft(tmp_path, *loaded(name), base=BASES[name])
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(PEFT / name / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        np.testing.assert_array_equal(ours[tensor], values, err_msg=tensor)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    assert (
        len({path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}) == 1
    )  # no file for its owner alone
    about, wanted = (json.loads((at / CONFIG).read_text()) for at in (tmp_path, PEFT / name))
    for field in (
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "layers_to_transform",
        "base_model_name_or_path",
    ):
        assert about[field] == wanted[field], field
    again = load_peft(tmp_path, *load_huggingface(GOLDENS / BASES[name]))
    assert again[0] == loaded(name)[0]
    jax.tree.map(np.testing.assert_array_equal, again[1], loaded(name)[1])


def changed(tmp_path, **fields):
    """The golden with other fields in its configuration."""
    directory = tmp_path / "adapter"
    shutil.copytree(PEFT / "all_linear", directory)
    about = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps({**about, **fields}))
    return directory


def test_rank_stabilised_scaling(tmp_path):
    directory = changed(tmp_path, use_rslora=True)
    policy, _ = load_peft(directory, *load_huggingface(GOLDENS / "tied"))
    assert policy.config.lora.alpha / policy.config.lora.rank == pytest.approx(5 / 3**0.5)


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(mlp|self_attn)\..*_proj", None])
def test_however_the_configuration_says_which_layers(tmp_path, targets):
    policy, _ = load_peft(changed(tmp_path, target_modules=targets), *load_huggingface(GOLDENS / "tied"))
    assert policy.config.lora == LoraConfig(3, 5.0, LORA_TARGETS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"r": "many"}, "not an adapter's configuration"),
        ({"r": 4}, r'lora_A.weight" is \[3, '),
    ],
)
def test_another_kind_of_adapter_is_an_error(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        load_peft(changed(tmp_path, **fields), *load_huggingface(GOLDENS / "tied"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"), "layers.1.mlp.up_proj.lora_B"),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": np.zeros((3, 32), np.float32)}), "lm_head"),
        (
            lambda t: t.update({"base_model.model.model.layers.2.mlp.up_proj.lora_A.weight": np.zeros((3, 32))}),
            "adapters of block 2",
        ),
        (lambda t: [t.pop(name) for name in list(t)[1:]], "is nothing"),
    ],
    ids=["one missing", "elsewhere", "another block", "almost all missing"],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, edit, message):
    directory = changed(tmp_path)
    tensors = load_file(directory / WEIGHTS)
    edit(tensors)
    save_file(tensors, directory / WEIGHTS)
    with pytest.raises(InputError, match=message):
        load_peft(directory, *load_huggingface(GOLDENS / "tied"))


def test_files_that_are_not_there_or_not_whole(tmp_path):
    base = load_huggingface(GOLDENS / "tied")
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        load_peft(tmp_path, *base)
    directory = changed(tmp_path)
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:100])
    with pytest.raises(InputError, match="not readable"):
        load_peft(directory, *base)


def test_a_policy_without_adapters_has_none_to_save(tmp_path):
    with pytest.raises(InputError, match="without adapters"):
        save_peft(tmp_path, *tiny())


def drawn(name, lora):
    """A golden base with adapters that are on."""
    policy, params = with_adapters(*load_huggingface(GOLDENS / name), lora, jax.random.key(3))
    adapters, base = split_adapters(params)
    draws = np.random.default_rng(4)
    on = jax.tree.map(lambda leaf: jnp.asarray(draws.normal(0, 0.2, leaf.shape), jnp.float32), adapters)
    from prefjax.policy import join

    return policy, join(on, base)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("tied", LoraConfig(2, 4.0, LORA_TARGETS)),
        ("qwen2", LoraConfig(3, 7.5, ("k_proj", "up_proj"), (0,))),
        ("gemma2", LoraConfig(2, 4.0, ("v_proj", "down_proj"))),
        ("classifier", LoraConfig(2, 4.0, ("q_proj",))),
    ],
    ids=["llama", "qwen2", "gemma2", "classifier"],
)
def test_peft_and_transformers_read_what_we_write(tmp_path, name, lora):
    torch = pytest.importorskip("torch")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    policy, params = drawn(name, lora)
    if policy.config.num_scores:
        params = {**params, "score": {"weight": params["score"]["weight"] * -1.5}}
    save_peft(tmp_path / "adapter", policy, params, base=GOLDENS / name)
    save_huggingface(tmp_path / "merged", *merge_adapters(policy, params))
    kind = "AutoModelForSequenceClassification" if policy.config.num_scores else "AutoModelForCausalLM"

    def from_pretrained(directory):
        return getattr(transformers, kind).from_pretrained(directory, dtype=torch.float32)

    tokens, lengths, _ = expected(name)
    mask = np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]
    want = computed(policy, params, tokens, lengths)
    adapted = peft.PeftModel.from_pretrained(from_pretrained(GOLDENS / name), tmp_path / "adapter")
    # transformers alone finds the base by the adapter's own files.
    for model in (adapted, from_pretrained(tmp_path / "merged"), from_pretrained(tmp_path / "adapter")):
        with torch.no_grad():
            given = {
                "input_ids": torch.tensor(np.asarray(tokens)).long(),
                "attention_mask": torch.tensor(mask).long(),
            }
            got = model.eval()(**given).logits.float().numpy()
        assert_same_outputs(got, want, lengths)
