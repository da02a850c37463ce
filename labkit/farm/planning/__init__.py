"""What a lab is to consist of, what is seen of it, and the ordered steps between the two. Pure."""
