"""Process rewards: written numbers, soft labels, two forms of one loss, averages over steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import bradley_terry_loss, process_reward_loss, two_class_process_reward_loss
from prefjax.types import Weighted


def test_written_numbers_of_two_classes():
    # (wrong, right) = (.2, 1.0) and (.5, -.3), both right.
    scores = jnp.float32([[0.2, 1.0], [0.5, -0.3]])
    loss = two_class_process_reward_loss(scores, jnp.ones(2))
    np.testing.assert_allclose(loss, [0.371101, 1.171101], atol=6e-7)
    assert float(Weighted.tokens(loss, jnp.ones(2)).mean()) == pytest.approx(0.771101, abs=6e-7)


def test_two_classes_are_one_by_their_difference():
    scores, labels = jax.random.normal(jax.random.key(0), (4, 3, 2)), jnp.float32([[1, 0, 0.25]] * 4)
    np.testing.assert_allclose(
        two_class_process_reward_loss(scores, labels),
        process_reward_loss(scores[..., 1] - scores[..., 0], labels),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        process_reward_loss(scores[..., 0], labels),
        bradley_terry_loss(scores[..., 0], jnp.zeros((4, 3)), label_smoothing=1 - labels),
        rtol=1e-6,
    )


def test_a_soft_label_is_met_where_the_judge_says_it():
    label = jnp.float32(0.3)
    rest = jnp.log(label / (1 - label))
    assert float(jax.grad(process_reward_loss)(rest, label)) == pytest.approx(0.0, abs=1e-7)
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert float(process_reward_loss(rest, label)) == pytest.approx(entropy, rel=1e-6)
    assert float(process_reward_loss(jnp.float32(-20.0), jnp.float32(1.0))) == pytest.approx(20.0, rel=1e-6)


def test_scores_of_one_number_are_refused_where_two_belong():
    with pytest.raises(ValueError, match=r"two_class_process_reward_loss: scores have shape \(3, 1\)"):
        two_class_process_reward_loss.__wrapped__(jnp.ones((3, 1)), jnp.ones(3))
