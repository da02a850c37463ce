"""The farm as it is looked at, and brought to what its Lab says, with the least that is needed."""
