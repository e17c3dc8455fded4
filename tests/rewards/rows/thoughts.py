from prefjax.rewards import thought_advantages, thought_rewards, trust_grpo_rewards, trust_weight
from tests.rewards.rows import Row

GROUP = ("label G", "probability G")
THOUGHTS = ("label K", "score", "label", "mask K")
ROWS = {
    "trust_weight": Row(trust_weight, GROUP, {"threshold": 0.5}),
    "trust_grpo": Row(trust_grpo_rewards, GROUP, {"progress": 0.5, "alpha": 0.3, "threshold": 0.5}, "G"),
    "thought_rewards": Row(thought_rewards, THOUGHTS, {"strength": 0.2}, "K"),
    "thought_advantages": Row(thought_advantages, THOUGHTS, {"strength": 0.2}, "K"),
}
