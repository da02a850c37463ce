"""What the proxy is told and what it tells: its configuration, its workers and its access log."""
