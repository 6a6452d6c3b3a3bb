"""A LIF neuron over a sequence in plain NumPy loops: spikes, and gradients by hand.

    u[t] = decay v[t-1] + I[t],   s[t] = 1 if u[t] >= theta else 0,
    v[t] = u[t] - theta s[t]  or  (1 - s[t]) u[t],

with the arctangent's derivative in place of the step's.
"""

# pyright: basic

import math

import numpy as np


def spikes(
    current: np.ndarray, decay: float, theta: float, *, hard: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Spikes and charged membranes, [T, N], in the dtype of the current."""
    kind = current.dtype.type
    decay, theta = kind(decay), kind(theta)
    fired, charged = np.zeros_like(current), np.zeros_like(current)
    for n in range(current.shape[1]):
        membrane = kind(0)
        for t in range(current.shape[0]):
            membrane = kind(decay * membrane) + current[t, n]
            charged[t, n] = membrane
            if membrane >= theta:
                fired[t, n] = 1
                membrane = kind(0) if hard else membrane - theta
    return fired, charged


def gradient(
    current: np.ndarray, upstream: np.ndarray, decay: float, theta: float, *, hard: bool
) -> tuple[np.ndarray, float]:
    """The gradients of sum(upstream * spikes) by the current, [T, N], and by the decay."""
    fired, charged = spikes(current, decay, theta, hard=hard)
    distance = charged - theta
    slope = 1 / (1 + (math.pi * distance) ** 2)
    found = np.zeros_like(current)
    of_decay = 0.0
    for n in range(current.shape[1]):
        carried = 0.0
        for t in reversed(range(current.shape[0])):
            if hard:
                kept = 1 - fired[t, n] - charged[t, n] * slope[t, n]
            else:
                kept = 1 - theta * slope[t, n]
            found[t, n] = upstream[t, n] * slope[t, n] + carried * kept
            if t:
                u, s = charged[t - 1, n], fired[t - 1, n]
                of_decay += found[t, n] * ((1 - s) * u if hard else u - theta * s)
            carried = decay * found[t, n]
    return found, of_decay
