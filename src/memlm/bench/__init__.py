"""Timings of layers, stages and training steps, on one device, beside those of others; see docs/performance.md.

`shapes`, `store`, `tables`, `figures` and `page` read and write records and never import torch.
"""
