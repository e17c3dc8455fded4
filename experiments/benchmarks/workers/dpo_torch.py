"""DPO steps in plain PyTorch with transformers' model: what a trainer could be on this machine.

The output head sees completion positions only, and a token's log-probability is its logit less a logsumexp.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from experiments.benchmarks.protocol import read_task, serve


def main() -> None:
    task = read_task()
    shape, directory = task.shape, Path(task.directory)
    model, reference = (
        AutoModelForCausalLM.from_pretrained(directory / name, dtype=torch.float32)
        for name in ("policy", "reference")
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def logp(network, tokens):
        hidden = network.model(tokens, use_cache=False).last_hidden_state[:, shape.prompt - 1 : -1]
        logits = hidden @ network.lm_head.weight.T
        chosen = logits.gather(-1, tokens[:, shape.prompt :, None])[..., 0]
        # A row at a time: one call over all of them would hold another array of the size of the logits.
        return (chosen - torch.stack([row.logsumexp(-1) for row in logits])).sum(-1)

    done = 0

    def run():
        nonlocal done
        prompts, chosen, rejected = (torch.from_numpy(ids).long() for ids in shape.preferences(done))
        tokens = torch.cat([torch.cat([prompts, chosen], 1), torch.cat([prompts, rejected], 1)])
        with torch.no_grad():
            reference_logp = logp(reference, tokens)
        ratio = logp(model, tokens) - reference_logp
        margin = ratio[: shape.pairs] - ratio[shape.pairs :]
        loss = -torch.nn.functional.logsigmoid(0.1 * margin).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        return {"loss": loss.item()}

    first = run()["loss"]
    serve({"step": run}, first_loss=first, parameters=sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
