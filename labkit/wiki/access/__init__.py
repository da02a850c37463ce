"""Requests to a wiki: bounded in time and tries, with an error of its own for each refusal."""
