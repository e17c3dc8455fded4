"""The three games of three answers that the tests share, and two references."""

import numpy as np

RPS = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
CYC = np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]])
# Bradley and Terry's model with rewards (0, -log 9, -log 2).
BT3 = np.array([[1 / 2, 9 / 10, 2 / 3], [1 / 10, 1 / 2, 2 / 11], [1 / 3, 9 / 11, 1 / 2]])
UNIFORM = np.full(3, 1 / 3)
M2 = np.array([0.6, 0.3, 0.1])


def random_game(seed: int, answers: int, steep: float = 3.0):
    """P = σ(skew noise), which has cycles, and a reference that has every answer."""
    generator = np.random.default_rng(seed)
    noise = steep * generator.normal(size=(answers, answers))
    return 1 / (1 + np.exp(noise.T - noise)), generator.dirichlet(np.ones(answers))
