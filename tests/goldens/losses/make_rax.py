"""Makes `rax.json`: four losses on ragged lists as rax, a JAX library of ranking, computes them.

Needs `pip install rax`. Run from the repository root with `python -m tests.goldens.losses.make_rax`.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rax

OUT = Path(__file__).with_name("rax.json")
LISTS, LONGEST = 12, 5


def lambda_loss(scores, labels, *, where):
    return rax.pairwise_logistic_loss(
        scores, labels, where=where, lambdaweight_fn=rax.dcg_lambdaweight, reduce_fn=jnp.sum
    )


def softmax(scores, labels, *, where):
    # As targets what rax makes of labels by a softmax of its own.
    weights = jax.nn.softmax(jnp.where(where, labels, -jnp.inf))
    return rax.softmax_loss(scores, weights, where=where)


LOSSES = {
    "listmle": rax.listmle_loss,
    "softmax": softmax,
    "pairwise_logistic": rax.pairwise_logistic_loss,
    "lambda": lambda_loss,
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    generator = np.random.default_rng(0)
    lists = []
    for number in range(LISTS):
        # Labels without ties; a mask anywhere, of at least one.
        mask = generator.random(LONGEST) < 0.7
        mask[number % LONGEST] = True
        scores = (generator.normal(size=LONGEST) * (9.0 if number % 4 == 3 else 1.5)).round(4)
        labels = generator.permutation(LONGEST) * 0.5
        lists.append(
            {"scores": scores.tolist(), "labels": labels.tolist(), "mask": mask.astype(int).tolist()}
        )
    losses: dict[str, dict[str, list]] = {}
    for name, loss in LOSSES.items():
        losses[name] = {"losses": [], "gradients": []}
        for row in lists:
            labels, where = jnp.array(row["labels"]), jnp.array(row["mask"], bool)
            value, gradient = jax.value_and_grad(lambda s, y=labels, w=where, f=loss: f(s, y, where=w))(
                jnp.array(row["scores"])
            )
            losses[name]["losses"].append(float(f"{value:.9g}"))
            losses[name]["gradients"].append([float(f"{x:.9g}") for x in np.nan_to_num(gradient)])
    made = {
        "made_by": "tests/goldens/losses/make_rax.py",
        "versions": {"rax": rax.__version__, "jax": jax.__version__},
        "lists": lists,
        "losses": losses,
    }
    OUT.write_text(json.dumps(made, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
