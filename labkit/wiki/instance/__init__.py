"""One lab's own MediaWiki: unpacked, installed, configured, with its database and its accounts."""
