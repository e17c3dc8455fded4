from prefjax.losses import entropy, kl_exact, kl_k1, kl_k2, kl_k3, kl_penalty
from tests.losses.rows import Row

ROWS = {
    "kl_k1": Row(kl_k1, ("logp T", "logp T"), {}, 1.0, "T"),
    "kl_k2": Row(kl_k2, ("logp T", "logp T"), {}, None, "T"),
    "kl_k3": Row(kl_k3, ("logp T", "logp T"), {}, None, "T"),
    "kl_penalty": Row(kl_penalty, ("logp T", "behaviour T", "logp T"), {}, None, "T"),
    "kl_exact": Row(kl_exact, ("score V", "score V"), {}, None),
    "entropy": Row(entropy, ("score V",), {}, None),
}
