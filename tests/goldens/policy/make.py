"""Small random Llamas and what transformers computes with them. Needs the extra `[oracle]`.

    python tests/goldens/policy/make.py

writes beside itself: `tied/` (one file, heads wider than hidden / heads), `untied/` (bfloat16, several
files), `classifier/` (three scores), each with `expected.npz`; and `config_transformers4.json` where it runs
under transformers 4. Everything follows from the seeds below.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that attention and the scores are far from uniform
}
LENGTHS = (11, 7, 3)


def randomised(model_class, seed: int, **changes):
    torch.manual_seed(seed)
    model = model_class(transformers.LlamaConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all ones otherwise: a norm that forgot its scale would pass
                parameter.uniform_(0.5, 1.5)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(4, SHAPE["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    return tokens * mask, mask


@torch.no_grad()
def write(name: str, model, **how) -> None:
    directory = HERE / name
    model.save_pretrained(directory, **how)
    tokens, mask = batch()
    # Read again, since a model cast to bfloat16 and back has also rounded its rotary frequencies.
    model = type(model).from_pretrained(directory, dtype=torch.float32).eval()
    out = model(input_ids=tokens, attention_mask=mask).logits
    np.savez(directory / "expected.npz", tokens=tokens, lengths=np.array(LENGTHS), logits=out)


if __name__ == "__main__":
    if transformers.__version__.startswith("4."):
        config = transformers.LlamaConfig(**SHAPE, rope_theta=50000.0, architectures=["LlamaForCausalLM"])
        text = config.to_json_string()
        (HERE / "config_transformers4.json").write_text(text)
        assert "rope_theta" in json.loads(text)
    else:
        rope = {"rope_type": "default", "rope_theta": 50000.0}
        write(
            "tied",
            randomised(
                transformers.LlamaForCausalLM, 0, tie_word_embeddings=True, head_dim=16, rope_parameters=rope
            ),
        )
        untied = randomised(transformers.LlamaForCausalLM, 1, tie_word_embeddings=False, rms_norm_eps=1e-5)
        write("untied", untied.to(torch.bfloat16), max_shard_size="20KB")
        write(
            "classifier",
            randomised(transformers.LlamaForSequenceClassification, 2, num_labels=3, num_hidden_layers=1),
        )
