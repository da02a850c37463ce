"""Names and addresses: the zone, the question that asks for one, and who answers."""
