"""What labkit asks of the kernel with no program between: system calls, network namespaces, netlink."""
