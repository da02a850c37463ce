"""Root file systems made smaller step by step: what leaves, why, and what is then no longer possible."""
