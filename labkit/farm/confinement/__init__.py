"""What a container may do: tried from inside, and compared with what others publish as their defaults."""
