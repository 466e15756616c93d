"""Selection of the best slots of a product-key memory."""

from memlm.kernels.product_key_topk.reference import product_key_topk

__all__ = ["product_key_topk"]
