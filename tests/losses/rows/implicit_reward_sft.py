import math

from prefjax.losses import (
    chi_square_sft_loss,
    forward_kl_sft_loss,
    hellinger_sft_loss,
    jensen_shannon_sft_loss,
    reverse_kl_sft_loss,
)
from tests.losses.rows import BETA, Row

# The slope in V is 1 less than φ'.
TENSORS = ("logratio", "score")
ROWS = {
    "chi_square_sft": Row(chi_square_sft_loss, TENSORS, BETA, None),
    "hellinger_sft": Row(hellinger_sft_loss, TENSORS, BETA, 400.0),
    "jensen_shannon_sft": Row(jensen_shannon_sft_loss, TENSORS, BETA, 1 / math.expm1(0.05)),
    "reverse_kl_sft": Row(reverse_kl_sft_loss, TENSORS, BETA, math.exp(20)),
    "forward_kl_sft": Row(forward_kl_sft_loss, TENSORS, BETA, 20.0),
}
