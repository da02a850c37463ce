"""The remarks of a page: where each stands, when it was made, and what became of it."""
