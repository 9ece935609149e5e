"""Operations written by hand. Those in Triton are imported where one is used, and only then: it isn't in every image."""
