"""Operations of the memory, one folder each: a plain torch reference, faster forms beside it, and the choice."""
