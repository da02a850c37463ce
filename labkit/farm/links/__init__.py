"""The kernel's side of the network: namespaces, links, addresses, neighbours, and what each mistake does."""
