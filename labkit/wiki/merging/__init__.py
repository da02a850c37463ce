"""A page that people and labkit write: its blocks, how they are merged, and how nothing is lost."""
