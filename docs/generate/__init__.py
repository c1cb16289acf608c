"""Generate parts of the documentation from the program: what is written here cannot differ from what the program does.

    commands     the commands, from the parsers of their command lines
    interface    the varlink interface, from its definition
    python_api   the Python API, from its signatures and docstrings
    prose        plain text of docstrings and comments, as Markdown
    pages        the pages of docs/, with all of this in them

A page says where something goes with a line such as `<!-- generated: command via -->`.
"""
