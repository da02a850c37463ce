"""JupyterLab as the person who called sudo, and kernels that have root's rights, for as long as it runs."""
