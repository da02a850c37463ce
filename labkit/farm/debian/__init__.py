"""Debian's side of a root file system: the archive, its packages, the variants and how each is built."""
