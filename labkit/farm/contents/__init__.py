"""What a root file system contains: every file of it with its owner, its kind and its weight.

``scan`` reads the files, ``database`` what dpkg knows of them, ``owners`` and ``kinds`` say whose
and what each one is, ``account`` adds up. All of them only read.
"""
