"""Every tolerance of the tests. They are widened by decision, never to make a test pass."""

FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
"""Two orders of the same float32 sums, through a few layers."""

LOGITS = {"rtol": 1e-4, "atol": 2e-5}
"""Logits of a tiny model by two paths (cache, batch, mask)."""

GRADIENT = {"rtol": 1e-3, "atol": 1e-5}
"""Gradients of a tiny model by two paths."""

BFLOAT16 = {"rtol": 2e-2, "atol": 1e-2}
"""Losses and norms of a tiny model by two orders of the same sums in 16 bits, by which some reads become others."""

FLOPS = 0.01
"""Relative; counted against the formulas."""

GOLDEN = 1e-4
"""Relative; the same steps on another CPU, whose sums are rounded otherwise."""
