from prefjax.losses import process_reward_loss, two_class_process_reward_loss
from tests.losses.rows import Row

ROWS = {
    "process_reward": Row(process_reward_loss, ("score S", "label S"), {}, 1.0, "S"),
    "two_class_process_reward": Row(two_class_process_reward_loss, ("score S 2", "label S"), {}, 1.0, "S"),
}
