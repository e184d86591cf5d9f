"""`python -m mbflow` is the command line.

Example:
    >>> import importlib.util
    >>> importlib.util.find_spec("mbflow.__main__") is not None
    True
"""

from mbflow.cli import main

if __name__ == "__main__":
    main()
