from prefjax.losses import masked_importance_weights, off_policy_sequence_mask, truncated_importance_weights

ROWS: dict = {}
STATISTICS = (masked_importance_weights, off_policy_sequence_mask, truncated_importance_weights)
