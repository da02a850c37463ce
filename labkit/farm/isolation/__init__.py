"""What replicas may send, and to whom: the lab's own tables of nftables, made before the first of them runs."""
