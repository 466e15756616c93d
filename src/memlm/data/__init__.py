"""Text becomes tokens: corpora, the tokenizer, memory-mapped tokens, splits and a seekable order of sequences."""
