"""The commands of ``python -m sksubtomo``, one a file.

Each file has ``add``, which describes its arguments, and calls a function of the
package with them. A further command is a further file and a line in
``sksubtomo/cli.py``.
"""
