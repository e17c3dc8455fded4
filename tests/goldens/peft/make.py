"""Adapters as PEFT saves them, on goldens of tests/goldens/policy, and what PEFT computes with them. Needs peft.

    python tests/goldens/peft/make.py

writes beside itself, each with `expected.npz` (tokens, lengths, and logits or scores of the adapted model):
`all_linear/` on the language model `tied`, `layers/` on `gemma3` (some linear layers of block 1 alone) and
`classifier/` on the classifier, with a score head of its own. A and B are drawn, B not 0. Everything follows from the
seeds below.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
BASES = HERE.parent / "policy"
ADAPTERS = {
    "all_linear": ("tied", {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"}),
    "layers": (
        "gemma3",
        {
            "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj", "down_proj"], "layers_to_transform": [1],
            "init_lora_weights": "gaussian",
        },
    ),
    "classifier": (
        "classifier",
        {"r": 2, "lora_alpha": 4, "target_modules": ["v_proj"], "task_type": "SEQ_CLS", "modules_to_save": ["score"]},
    ),
}  # fmt: skip


def make(name: str) -> None:
    base, settings = ADAPTERS[name]
    settings = {"task_type": "CAUSAL_LM", **settings}
    kind = (
        "AutoModelForSequenceClassification" if settings["task_type"] == "SEQ_CLS" else "AutoModelForCausalLM"
    )
    model = getattr(transformers, kind).from_pretrained(BASES / base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draws))

    stored = np.load(BASES / base / "expected.npz")
    tokens, lengths = torch.tensor(stored["tokens"]), torch.tensor(stored["lengths"])
    with torch.no_grad():
        mask = torch.arange(tokens.shape[1])[None, :] < lengths[:, None]
        logits = model(input_ids=tokens, attention_mask=mask.long()).logits
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()  # a form to be filled in
    (directory / "adapter_model.safetensors").chmod(0o644)
    about = json.loads((directory / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = base
    # Made of a set: in an order of its own each time.
    about["target_modules"] = sorted(about["target_modules"])
    (directory / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    np.savez_compressed(
        directory / "expected.npz",
        tokens=stored["tokens"], lengths=stored["lengths"], logits=logits.numpy().astype(np.float32),
    )  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:] or ADAPTERS:
        make(name)
