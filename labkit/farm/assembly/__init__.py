"""Root file systems put together from Debian's packages at once: fetched, unpacked side by side, configured in one pass."""
