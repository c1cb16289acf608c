"""The documentation of nsbroker: its pages, and the code that generates parts of them from the program."""
