"""The functions of the package's top level, a file for each kind of command.

Nothing is imported here or at the top of these files that takes time: a function imports what it
needs when it is called.
"""
