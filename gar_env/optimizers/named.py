"""Published update rules by name."""

from __future__ import annotations

NAMED = {
    "SGD": "g",
    "Momentum": "m",
    "Adam": "Adam",
    "RMSProp": "RMSProp",
    "PowerSign": "g * exp(sign(g) * sign(m))",
    "AddSign": "(1 + sign(g) * sign(m)) * g",
    "Optimizer_1": "(exp(sign(g) * sign(m)) + clip(g, 1e-4)) * g",
}
"""Those with names of their own, AddSign and PowerSign without decays; with one it is a formula:
``(1 + linear_decay * sign(g) * sign(m)) * g``."""

TABLE = (
    "SGD",
    "Momentum",
    "Adam",
    "RMSProp",
    "Optimizer_1",
    "clip(m, 1e-4) * exp(v)",
    "m * exp(v)",
    "PowerSign",
    "drop(g, 0.3) * exp(sign(g) * sign(m))",
    "m * exp(g2)",
    "drop(m, 0.1) / exp(g2)",
    "drop(g, 0.1) * exp(sign(g) * sign(m))",
    "clip(RMSProp, 1e-5) + drop(m, 0.3)",
    "Adam * exp(sign(g) * sign(m))",
    "Adam * exp(m)",
    "g + drop(m, 0.3)",
    "drop(m, 0.1) * exp(g3)",
    "g - clip(g2, 1e-4)",
    "exp(g) - exp(m)",
    "drop(m, 0.3) * exp(1e-3w)",
)
"""The table of Bello, Zoph, Vasudevan & Le (2017), in its order."""
