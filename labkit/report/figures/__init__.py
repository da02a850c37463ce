"""The report's figures: each is a function ``(lab, result, …) -> labkit.result.Figure``.

Each module here draws those of one stage, with :mod:`labkit.report.figures.style`; its functions
are imported below, so that a notebook says ``figures.package_sizes(lab, result)``.
"""
