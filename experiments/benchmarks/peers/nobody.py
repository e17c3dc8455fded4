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
