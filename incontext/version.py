"""The library's version, where every row of the package may read it: it is written into the files that it makes."""

__version__ = "0.1.0"
