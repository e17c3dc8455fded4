from prefjax.losses import alpha_link, forward_kl_link, jensen_shannon_link, reverse_kl_link
from tests.losses.rows import Row

ROWS = {
    "reverse_kl_link": Row(reverse_kl_link, ("logratio",), {}, 1.0),
    "forward_kl_link": Row(forward_kl_link, ("logratio",), {}, None),
    "jensen_shannon_link": Row(jensen_shannon_link, ("logratio",), {}, 1.0),
    "alpha_link": Row(alpha_link, ("logratio",), {"alpha": 0.5}, None),
}
