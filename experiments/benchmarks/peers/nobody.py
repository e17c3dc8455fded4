"""Public functions that no row of the agreement table has, and why: the table cannot fall behind in silence."""

_PAPER = "its paper's code is the only other one, and no package"
_STATISTIC = "a statistic or a selection that others keep inside a training step"
_DERIVED = "derived here"

WITHOUT_A_ROW: dict[str, str] = {
    # Losses.
    "all_pairs_loss": "rax has it, for TensorFlow-Ranking's masks; enumerated in tests/losses/test_listwise.py",
    "beta_dpo_loss": _PAPER,
    "chi_square_sft_loss": _PAPER,
    "cpl_loss": _PAPER,
    "dno_loss": _PAPER,
    "dno_prct_loss": _PAPER,
    "dpop_loss": _PAPER,
    "forward_kl_sft_loss": _PAPER,
    "hellinger_sft_loss": _PAPER,
    "jensen_shannon_sft_loss": _PAPER,
    "length_regularised_dpo_loss": "open-instruct has it, which is no package",
    "lipo_lambda_loss": _PAPER,
    "nca_loss": _PAPER,
    "noise_corrected_bradley_terry_loss": _PAPER,
    "odpo_loss": _PAPER,
    "ordinal_loss": _PAPER,
    "oreo_policy_loss": _PAPER,
    "oreo_value_loss": _PAPER,
    "plackett_luce_loss": _PAPER,
    "preference_model_loss": _DERIVED,
    "rationale_dpo_loss": _PAPER,
    "rationale_orpo_loss": _PAPER,
    "rationale_sigmoid_term": _PAPER,
    "rationale_term": _PAPER,
    "reverse_kl_sft_loss": _PAPER,
    "score_l2_term": _PAPER,
    "slic_loss": _PAPER,
    "sppo_loss": _PAPER,
    "tdpo1_loss": _PAPER,
    "tdpo2_loss": _PAPER,
    "thurstone_loss": _PAPER,
    "unlikelihood_loss": _PAPER,
    "unlikelihood_pair_loss": _PAPER,
    "vpo_term": _PAPER,
    # What losses are given.
    "adapted_entropy_coef": _STATISTIC,
    "bco_importance_weight": _STATISTIC,
    "bco_shift": "TRL had it up to 1.10: tests/losses/test_trl.py",
    "beta_dpo_filter_logits": _PAPER,
    "beta_dpo_moments": _PAPER,
    "beta_dpo_running_moments": _PAPER,
    "dno_prct_pairs": _PAPER,
    "dynamic_sampling_mask": _STATISTIC,
    "sample_win_rates": _PAPER,
    "step_sums": _DERIVED,
}

_SUM = "a sum, or a mean, of what is timed"
_LOOP = "the other one loops over samples in Python"

# Functions with a row that are not timed.
WITHOUT_A_TIME: dict[str, str] = {
    "adapted_kl_coef": "one number a step",
    "clip_cov_loss": "`ppo_clip_loss` and a selection that verl draws at random",
    "clip_cov_selection": "verl draws it at random in the middle of its loss",
    "covariance_threshold": "timed within `kl_cov_loss`",
    "entropy_bonus": "one product",
    "entropy_threshold": "timed within `high_entropy_mask`",
    "gdpo_scores": "timed within `gdpo_advantages`",
    "gpg_advantages": _LOOP,
    "gpg_scale": _LOOP,
    "iterated_dpo_loss": _SUM,
    "kl_shaped_rewards": "a product and a difference",
    "kto_kl": _SUM,
    "max_at_k_advantages": _LOOP,
    "nash_md_loss": "the only other one is inside a training step, and another loss",
    "opo_advantages": _LOOP,
    "orpo_loss": _SUM,
    "pass_at_k_advantages": _LOOP,
    "reinforce_plus_plus_advantages": _LOOP,
    "reinforce_plus_plus_baseline_advantages": _LOOP,
    "remax_advantages": "one difference",
    "reverse_kl_link": "the log-ratio itself",
    "reward_standard_deviation": "timed within `batch_scaled_advantages`",
    "soft_values": "one line of TRL's that is run once a prompt",
    "token_covariances": "timed within `kl_cov_loss`",
    "tpo_loss": _SUM,
    "two_class_process_reward_loss": "`process_reward_loss` of a difference",
    "xpo_loss": _SUM,
    "xpo_term": _SUM,
}
