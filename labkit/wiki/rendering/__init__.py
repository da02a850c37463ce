"""What a notebook shows, as a tree of values, and the tree as wikitext. Pure."""
