"""What a root file system contains: every file of it with its owner, its kind and its weight.

``scan`` reads the files, ``database`` what dpkg knows of them; ``owners`` (by ``rules``) and ``kinds``
say whose and what each one is, ``account`` adds up, ``reasons`` says why a package is there.
``difference`` and ``waterfall`` compare; ``layer`` measures what a root file system weighs when it
is packed, ``opened`` which of its files are used. All of them only read.
"""
