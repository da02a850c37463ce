"""Requests sent and counted: a load, its spread over the replicas, and what an outage cost."""
