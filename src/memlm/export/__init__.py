"""A finished run as a model folder for others: weights, tokenizer, model card, and code that needs no memlm."""
