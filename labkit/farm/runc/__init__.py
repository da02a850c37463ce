"""What runC is given: a bundle's configuration and overlay; and what its process looks like from outside."""
