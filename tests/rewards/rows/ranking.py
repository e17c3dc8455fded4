from prefjax.rewards import dpo_optimal_margin, dpo_ranking_threshold, idealised_ranking_accuracy
from tests.rewards.rows import Row

TENSORS = ("score", "score", "probability")
SETTINGS = {"beta": 0.3, "epsilon": 1e-3}
ROWS = {
    "dpo_optimal_margin": Row(dpo_optimal_margin, TENSORS, SETTINGS),
    "idealised_ranking_accuracy": Row(idealised_ranking_accuracy, TENSORS, SETTINGS, gradient=False),
    "dpo_ranking_threshold": Row(
        dpo_ranking_threshold, ("score", "score"), {"beta": 0.3, "reference_weight": 0.5}
    ),
}
