"""Writes the two models that all others load: a policy and a reference, with random weights and a tokeniser."""

from pathlib import Path

import jax
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.benchmarks.protocol import read_task, serve
from experiments.benchmarks.shapes import BOS, EOS, FIRST, PAD, UNKNOWN, Shape
from prefjax.policy import DecoderConfig, init, save_huggingface


def decoder(shape: Shape) -> DecoderConfig:
    return DecoderConfig(
        family="qwen3",
        qk_norm=True,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_ids=(EOS,),
        pad_token_id=PAD,
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rope_theta=shape.rope_theta,
        rms_norm_eps=shape.rms_norm_eps,
        max_position_embeddings=shape.max_position_embeddings,
    )


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Token i is the word `w<i>`: a trainer that wants text gets exactly the ids meant."""
    words = {f"w{i}": i for i in range(FIRST, vocab_size)}
    vocabulary = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN, **words}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def main() -> None:
    task = read_task()
    tokenizer = word_tokenizer(task.shape.vocab_size)
    for seed, name in enumerate(("policy", "reference")):
        policy, params = init(decoder(task.shape), jax.random.key(seed))
        save_huggingface(Path(task.directory) / name, policy, params, tokenizer=tokenizer)
    serve({})


if __name__ == "__main__":
    main()
